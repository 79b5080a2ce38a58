"""Runs a suspect, a job that was with a lost worker, in a process of its own: if it kills again, other jobs go on.

The worker's thread keeps the claim and the lease, waits, and has the verdict written. The other process reads the
claim from a file and sends lines of JSON (`ChildMessage`) through a pipe: when it is ready, when its effect is about to
begin, and how it ended. The thread answers the second with "go", through the process's stdin.
"""

import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from threading import BoundedSemaphore
from typing import IO, NoReturn

import msgspec
from dramatiq.middleware import TimeLimitExceeded

from jobs_service.errors import KnownUnavailable, LeaseLost, Snoozed, Unavailable
from jobs_service.jobs.failures import (
    IsolatedFailure,
    IsolatedInvalidRequest,
    IsolatedOutcomeUnknown,
    IsolatedRejected,
    ProcessLost,
)
from jobs_service.jobs.lifecycle import Failure
from jobs_service.jobs.notes import NotesState
from jobs_service.metrics import multiprocess
from jobs_service.worker.attempt import Cancelled, RunningAttempt

#: Milliseconds between two looks of the waiting thread at the clock.
_LOOK_MS = 100

#: Processes at a time in a worker process: after a kill all its jobs are suspects, and each process needs memory.
AT_A_TIME = 4

#: Seconds that a process may take until it is ready. Only then the job's time limit begins.
START_SECONDS = 60.0

_places = BoundedSemaphore(AT_A_TIME)

GO = b"go\n"

#: Kinds of message for what was raised in the process, and what is raised for it here.
STANDS_FOR: dict[str, type[IsolatedFailure]] = {
    "rejected": IsolatedRejected,
    "refused": IsolatedInvalidRequest,
    "ambiguous": IsolatedOutcomeUnknown,
    "failed": IsolatedFailure,
}


class ChildMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line from the attempt's process.

    Its kind: ready, notes, effect, completed, snoozed, unavailable, known_unavailable, lease_lost, or one of
    `STANDS_FOR`.
    """

    kind: str
    #: The result, as JSON text.
    result: str = "null"
    failure: Failure | None = None
    message: str = ""
    delay_seconds: float = 0
    server: str | None = None
    retry_after_seconds: float | None = None
    notes: NotesState | None = None


def run(running: RunningAttempt) -> str:
    """Run the attempt in a process of its own and return its result as JSON text.

    Raises what the job's code raised, or what stands for it; `ProcessLost` when the process ended without a message;
    `TimeLimitExceeded` by a clock of its own, which starts once the process is ready; and `Cancelled`.
    """
    limit_seconds, running.limit_seconds = running.limit_seconds, math.inf
    with _places, tempfile.TemporaryFile() as claim:
        claim.write(msgspec.json.encode(running.claim))
        claim.seek(0)
        return _run(running, claim.fileno(), limit_seconds)


def _run(running: RunningAttempt, claim: int, limit_seconds: float) -> str:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "jobs_service.worker.isolation.child", str(claim), str(writing), str(os.getpid())]
    with open(reading, "rb", buffering=0) as messages:  # noqa: PTH123 - a descriptor
        try:
            process = subprocess.Popen(  # noqa: S603 - no argument comes from outside
                command, stdin=subprocess.PIPE, pass_fds=[claim, writing], env=_environ(), start_new_session=True
            )
        finally:
            os.close(writing)
        try:
            return _result_of(running, process, messages, limit_seconds)
        finally:
            _end(process)


def _result_of(
    running: RunningAttempt, process: "subprocess.Popen[bytes]", messages: IO[bytes], limit_seconds: float
) -> str:
    clock = _Clock(running, START_SECONDS)
    for line in _lines(messages, clock):
        answer = msgspec.json.decode(line, type=ChildMessage)
        match answer.kind:
            case "completed":
                return answer.result
            case "ready":
                clock.begin(limit_seconds)
            case "effect":
                running.begin_effect()
                _send(process, GO)
            case "notes" if answer.notes is not None:
                running.notes.adopt(answer.notes)
            case _:
                _raise(answer)
    while (code := process.poll()) is None:
        clock.check()  # it has closed its pipe and goes on
        time.sleep(_LOOK_MS / 1000)
    raise ProcessLost(f"the process that the attempt had to itself ended: {_reason(code)}")


class _Clock:
    """Raises `TimeLimitExceeded` once the time is over, and `Cancelled` once the lease is gone."""

    def __init__(self, running: RunningAttempt, seconds: float) -> None:
        self._running = running
        self.begin(seconds)

    def begin(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    def check(self) -> None:
        if self._running.is_cancelled:
            raise Cancelled
        if time.monotonic() > self._ends_at:
            raise TimeLimitExceeded


def _send(process: "subprocess.Popen[bytes]", line: bytes) -> None:
    if process.stdin is None:
        raise ValueError("the process has no stdin")
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended, and the end of the other pipe will show it


def _lines(messages: IO[bytes], clock: _Clock) -> Iterator[bytes]:
    """Yield whole lines until the other end is closed."""
    readiness = select.poll()
    readiness.register(messages, select.POLLIN)
    unread = b""
    while True:
        clock.check()
        if not readiness.poll(_LOOK_MS):
            continue
        if not (piece := messages.read(65_536)):
            return
        *lines, unread = (unread + piece).split(b"\n")
        yield from lines


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _raise(answer: ChildMessage) -> NoReturn:
    if answer.kind == "snoozed":
        raise Snoozed(answer.message, delay_seconds=answer.delay_seconds)
    if answer.kind == "unavailable":
        raise Unavailable(answer.message, server=answer.server, retry_after_seconds=answer.retry_after_seconds)
    if answer.kind == "known_unavailable":
        raise KnownUnavailable(answer.message, server=answer.server)
    if answer.failure is None:
        raise LeaseLost(answer.message)
    raise STANDS_FOR[answer.kind](answer.failure)


def _environ() -> dict[str, str]:
    """Return an environment without the metrics' folder: this process counts for the other one."""
    return {name: value for name, value in os.environ.items() if name != multiprocess.VARIABLE}


def _reason(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
