"""The attempts of this process: the one that a thread is making, and how another thread interrupts one."""

import ctypes
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from threading import Lock, get_ident, local
from typing import TypeVar
from uuid import UUID

from dramatiq.middleware.threading import Interrupt, raise_thread_exception

from jobs_service.errors import KnownUnavailable, server_name
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.lifecycle import Claim
from jobs_service.observability import logs, tracing

T = TypeVar("T")


class Cancelled(Interrupt):
    """Raised in a job's code whose attempt has lost its lease: cancelled, or given to another worker."""


@dataclass(slots=True)
class RunningAttempt:
    """A claim that is being worked on."""

    claim: Claim
    #: The result as JSON text, once the job's function has returned.
    result: str = "null"
    #: After so many seconds the time limit must have ended the attempt; if it has not, the thread hangs.
    limit_seconds: float = math.inf
    #: Confirms the lease and notes that the effect begins. Raises `LeaseLost`.
    begin_effect: Callable[[], None] = lambda: None
    effect_begun: bool = False
    #: Its lease is gone, as its worker has learnt: whatever it still does, nobody waits for it.
    is_cancelled: bool = False
    #: The job's function is through; only the verdict is yet to be written, however long PostgreSQL is away.
    has_returned: bool = False
    #: By the monotonic clock.
    started: float = field(default_factory=time.monotonic)

    @property
    def is_suspect(self) -> bool:
        """It was with a lost worker, and may have been what killed it: it has a process to itself."""
        return self.claim.worker_losses > 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _Thread(local):
    running: RunningAttempt | None = None


_thread = _Thread()


def begin(claim: Claim) -> RunningAttempt:
    """Make this the thread's attempt. From here on its log lines say which one, and who asked for the job."""
    tracing.begin_attempt(claim.job_id, claim.type, claim.queue, claim.attempts, claim.traceparent)
    origin = Origin(claim.request_id, claim.traceparent or tracing.current())
    logs.bind(type=claim.type, queue=claim.queue, attempt=claim.attempts, **origin.fields)
    _thread.running = RunningAttempt(claim)
    return _thread.running


def current() -> RunningAttempt:
    """Return this thread's attempt. Raises `LookupError` outside of one."""
    if _thread.running is None:
        raise LookupError("no attempt is running in this thread")
    return _thread.running


def ask(server: str) -> None:
    """Tell whether this thread's attempt may ask a server. Raises `KnownUnavailable` while it is known to be away."""
    if server_name(server) in current().claim.away:
        raise KnownUnavailable(f"{server_name(server)} is away", server=server)


def end() -> RunningAttempt | None:
    """Forget this thread's attempt and return it; None if there was none."""
    running, _thread.running = _thread.running, None
    with _lock:
        _interruptible.pop(get_ident(), None)
    return running


#: The attempts whose code runs, by thread. Under the lock, so that none is interrupted a moment too late, in a hook.
_interruptible: dict[int, RunningAttempt] = {}
_lock = Lock()


def interruptible(running: RunningAttempt, function: Callable[[], T]) -> T:
    """Return what `function` returns, or raise what it raises; or `Cancelled`, once the lease is known to be gone."""
    with _lock:
        _interruptible[get_ident()] = running
    try:
        return function()
    finally:
        _leave()


def _leave() -> None:
    while True:
        try:
            with _lock:
                _interruptible.pop(get_ident(), None)
            # Behind the lock, the exception has either been raised in this thread or never will be.
            withdraw_exception()
        except Interrupt:
            continue  # the code had just ended: its own outcome counts
        return


def held() -> dict[UUID, UUID]:
    """Return the leases under which code runs, each with its job's id."""
    with _lock:
        return {running.claim.token: running.claim.job_id for running in _interruptible.values()}


def leave_alone() -> None:
    """Interrupt no attempt any more: this process ends, and gives its leases back itself."""
    with _lock:
        _interruptible.clear()


def cancel(leases: Collection[UUID]) -> None:
    """Interrupt the attempts that had these leases, each once.

    A suspect is not: the thread that waits for its process looks whether it is cancelled, and ends the process.
    """
    with _lock:
        for thread_id, running in _interruptible.items():
            if running.claim.token in leases and not running.is_cancelled:
                running.is_cancelled = True
                if not running.is_suspect:
                    raise_thread_exception(thread_id, Cancelled)


def withdraw_exception() -> None:
    """Withdraw an exception that was set for this thread and not yet raised (PyThreadState_SetAsyncExc with NULL)."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(get_ident()), None)
