"""One attempt at a job: a claim that a thread of this process works on."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dramatiq.middleware.threading import Interrupt

from jobs_service.errors import KnownUnavailable, server_name
from jobs_service.events import JobFacts
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.lifecycle import Claim
from jobs_service.observability import logs, tracing

#: The keyword argument that hands the attempt from `LifecycleSync` to the actor's function and back: Dramatiq passes
#: the message's `kwargs` to the function, and the message itself to every hook.
ATTEMPT_ARGUMENT = "running"


class Cancelled(Interrupt):
    """Raised in a job's code whose attempt has lost its lease: cancelled, or given to another worker."""


@dataclass(slots=True, repr=False)
class RunningAttempt:
    """A claim that is being worked on."""

    claim: Claim
    #: The result as JSON text, once the job's function has returned. It is kept here, not returned to Dramatiq, which
    #: logs a warning for each result unless its `Results` middleware is there to store it.
    result: str = "null"
    #: After so many seconds the time limit must have ended the attempt; if it has not, the thread hangs.
    limit_seconds: float = math.inf
    #: Confirms the lease and notes that the effect begins. Raises `LeaseLost`.
    begin_effect: Callable[[], None] = lambda: None
    effect_begun: bool = False
    #: Its lease is gone, and its worker knows: the job no longer waits for what this attempt does.
    is_cancelled: bool = False
    #: The job's function has ended; only the verdict is still to be written, however long PostgreSQL is away.
    has_returned: bool = False
    #: By the monotonic clock.
    started: float = field(default_factory=time.monotonic)

    def __repr__(self) -> str:
        """Return what Dramatiq's log lines show of a message's arguments. No fields: the claim holds the payload."""
        return f"<attempt {self.claim.attempts}>"

    @property
    def is_suspect(self) -> bool:
        """It was with a lost worker, and may have been the cause: it runs in a process of its own."""
        return self.claim.worker_losses > 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def age_seconds(self) -> float:
        """The time since the job was submitted; the claim knows how long that was when the attempt began."""
        return round(self.claim.age_seconds + self.seconds, 4)

    @property
    def facts(self) -> JobFacts:
        """What events and log lines say about it."""
        claim = self.claim
        return {
            "job_id": str(claim.job_id),
            "type": claim.type,
            "queue": claim.queue,
            "attempt": claim.attempts,
        }

    def ask(self, server: str) -> None:
        """Check that the attempt may ask a server. Raises `KnownUnavailable` while that is known to be away."""
        if server_name(server) in self.claim.away:
            raise KnownUnavailable(f"{server_name(server)} is away", server=server)


def begin(claim: Claim) -> RunningAttempt:
    """Return the attempt of a claim. From here on the thread's log lines and spans name it, and the job's request."""
    tracing.begin_attempt(claim.job_id, claim.type, claim.queue, claim.attempts, claim.traceparent)
    origin = Origin(claim.request_id, claim.traceparent or tracing.current())
    logs.bind(type=claim.type, queue=claim.queue, attempt=claim.attempts, **origin.fields)
    return RunningAttempt(claim)
