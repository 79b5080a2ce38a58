"""What can happen to a job, as a closed list. Logic emits; logs and metrics subscribe."""

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum


class Event(StrEnum):
    """The value is the log line's text. docs/events.md has a row for each."""

    SUBMITTED = "Job submitted"
    RECEIVED = "Job received"
    NOT_CLAIMED = "Job not claimed"
    PROCESSING = "Job marked as processing"
    COMPLETED = "Job completed"
    RETRIED = "Job retried"
    FAILED = "Job failed"
    RELEASED = "Job released"
    SNOOZED = "Job snoozed"
    DEFERRED = "Job deferred"
    RESCUED = "Job rescued"
    REFUSED = "Late verdict refused"
    INTERRUPTED = "Attempt interrupted"
    AMBIGUOUS = "Outcome unknown"
    CANCELLED = "Job cancelled"
    REDRIVEN = "Job redriven"
    PRUNED = "Jobs pruned"
    BREAKER_OPENED = "Breaker opened"
    BREAKER_CLOSED = "Breaker closed"
    NOT_PUBLISHED = "Message not published; the relay will publish it"
    QUARANTINED = "Undecodable message set aside"


Subscriber = Callable[[Event, dict[str, object]], None]

_subscribers: list[Subscriber] = []


def subscribe(subscriber: Subscriber) -> None:
    """Have `subscriber` called with every event of this process, in the thread in which it happens."""
    if subscriber not in _subscribers:
        _subscribers.append(subscriber)


def emit(event: Event, **facts: object) -> None:
    for subscriber in _subscribers:
        # What has happened has happened: a full disk under the log must not undo it.
        with suppress(Exception):
            subscriber(event, facts)
