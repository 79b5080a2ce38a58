"""The attempts that a worker process makes: one, and the set of all, through which a thread interrupts another's."""

import ctypes
import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from threading import Lock, get_ident
from typing import TypeVar
from uuid import UUID

from dramatiq.broker import MessageProxy
from dramatiq.middleware.threading import Interrupt, raise_thread_exception

from jobs_service.errors import KnownUnavailable, server_name
from jobs_service.events import EndFacts, JobFacts
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.lifecycle import Claim
from jobs_service.jobs.notes import AttemptNotes
from jobs_service.observability import logs, tracing
from jobs_service.worker.begun import BegunAttempts

T = TypeVar("T")

#: The keyword argument that hands the attempt from `Claims` to the actor's function and on to `LifecycleSync`: Dramatiq
#: passes the message's `kwargs` to the function, and the message itself to every hook.
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
    #: When it was claimed, by the monotonic clock.
    claimed_at: float = field(default_factory=time.monotonic)
    #: When its thread began with it; None while it waits for the thread.
    started_at: float | None = None
    #: When the job's function ended; only the verdict is still to be written, however long PostgreSQL is away.
    returned_at: float | None = None
    #: What events and log lines say about it.
    facts: JobFacts = field(init=False)
    #: What its code says.
    notes: AttemptNotes = field(init=False)

    def __post_init__(self) -> None:
        claim = self.claim
        self.facts = {
            "job_id": str(claim.job_id),
            "type": claim.type,
            "queue": claim.queue,
            "attempt": claim.attempts,
        }
        self.notes = AttemptNotes(
            claim.job_id, claim.token, attempt=claim.attempts, job_type=claim.type, queue=claim.queue
        )

    def __repr__(self) -> str:
        """Return what Dramatiq's log lines show of a message's arguments. No fields: the claim holds the payload."""
        return f"<attempt {self.claim.attempts}>"

    @property
    def is_suspect(self) -> bool:
        """It was with a lost worker, and may have been the cause: it runs in a process of its own."""
        return self.claim.worker_losses > 0

    @property
    def has_returned(self) -> bool:
        return self.returned_at is not None

    @property
    def seconds(self) -> float:
        """How long the job's function has run, or ran; 0 if it has not begun."""
        if self.started_at is None:
            return 0.0
        return (self.returned_at or time.monotonic()) - self.started_at

    @property
    def age_seconds(self) -> float:
        """The time since the job was submitted; the claim knows how long that was when it was claimed."""
        return round(self.claim.age_seconds + time.monotonic() - self.claimed_at, 4)

    @property
    def end_facts(self) -> EndFacts:
        """The same for an event that ends it now."""
        return {**self.facts, "seconds": round(self.seconds, 4)}

    def attach_to(self, message: MessageProxy) -> None:
        """Hand the attempt over with its message. `attempt_of` takes it back."""
        message.kwargs[ATTEMPT_ARGUMENT] = self

    def begin(self) -> None:
        """Begin the attempt in this thread. From here on its log lines and spans name it, and the job's request."""
        claim = self.claim
        self.started_at = time.monotonic()
        tracing.begin_attempt(claim.job_id, claim.type, claim.queue, claim.attempts, claim.traceparent)
        origin = Origin(claim.request_id, claim.traceparent or tracing.current())
        logs.bind(type=claim.type, queue=claim.queue, attempt=claim.attempts, **origin.fields)

    def ask(self, server: str) -> None:
        """Check that the attempt may ask a server. Raises `KnownUnavailable` while that is known to be away."""
        if server_name(server) in self.claim.away:
            raise KnownUnavailable(f"{server_name(server)} is away", server=server)


def attempt_of(message: MessageProxy) -> RunningAttempt | None:
    """Take the attempt off its message and return it; None where there is none."""
    running: RunningAttempt | None = message.kwargs.pop(ATTEMPT_ARGUMENT, None)
    return running


class RunningAttempts:
    """The attempts of this process by lease token, from the claim until the verdict is written. Thread-safe."""

    def __init__(self, begun: BegunAttempts | None = None) -> None:
        self.begun = begun or BegunAttempts()
        self._by_token: dict[UUID, RunningAttempt] = {}
        #: The attempts whose code runs, by thread. Under the lock, so that no interrupt comes too late, in a hook.
        self._interruptible: dict[int, RunningAttempt] = {}
        self._lock = Lock()

    def __iter__(self) -> Iterator[RunningAttempt]:
        """Iterate over the attempts of this moment, whatever begins or ends meanwhile."""
        return iter(list(self._by_token.values()))

    def add(self, running: RunningAttempt) -> None:
        self._by_token[running.claim.token] = running

    def begin(self, running: RunningAttempt) -> None:
        """Begin an attempt in this thread."""
        # First, so that a process which ends after this is known to have begun with it.
        self.begun.add(running.claim.token)
        running.begin()

    def remove(self, running: RunningAttempt) -> None:
        self._by_token.pop(running.claim.token, None)
        self.begun.discard(running.claim.token)

    def tokens(self) -> list[UUID]:
        return list(self._by_token)

    def interruptible(self, running: RunningAttempt, function: Callable[[], T]) -> T:
        """Return what `function` returns or raise what it raises; raise `Cancelled` once the lease is known to be gone.

        To be called in the thread that makes the attempt.
        """
        with self._lock:
            self._interruptible[get_ident()] = running
        try:
            return function()
        finally:
            self._leave()

    def returned(self, running: RunningAttempt) -> None:
        """Note that the job's function has ended: interrupt nothing in this thread any more."""
        # It was taken off the list when its function ended, unless an interrupt hit `_leave` before its first line.
        with self._lock:
            self._interruptible.pop(get_ident(), None)
        running.returned_at = time.monotonic()

    def held(self) -> dict[UUID, UUID]:
        """Return the leases under which code runs, each with its job's id."""
        with self._lock:
            return {running.claim.token: running.claim.job_id for running in self._interruptible.values()}

    def leave_alone(self) -> None:
        """Interrupt no attempt any more: this process ends, and releases its leases itself."""
        with self._lock:
            self._interruptible.clear()

    def cancel(self, leases: Collection[UUID]) -> None:
        """Interrupt the attempts that had these leases, each once.

        A suspect is not interrupted: the thread that waits for its process sees `is_cancelled` and ends the process.
        """
        with self._lock:
            for thread_id, running in self._interruptible.items():
                if running.claim.token in leases and not running.is_cancelled:
                    running.is_cancelled = True
                    if not running.is_suspect:
                        raise_thread_exception(thread_id, Cancelled)

    def _leave(self) -> None:
        while True:
            try:
                with self._lock:
                    self._interruptible.pop(get_ident(), None)
                # Behind the lock, the exception has either been raised in this thread or never will be.
                withdraw_exception()
            except Interrupt:
                continue  # the code had just ended: its own outcome counts
            return


def withdraw_exception() -> None:
    """Withdraw an exception that was set for this thread and not yet raised (PyThreadState_SetAsyncExc with NULL)."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(get_ident()), None)
