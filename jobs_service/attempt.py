"""The attempt that the current worker thread is making: set by `LifecycleSync`, read by the actor around it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import local

from jobs_service import logs, tracing
from jobs_service.errors import KnownUnavailable, server_name
from jobs_service.lifecycle import Claim
from jobs_service.origin import Origin


@dataclass(slots=True)
class Running:
    """A claim that is being worked on."""

    claim: Claim
    #: The result as JSON text, once the job's function has returned.
    result: str = "null"
    #: After so many seconds the time limit must have ended the attempt; if it has not, the thread hangs.
    limit_seconds: float = math.inf
    #: Confirms the lease and notes that the effect begins. Raises `LeaseLost`.
    begin_effect: Callable[[], None] = lambda: None
    effect_begun: bool = False
    #: The job's function is through; only the verdict is yet to be written, however long PostgreSQL is away.
    has_returned: bool = False
    #: By the monotonic clock.
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _Thread(local):
    running: Running | None = None


_thread = _Thread()


def begin(claim: Claim) -> Running:
    """Make this the thread's attempt. From here on its log lines say which one, and who asked for the job."""
    tracing.begin_attempt(claim.job_id, claim.type, claim.queue, claim.attempts, claim.traceparent)
    origin = Origin(claim.request_id, claim.traceparent or tracing.current())
    logs.bind(type=claim.type, queue=claim.queue, attempt=claim.attempts, **origin.fields)
    _thread.running = Running(claim)
    return _thread.running


def current() -> Running:
    """Return this thread's attempt. Raises `LookupError` outside of one."""
    if _thread.running is None:
        raise LookupError("no attempt is running in this thread")
    return _thread.running


def ask(server: str) -> None:
    """Tell whether this thread's attempt may ask a server. Raises `KnownUnavailable` while it is known to be away."""
    if server_name(server) in current().claim.away:
        raise KnownUnavailable(f"{server_name(server)} is away", server=server)


def end() -> Running | None:
    """Forget this thread's attempt and return it; None if there was none."""
    running, _thread.running = _thread.running, None
    return running
