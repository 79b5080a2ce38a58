"""Job types that fail on purpose, for tests with real workers: loaded by ACTOR_MODULES=trying."""

import ctypes
import io
import logging
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import psycopg2
import structlog
from dramatiq.middleware import SkipMessage
from reports import Report

from jobs_service.errors import Rejected, Snoozed, Unavailable
from jobs_service.jobs.job_types import JobContext, job


@job("test-fail-times", payload=dict[str, Any])
def fail_times(payload: dict[str, Any], context: JobContext) -> int:
    """Fail the first `times` attempts; return the number of the one that did not."""
    if context.number <= payload["times"]:
        raise RuntimeError(f"attempt {context.number} fails, as asked")
    return context.number


class Amounts(msgspec.Struct, frozen=True):
    """Numbers, all but one of which are of a type that is said here."""

    exact: Decimal
    rough: float
    whole: int
    any: Any = None


@job("test-echo", payload=dict[str, Any] | list[Any])
def echo(payload: object, context: JobContext) -> object:  # noqa: ARG001
    return payload


@job("test-echo-decimals", payload=dict[str, Any] | list[Any], decimals=True)
def echo_decimals(payload: object, context: JobContext) -> object:  # noqa: ARG001
    return payload


@job("test-echo-amounts", payload=Amounts)
def echo_amounts(payload: Amounts, context: JobContext) -> Amounts:  # noqa: ARG001
    return payload


@job("test-log", payload=dict[str, Any])
def log(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    """Log as job types do, through structlog and through the standard module; fail the first attempt."""
    structlog.get_logger().info("Said through structlog")
    logging.getLogger(__name__).info("Said through logging")
    if context.number == 1:
        raise RuntimeError("attempt 1 fails, as asked")


@job("test-fail-while", payload=dict[str, Any])
def fail_while(payload: dict[str, Any], context: JobContext) -> None:
    """Log the `message`, and fail with it as long as there is a file `path`."""
    context.log.info(payload["message"])
    if Path(payload["path"]).exists():
        raise RuntimeError(payload["message"])


@job("test-reject", payload=dict[str, Any])
def reject(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    raise Rejected("no attempt will do")


@job("test-snooze", payload=dict[str, Any])
def snooze(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    raise Snoozed("not now", delay_seconds=payload["seconds"])


@job("test-unavailable", payload=dict[str, Any])
def unavailable(payload: dict[str, Any], context: JobContext) -> int:
    """Use a server that is away as long as the file `away` is there; append a line to `asked` each time."""
    context.ask(payload["server"])
    with Path(payload["asked"]).open("a") as asked:
        asked.write("asked\n")
    if Path(payload["away"]).exists():
        raise Unavailable("it is away", server=payload["server"], retry_after_seconds=payload.get("retry_after"))
    return context.number


@job("test-wait-for-file", payload=dict[str, Any], time_limit_seconds=60)
def wait_for_file(payload: dict[str, Any], context: JobContext) -> int:
    """Append the process id to `started`, then wait until the file `go` exists."""
    with Path(payload["started"]).open("a") as started:
        started.write(f"{os.getpid()} {context.number}\n")
    while not Path(payload["go"]).exists():
        time.sleep(0.02)
    return context.number


@job("test-compute", payload=dict[str, Any], time_limit_seconds=60)
def compute(payload: dict[str, Any], context: JobContext) -> int:
    """Create the file `started`, then compute in Python, without a pause, until the file `go` exists."""
    Path(payload["started"]).touch()
    total = 0
    while not Path(payload["go"]).exists():
        total += sum(number * number for number in range(20_000))
    return context.number


@job("test-one-at-a-time", payload=dict[str, Any], max_running=1)
def one_at_a_time(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    """Take so many seconds, in short pieces."""
    until = time.monotonic() + payload["seconds"]
    while time.monotonic() < until:
        time.sleep(0.02)


@job("test-die", payload=dict[str, Any])
def die(payload: dict[str, Any], context: JobContext) -> None:
    """End its own process, or ask for more than there is. `kill` is what the kernel's out-of-memory killer does."""
    match payload["how"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(1)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "memory":
            bytearray(2**60)
        case "recursion":
            die(payload, context)
        case unknown:
            raise ValueError(unknown)


@job("test-leave-a-child", payload=dict[str, Any])
def leave_a_child(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    """Start a program that would go on for an hour, and die."""
    child = subprocess.Popen(["sleep", "3600"])
    Path(payload["started"]).write_text(str(child.pid))
    os.kill(os.getpid(), signal.SIGKILL)


@job("test-unstorable", payload=dict[str, Any])
def unstorable(payload: dict[str, Any], context: JobContext) -> object:  # noqa: ARG001
    """Have the effect, and return what is no JSON."""
    context.begin_effect()
    return object()


@job("test-hang", payload=dict[str, Any], time_limit_seconds=1)
def hang(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    """Block in C, where an exception set for the thread is not seen. Say so first, in the file `started`, if given."""
    if "started" in payload:
        Path(payload["started"]).write_text(f"{os.getpid()}\n")
    time.sleep(3_600)


@job("test-hold-the-lock", payload=dict[str, Any], time_limit_seconds=1)
def hold_the_lock(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    """Have the regular expressions' C code run for ages, in which no other thread of Python does."""
    re.match(r"(a+)+$", "a" * 40 + "b")


@job("test-leak", payload=dict[str, Any])
def leak(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    """Leave every file descriptor that the process may have open, and fail for the want of one."""
    # Few enough to be quick.
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    while True:
        os.open(os.devnull, os.O_RDONLY)


@job("test-end-thread", payload=dict[str, Any], time_limit_seconds=60)
def end_thread(payload: dict[str, Any], context: JobContext) -> int:  # noqa: ARG001
    """End another thread of the process, as an error that it does not catch would. Takes `seconds` more."""
    [thread] = [thread for thread in threading.enumerate() if thread.name == payload["name"]]
    while thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        time.sleep(0.01)
    time.sleep(payload.get("seconds", 0))
    return os.getpid()


@job("test-copy", payload=dict[str, Any])
def copy(payload: dict[str, Any], context: JobContext) -> str:  # noqa: ARG001
    """Return what COPY writes, on a connection of the job's own."""
    written = io.StringIO()
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as connection, connection.cursor() as cursor:
        cursor.copy_expert("COPY (SELECT generate_series(1, 3)) TO STDOUT", written)
    return written.getvalue()


@job("test-fork", payload=dict[str, Any])
def fork(payload: dict[str, Any], context: JobContext) -> int:
    """Fork, and return in both processes, or end the child in another way. Its id is in the file `child`.

    With `crash` the first attempt kills its process, so that the next one has a process to itself.
    """
    if payload.get("crash") and context.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if (child := os.fork()) == 0:
        match payload["how"]:
            case "exit":
                sys.exit(0)
            case "raise":
                raise RuntimeError("raised in the child")
            case "begin":
                context.begin_effect()
        return 0
    with Path(payload["child"]).open("a") as file:
        file.write(f"{child}\n")
    os.waitpid(child, 0)
    return context.number


@job("test-children", payload=dict[str, Any])
def children(payload: dict[str, Any], context: JobContext) -> list[object]:  # noqa: ARG001
    """Use processes as job code may."""
    with multiprocessing.get_context(payload["method"]).Pool(2) as pool:
        squares = pool.map(square, [1, 2, 3])
    return [squares, subprocess.check_output(["echo", "done"], text=True)]


def square(number: int) -> int:
    return number * number


@job("test-loop", payload=dict[str, Any], time_limit_seconds=1)
def loop(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    while True:
        pass


@job("test-quote", payload=dict[str, Any])
def quote(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    """Fail with an exception that quotes the payload, from another that does too."""
    try:
        {}[payload["text"]]
    except KeyError as error:
        raise RuntimeError(f"cannot do {payload['text']}") from error


@job("test-skip", payload=dict[str, Any], max_attempts=1)
def skip(payload: dict[str, Any], context: JobContext) -> None:  # noqa: ARG001
    """Raise what only Dramatiq's middleware may raise."""
    raise SkipMessage("as asked")


@job("test-say", payload=dict[str, Any])
def say(payload: dict[str, Any], context: JobContext) -> None:
    """Log so many lines, and report the progress. If the file `crash` is not there, create it and die."""
    for number in range(payload["lines"]):
        context.log.info("Line said", number=number)
    for done in range(payload["total"] + 1):
        context.progress(done, payload["total"], "things")
    if "crash" in payload and not Path(payload["crash"]).exists():
        Path(payload["crash"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.get("fail"):
        raise RuntimeError("as asked")


@job("test-secret", payload=dict[str, Any], is_sensitive=True)
def keep_secret(payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Say what is in the payload, and return it."""
    context.log.info(payload["secret"])
    context.progress(1, 2, payload["secret"])
    return payload


@job(
    "test-report",
    payload=Report,
    example={"title": "Sales", "pages": 12, "paper": "A4", "recipients": ["alice@example.com"], "margins": {"top": 2}},
)
def report(payload: Report, context: JobContext) -> Report:  # noqa: ARG001
    """Write a report."""
    return payload


@job("test-narrate", payload=dict[str, Any], time_limit_seconds=60)
def narrate(payload: dict[str, Any], context: JobContext) -> None:
    """Say that the first of two steps is done, then wait until the file `go` exists."""
    context.log.warning("First step done", step=1)
    context.progress(1, 2, "steps")
    while not Path(payload["go"]).exists():
        time.sleep(0.02)
