"""The verdict on an attempt: what becomes of its job. A pure decision; `settler.py` writes it."""

import math
from dataclasses import dataclass
from typing import ClassVar

from dramatiq.middleware.threading import Interrupt

from jobs_service.errors import InvalidRequest, KnownUnavailable, OutcomeUnknown, Rejected, Snoozed, Unavailable
from jobs_service.jobs.failures import MESSAGE_KEPT, ProcessBroken, ProcessLost, failure_of, storable
from jobs_service.jobs.lifecycle import EndReason, Failure, OnAmbiguous
from jobs_service.worker.attempt import RunningAttempt

#: The longest delay of one snooze or deferral.
MAX_SNOOZE_SECONDS = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Complete:
    """The attempt returned."""

    #: The verb of `lifecycle.py` that writes this verdict; a label of the metrics.
    operation: ClassVar[str] = "complete"
    result: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed and is not the last."""

    operation: ClassVar[str] = "retry"
    failure: Failure
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """The attempt failed and is the last."""

    operation: ClassVar[str] = "fail"
    failure: Failure
    reason: EndReason


@dataclass(frozen=True, slots=True)
class Snooze:
    """The job's code put the job off. The attempt does not count."""

    operation: ClassVar[str] = "snooze"
    message: str
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Defer:
    """The attempt found a server away, or was not to ask it. It does not count."""

    operation: ClassVar[str] = "defer"
    failure: Failure
    server: str | None
    is_tried: bool
    retry_after_seconds: float | None


@dataclass(frozen=True, slots=True)
class Crash:
    """The attempt killed its own process, in which nothing else ran."""

    operation: ClassVar[str] = "crash"
    message: str
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Abandon:
    """The process of the attempt is broken, by whatever ran in it."""

    operation: ClassVar[str] = "abandon"
    message: str


Verdict = Complete | Retry | Fail | Snooze | Defer | Crash | Abandon


def decide(running: RunningAttempt, exception: BaseException | None, *, retry_seconds: float | None) -> Verdict:
    """Decide what becomes of a job after an attempt. `retry_seconds` is the backoff; None: it was the last attempt."""
    if exception is None:
        return Complete(running.result)
    if isinstance(exception, ProcessLost):
        return Crash(str(exception), retry_seconds or 0.0)
    if uncounted := _uncounted(running, exception):
        return uncounted
    failure = failure_of(exception, running.seconds, is_ambiguous=_is_ambiguous(running, exception))
    if reason := _reason_to_fail(running, exception, failure, is_last=retry_seconds is None):
        return Fail(failure, reason)
    return Retry(failure, retry_seconds or 0.0)


def _uncounted(running: RunningAttempt, exception: BaseException) -> Verdict | None:
    """Return the verdict on an attempt that does not count, or None if it does."""
    match exception:
        case Snoozed():
            return Snooze(storable(str(exception), MESSAGE_KEPT), _bounded_delay(exception.delay_seconds))
        case Unavailable():
            return _deferral(running, exception)
        case ProcessBroken():
            return Abandon(storable(str(exception), MESSAGE_KEPT))
    return None


def _deferral(running: RunningAttempt, exception: Unavailable) -> Defer:
    delay_seconds = exception.retry_after_seconds
    return Defer(
        failure_of(exception, running.seconds),
        server=exception.server,
        is_tried=not isinstance(exception, KnownUnavailable),
        retry_after_seconds=None if delay_seconds is None else _bounded_delay(delay_seconds),
    )


def _bounded_delay(seconds: float) -> float:
    """Return a delay that PostgreSQL's dates can hold: a job's code may name any number."""
    return min(max(seconds, 0.0), MAX_SNOOZE_SECONDS) if math.isfinite(seconds) else MAX_SNOOZE_SECONDS


def _reason_to_fail(
    running: RunningAttempt, exception: BaseException, failure: Failure, *, is_last: bool
) -> EndReason | None:
    if failure.is_ambiguous and running.claim.on_ambiguous == OnAmbiguous.HOLD:
        return EndReason.AMBIGUOUS
    if isinstance(exception, Rejected):
        return EndReason.REJECTED
    if isinstance(exception, InvalidRequest):
        return EndReason.INVALID_PAYLOAD
    return EndReason.ATTEMPTS_EXHAUSTED if is_last else None


def _is_ambiguous(running: RunningAttempt, exception: BaseException) -> bool:
    """Return whether the effect may have happened: the code says so, or was interrupted after its effect began."""
    return isinstance(exception, OutcomeUnknown) or (running.effect_begun and isinstance(exception, Interrupt))
