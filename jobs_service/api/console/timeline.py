"""What a job spent its time with, as parts of a line that the server draws."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from jobs_service.api.console.attempts import Attempt, Outcome
from jobs_service.api.console.formats import duration, parsed
from jobs_service.jobs.lifecycle import Status
from jobs_service.jobs.representation import Job

#: Per cent of the line: a part is drawn to scale if every part is at least as wide.
_LEAST_TO_SCALE = 1.0
#: Else none is narrower than this, or than its share of what all may have together.
_LEAST, _LEAST_OF_ALL, _LEAST_TOGETHER = 0.4, 1.5, 40.0

#: The width from which on a part has its attempt's number in it.
_LEAST_WITH_NUMBER = 4.0


class Kind(StrEnum):
    """What a part of the time went by with; the name of its class in the style sheet."""

    SCHEDULED = "scheduled"
    WAITING = "waiting"
    PAUSE = "pause"
    DEFERRAL = "deferral"
    #: It had ended, until a person had it run again.
    ENDED = "ended"
    OMITTED = "omitted"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GIVEN_BACK = "given-back"


_OF_OUTCOME = {
    Outcome.RUNNING: Kind.RUNNING,
    Outcome.COMPLETED: Kind.COMPLETED,
    Outcome.FAILED: Kind.FAILED,
    Outcome.LOST: Kind.FAILED,
    Outcome.CANCELLED: Kind.CANCELLED,
    Outcome.DEFERRED: Kind.DEFERRAL,
    Outcome.GIVEN_BACK: Kind.GIVEN_BACK,
}

#: What the legend calls each kind.
NAMES = {
    Kind.SCHEDULED: "not due",
    Kind.WAITING: "waiting",
    Kind.PAUSE: "pause before a retry",
    Kind.DEFERRAL: "waiting for a server",
    Kind.ENDED: "ended, then run again",
    Kind.OMITTED: "not kept",
    Kind.RUNNING: "running",
    Kind.COMPLETED: "completed",
    Kind.FAILED: "failed",
    Kind.CANCELLED: "cancelled",
    Kind.GIVEN_BACK: "given back",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the line."""

    kind: Kind
    start: datetime
    seconds: float
    #: The attempt, if it is one.
    attempt: Attempt | None = None
    #: How many attempts it stands for that are not kept.
    omitted: int = 0

    @property
    def words(self) -> str:
        """What happened, in words."""
        time = duration(self.seconds)
        if self.attempt is not None:
            return _of_attempt(self.attempt, time)
        return {
            Kind.SCHEDULED: f"Not due for {time}",
            Kind.WAITING: f"Waited {time} for a worker",
            Kind.PAUSE: f"Paused {time} before the next attempt",
            Kind.DEFERRAL: f"Waited {time} for a server",
            Kind.ENDED: f"Had ended for {time}, then was run again",
            Kind.OMITTED: f"{self.omitted:,} further attempts in {time}, which are not kept",
        }[self.kind]


def _of_attempt(attempt: Attempt, time: str) -> str:
    name = f"Attempt {attempt.number}"
    return {
        Outcome.RUNNING: f"{name} has been running for {time}",
        Outcome.COMPLETED: f"{name} completed after {time}",
        Outcome.FAILED: f"{name} failed after {time}",
        Outcome.CANCELLED: f"{name} was cancelled after {time}",
        Outcome.LOST: f"{name} was lost with its worker after {time}",
        Outcome.DEFERRED: f"{name} found a server unavailable after {time}",
        Outcome.GIVEN_BACK: f"{name} was given back or put off",
    }[attempt.outcome]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A part and its place, in per cent of the line."""

    part: Part
    x: float
    width: float

    @property
    def middle(self) -> float:
        return round(self.x + self.width / 2, 2)

    @property
    def number(self) -> int | None:
        """The attempt's number, where there is room for it."""
        return self.part.attempt.number if self.part.attempt and self.width >= _LEAST_WITH_NUMBER else None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The line."""

    start: datetime
    end: datetime
    is_to_scale: bool
    drawn: Sequence[Drawn]

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of its parts, in the order in which they come first."""
        return list(dict.fromkeys(each.part.kind for each in self.drawn))


def timeline(job: Job, attempts: Sequence[Attempt], now: datetime) -> Timeline:
    """Return the time from the job's submission to its end, or to now."""
    start = parsed(job.created_at)
    end = max(start, parsed(job.finished_at) if job.finished_at else now)
    parts = _parts(job, [each for each in attempts if each.started_at is not None], start, end)
    widths, is_to_scale = _widths([part.seconds for part in parts])
    places = [sum(widths[:index]) for index in range(len(widths))]
    drawn = [Drawn(part, round(x, 2), round(width, 2)) for part, x, width in zip(parts, places, widths, strict=True)]
    return Timeline(start, end, is_to_scale, drawn)


def _parts(job: Job, attempts: Sequence[Attempt], start: datetime, end: datetime) -> list[Part]:
    parts: list[Part] = []
    before: Attempt | None = None
    at = start
    for attempt in attempts:
        begins = min(end, attempt.started_at or at)
        is_last = attempt is attempts[-1] and attempt.outcome in {Outcome.RUNNING, Outcome.COMPLETED}
        parts += _gap(job, before, attempt, at, begins, knows_due=is_last)
        at = max(at, begins)
        ends = min(end, attempt.ended_at or (end if attempt.outcome is Outcome.RUNNING else begins))
        parts.append(Part(_OF_OUTCOME[attempt.outcome], at, max(0.0, (ends - at).total_seconds()), attempt))
        at, before = max(at, ends), attempt
    if before is None or _has_waited_after(job, before):
        return parts + _gap(job, before, None, at, end, knows_due=True)
    last = parts[-1]
    # Until the verdict was committed.
    return [*parts[:-1], replace(last, seconds=last.seconds + (end - at).total_seconds())]


def _has_waited_after(job: Job, attempt: Attempt) -> bool:
    """Tell whether the job has waited, or waits, after its last attempt."""
    if job.status in {Status.PENDING, Status.PROCESSING}:
        return attempt.outcome is not Outcome.RUNNING
    return parsed(job.run_at) > (attempt.started_at or parsed(job.run_at))


def _gap(
    job: Job, before: Attempt | None, after: Attempt | None, start: datetime, end: datetime, *, knows_due: bool
) -> list[Part]:
    """Return what lies between two attempts. Only of the last such time the row knows when it was due (`knows_due`)."""
    if after is not None and after.omitted_before:
        return _cut([(Kind.OMITTED, end)], start, omitted=after.omitted_before)
    due = min(end, max(start, parsed(job.run_at))) if knows_due else None
    first = _first_kind(job, before, after)
    if due is None:
        return _cut([(first, end)], start)
    deferred_at = parsed(job.deferred_since) if job.deferred_since else None
    if deferred_at and start < deferred_at < due:
        return _cut([(first, deferred_at), (Kind.DEFERRAL, due), (Kind.WAITING, end)], start)
    return _cut([(first, due), (Kind.WAITING, end)], start)


def _first_kind(job: Job, before: Attempt | None, after: Attempt | None) -> Kind:
    """Return with what the time after an attempt, or after the submission, begins."""
    if before is None:
        return (
            Kind.SCHEDULED if after is None or after.outcome in {Outcome.RUNNING, Outcome.COMPLETED} else Kind.WAITING
        )
    if before.outcome is Outcome.DEFERRED:
        return Kind.DEFERRAL
    next_number = job.attempts + 1 if after is None else after.number
    if before.is_counted and next_number <= before.number:
        return Kind.ENDED
    return Kind.PAUSE if before.is_counted else Kind.WAITING


def _cut(kinds: Sequence[tuple[Kind, datetime]], start: datetime, *, omitted: int = 0) -> list[Part]:
    """Return parts that follow each other, each with its end, without those that took no time."""
    parts = []
    for kind, end in kinds:
        seconds = (end - start).total_seconds()
        if seconds >= 0.001:  # noqa: PLR2004 - the API's times have milliseconds
            parts.append(Part(kind, start, seconds, omitted=omitted))
            start = end
    return parts


def _widths(seconds: Sequence[float]) -> tuple[list[float], bool]:
    """Return the width of each part in per cent, and whether they are to scale.

    If one would be too narrow to see, the widths go by the square roots: of two parts of which one takes a hundred
    times as long, that one is ten times as wide.
    """
    total = sum(seconds)
    shares = [100 * each / total if total else 100 / len(seconds) for each in seconds]
    if all(share >= _LEAST_TO_SCALE for share in shares):
        return shares, True
    least = max(_LEAST, min(_LEAST_OF_ALL, _LEAST_TOGETHER / len(seconds)))
    roots = [each**0.5 for each in seconds]
    rest = 100 - least * len(seconds)
    return [least + rest * root / sum(roots) for root in roots], False
