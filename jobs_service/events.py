"""What can happen to a job, as a closed list of classes. Logic emits; logs, metrics and traces subscribe.

An event's fields are its facts; docs/events.md has a row for each class. Values are those of the log line: ids are
text, times are seconds. A fact with a default of None does not always apply; where it is None, the line is without it.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Literal, TypedDict

import msgspec


class JobFacts(TypedDict):
    """What most events say about a job. Spread it into the event: `JobCompleted(**facts, seconds=0.5, …)`."""

    job_id: str
    type: str
    queue: str
    attempt: int


class EndFacts(JobFacts):
    """The same at the end of an attempt, with the seconds it took."""

    seconds: float


class BulkFacts(TypedDict):
    """What the events of an action on many jobs say about it."""

    action_id: str
    kind: str


# Structs, because several are made for each job: a frozen dataclass takes three times as long to make.
class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all events have in common."""

    #: The log line's text.
    text: ClassVar[str]


class JobEvent(Event, frozen=True, kw_only=True):
    """An event of a job. `attempt` counts from 1; it is 0 where none has begun."""

    job_id: str
    type: str
    queue: str
    attempt: int


class JobSubmitted(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job submitted"
    job_id: str
    type: str
    queue: str


class JobReceived(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job received"
    job_id: str
    type: str


class JobNotClaimed(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job not claimed"
    job_id: str
    type: str
    queue: str


class JobProcessing(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job marked as processing"
    waited_seconds: float


class JobCompleted(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job completed"
    seconds: float
    age_seconds: float


class JobRetried(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job retried"
    seconds: float
    error: str
    delay_seconds: float


class JobFailed(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job failed"
    #: None where no attempt ended: the job expired, its worker was lost, or no worker knows its type.
    seconds: float | None = None
    error: str
    reason: str
    #: None where the job failed without an attempt that ended.
    age_seconds: float | None = None


class JobReleased(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job released"
    seconds: float


class JobSnoozed(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job snoozed"
    seconds: float
    delay_seconds: float


class JobDeferred(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job deferred"
    seconds: float
    error: str
    server: str | None
    delay_seconds: float


class JobRescued(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job rescued"
    worker_id: str


class VerdictRefused(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Late verdict refused"


class AttemptInterrupted(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Attempt interrupted"
    seconds: float


class AttemptAmbiguous(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Outcome unknown"
    policy: str


class JobCancelled(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job cancelled"


class JobChanged(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job changed"
    job_id: str
    type: str
    queue: str
    #: The names of the fields, separated by commas.
    changed: str


class JobDiscarded(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Dead letter discarded"
    by: str


class JobRedriven(JobEvent, frozen=True, kw_only=True):
    text: ClassVar[str] = "Job redriven"


class BulkActionStarted(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Bulk action started"
    action_id: str
    #: redrive, discard or cancellation.
    kind: str
    jobs: int
    by: str


class BulkActionEnded(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Bulk action ended"
    action_id: str
    kind: str
    state: str
    moved: int
    skipped: int


class ErrorGroupDecided(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Error group decided"
    group_id: str
    state: str
    by: str


class QueuePaused(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Queue paused"
    queue: str
    by: str


class QueueResumed(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Queue resumed"
    queue: str
    by: str


class JobsPruned(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Jobs pruned"
    status: str
    jobs: int


class BreakerOpened(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Breaker opened"
    breaker: str


class BreakerClosed(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Breaker closed"
    breaker: str


class MessageNotPublished(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Message not published; the relay will publish it"
    queue: str
    error: str


class MessageQuarantined(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Undecodable message set aside"
    queue: str
    key: str
    bytes: int


class SubscriberFailed(Event, frozen=True, kw_only=True):
    text: ClassVar[str] = "Event subscriber failed"
    subscriber: str
    error: str


Subscriber = Callable[[Event], None]

#: What events are turned into, which names those that do it: a label of a metric.
SubscriberName = Literal["logs", "metrics", "tracing"]

_subscribers: list[tuple[SubscriberName, Subscriber]] = []


def subscribe(name: SubscriberName, subscriber: Subscriber) -> None:
    """Have `subscriber` called with every event of this process, in the thread in which it happens."""
    if (name, subscriber) not in _subscribers:
        _subscribers.append((name, subscriber))


def emit(event: Event) -> None:
    """Call every subscriber with the event. What a subscriber raises goes to all of them as `SubscriberFailed`."""
    for name, subscriber in _subscribers:
        try:
            subscriber(event)
        except Exception as error:  # noqa: BLE001 - what has happened has happened: no subscriber may undo it
            _announce_failure(name, error)


def _announce_failure(name: SubscriberName, error: Exception) -> None:
    failed = SubscriberFailed(subscriber=name, error=type(error).__name__)
    for _, subscriber in _subscribers:
        # The one that failed gets it too: it may fail at a single kind of event. What it raises now is not announced.
        with suppress(Exception):
            subscriber(failed)
