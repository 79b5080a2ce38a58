"""Runs a suspect, a job that was with a lost worker, in a process of its own: if it kills again, it kills nobody else.

The worker's thread keeps the claim, the lease and the verdict, and waits. Its words with the other process are lines of
JSON through two pipes: the claim there, `Told` back; and "go" there, when the other has asked whether its effect may
begin.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, NoReturn

import msgspec

from jobs_service.attempt import Running
from jobs_service.errors import LeaseLost, Snoozed
from jobs_service.failures import (
    IsolatedDoubt,
    IsolatedFailure,
    IsolatedRefusal,
    IsolatedRejection,
    ProcessLost,
)
from jobs_service.lifecycle import Failure
from jobs_service.metrics import multiprocess

#: Short, because a time limit interrupts the waiting thread between two looks.
_LOOK_MS = 100

GO = b"go\n"

#: What was raised there, by name, and what stands for it here.
STANDS_FOR: dict[str, type[IsolatedFailure]] = {
    "rejected": IsolatedRejection,
    "refused": IsolatedRefusal,
    "ambiguous": IsolatedDoubt,
    "failed": IsolatedFailure,
}


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line from the attempt's process. `kind`: effect, completed, snoozed, or a key of `STANDS_FOR`."""

    kind: str
    #: The result, as JSON text.
    result: str = "null"
    failure: Failure | None = None
    message: str = ""
    delay_seconds: float = 0


def run(running: Running) -> str:
    """Run the attempt in a process of its own and return its result as JSON text.

    Raises what the job's code raised, or what stands for it; `ProcessLost` when the process ended without a word.
    """
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "jobs_service.isolated", str(writing), str(os.getpid())]
    with open(reading, "rb", buffering=0) as told:  # noqa: PTH123 - a descriptor
        try:
            process = subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
                command, stdin=subprocess.PIPE, pass_fds=[writing], env=_environ(), start_new_session=True
            )
        finally:
            os.close(writing)
        try:
            return _conversation(running, process, told)
        finally:
            _end(process)


def _conversation(running: Running, process: "subprocess.Popen[bytes]", told: IO[bytes]) -> str:
    _say(process, msgspec.json.encode(running.claim) + b"\n")
    for line in _lines(told):
        answer = msgspec.json.decode(line, type=Told)
        if answer.kind == "completed":
            return answer.result
        if answer.kind != "effect":
            _raise(answer)
        running.begin_effect()
        _say(process, GO)
    while (code := process.poll()) is None:
        time.sleep(_LOOK_MS / 1000)  # it has closed its pipe, and a time limit may have to end it
    raise ProcessLost(f"the process that the attempt had to itself ended: {_reason(code)}")


def _say(process: "subprocess.Popen[bytes]", line: bytes) -> None:
    if process.stdin is None:
        raise ValueError("the process has no stdin")
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended, and the other pipe will say so


def _lines(told: IO[bytes]) -> Iterator[bytes]:
    """Yield whole lines until the other end is closed."""
    readiness = select.poll()
    readiness.register(told, select.POLLIN)
    unread = b""
    while True:
        if not readiness.poll(_LOOK_MS):
            continue
        if not (piece := told.read(65_536)):
            return
        *lines, unread = (unread + piece).split(b"\n")
        yield from lines


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End it and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _raise(answer: Told) -> NoReturn:
    if answer.kind == "snoozed":
        raise Snoozed(answer.message, delay_seconds=answer.delay_seconds)
    if answer.failure is None:
        raise LeaseLost(answer.message)
    raise STANDS_FOR[answer.kind](answer.failure)


def _environ() -> dict[str, str]:
    """Return an environment without the metrics' folder: what it would count there is counted here."""
    return {name: value for name, value in os.environ.items() if name != multiprocess.VARIABLE}


def _reason(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
