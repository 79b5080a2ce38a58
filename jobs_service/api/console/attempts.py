"""The attempts of a job, put together from its row, its history and its log."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from jobs_service.api.console.formats import parsed
from jobs_service.jobs.lifecycle import HISTORY_FIRST, WORKER_LOST, Status
from jobs_service.jobs.notes import AttemptLog
from jobs_service.jobs.representation import Job

#: An attempt's log is written before its verdict, but its seconds are measured in the worker before that.
_LATE = timedelta(seconds=10)

_MILLISECOND = timedelta(milliseconds=1)


class Outcome(StrEnum):
    """What came of an attempt."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Its worker or its process was lost.
    LOST = "worker lost"
    #: A server was unavailable.
    DEFERRED = "deferred"
    #: The history has nothing of it: its worker gave it back, or its code put it off.
    GIVEN_BACK = "given back"


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt."""

    #: As the job's code has it. Attempts that do not count have the number of the next one.
    number: int
    outcome: Outcome
    started_at: datetime | None
    #: None: it runs, or nobody knows.
    seconds: float | None = None
    #: The class of the exception, its text and its traceback.
    error: str = ""
    message: str = ""
    traceback: str = ""
    worker_id: str | None = None
    host: str | None = None
    is_counted: bool = True
    #: It is unknown whether it had its effect.
    is_ambiguous: bool = False
    log: AttemptLog | None = None
    #: How many attempts between the one before and this one are not kept.
    omitted_before: int = 0

    @property
    def key(self) -> int:
        """What tells it from the job's others: its start, in milliseconds of Unix time."""
        return round(self.started_at.timestamp() * 1_000) if self.started_at else 0

    @property
    def ended_at(self) -> datetime | None:
        """When it ended, as far as that is known."""
        if self.started_at is None or self.seconds is None:
            return None
        return self.started_at + timedelta(seconds=self.seconds)


class _Entry(msgspec.Struct, frozen=True):
    """An entry of a job's history."""

    attempt: int
    started_at: str | None = None
    seconds: float | None = None
    error: str = ""
    message: str = ""
    traceback: str = ""
    worker_id: str | None = None
    ambiguous: bool = False
    counted: bool = True


def attempts_of(
    job: Job, logs: Sequence[AttemptLog] = (), hosts: Mapping[str, str] | None = None, runs_on: str | None = None
) -> list[Attempt]:
    """Return the attempts, the oldest first.

    `hosts` are those of workers, by their ids, and `runs_on` is the one of the worker that runs the job.
    """
    entries = msgspec.json.decode(job.history, type=list[_Entry])
    found = [_of_entry(entry, hosts or {}) for entry in entries]
    if job.history_omitted and len(found) > HISTORY_FIRST:
        found[HISTORY_FIRST] = replace(found[HISTORY_FIRST], omitted_before=job.history_omitted)
    if current := _current(job, found):
        found.append(replace(current, host=runs_on))
    return _with_logs(found, logs)


def _of_entry(entry: _Entry, hosts: Mapping[str, str]) -> Attempt:
    return Attempt(
        number=entry.attempt,
        outcome=_outcome(entry),
        started_at=parsed(entry.started_at) if entry.started_at else None,
        seconds=entry.seconds,
        error=entry.error,
        message=entry.message,
        traceback=entry.traceback,
        worker_id=entry.worker_id,
        host=hosts.get(entry.worker_id or ""),
        is_counted=entry.counted,
        is_ambiguous=entry.ambiguous,
    )


def _outcome(entry: _Entry) -> Outcome:
    if entry.error == WORKER_LOST:
        return Outcome.LOST
    if entry.error == "Cancelled" and entry.ambiguous:
        return Outcome.CANCELLED
    if entry.error == "Unavailable" and not entry.counted:
        return Outcome.DEFERRED
    return Outcome.FAILED


_CURRENT = {
    Status.PROCESSING: Outcome.RUNNING,
    Status.COMPLETED: Outcome.COMPLETED,
    Status.CANCELLED: Outcome.CANCELLED,
}


def _current(job: Job, found: Iterable[Attempt]) -> Attempt | None:
    """Return the attempt that the row is about, if it is none of those in the history."""
    if job.started_at is None or job.status not in _CURRENT:
        return None
    started_at = parsed(job.started_at)
    is_known = any(each.started_at and abs(each.started_at - started_at) <= _MILLISECOND for each in found)
    # A job that was cancelled while it waited has the start of an earlier attempt, before the time it waited for.
    if is_known or (job.status == Status.CANCELLED and started_at < parsed(job.run_at)):
        return None
    ended_at = parsed(job.finished_at) if job.finished_at else None
    seconds = (ended_at - started_at).total_seconds() if ended_at else None
    return Attempt(job.attempts, _CURRENT[job.status], started_at, seconds)


def _with_logs(found: list[Attempt], logs: Sequence[AttemptLog]) -> list[Attempt]:
    """Return the attempts with their logs, and those of which there is nothing but a log."""
    logs_by_key = {}
    unknown = []
    for log in logs:
        said_at = parsed(log.started_at)
        attempt = next((each for each in reversed(found) if _may_have_said(each, log.attempt, said_at)), None)
        if attempt is None or attempt.key in logs_by_key:
            unknown.append(Attempt(log.attempt, Outcome.GIVEN_BACK, said_at, is_counted=False, log=log))
        else:
            logs_by_key[attempt.key] = log
    known = [replace(each, log=logs_by_key.get(each.key)) for each in found]
    return sorted([*known, *unknown], key=lambda each: each.key) if unknown else known


def _may_have_said(attempt: Attempt, number: int, said_at: datetime) -> bool:
    if attempt.number != number or attempt.started_at is None or said_at < attempt.started_at - _MILLISECOND:
        return False
    return attempt.ended_at is None or said_at <= attempt.ended_at + _LATE
