"""Why a job is not running, or how it ended: one sentence, a reason for programs, and the facts."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Meta

from jobs_service.database.connection import Database
from jobs_service.jobs import statistics
from jobs_service.jobs.lifecycle import EndReason, Status
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time
from jobs_service.jobs.sentences import count, duration, short

#: How many jobs that run before a job are counted.
MAX_AHEAD = 10_000


class Reason(StrEnum):
    """Why a job is in the state that it is in."""

    SCHEDULED = "scheduled"
    BETWEEN_ATTEMPTS = "between_attempts"
    DEFERRED = "deferred"
    SERVER_UNAVAILABLE = "server_unavailable"
    QUEUE_PAUSED = "queue_paused"
    NO_WORKER = "no_worker"
    UNKNOWN_TYPE = "unknown_type"
    BEHIND_OTHERS = "behind_others"
    NEXT = "next"
    RUNNING = "running"
    WORKER_SILENT = "worker_silent"
    COMPLETED = "completed"
    DEAD = "dead"
    HELD = "held"
    CANCELLED = "cancelled"


class WorkerFacts(msgspec.Struct, frozen=True):
    """The worker process that runs a job."""

    worker_id: UUID
    host: Annotated[str | None, Meta(description="null: it has no row any more.")]
    pid: int | None
    is_live: Annotated[bool, Meta(description="Whether its heartbeat is as recent as it must be.")]


class PauseFacts(msgspec.Struct, frozen=True):
    """Who paused a queue, since when, and why."""

    by: str
    since: Time
    reason: str


class ServerFacts(msgspec.Struct, frozen=True):
    """A server that is unavailable."""

    name: str
    away_since: Time | None
    error: str | None
    next_probe_at: Time | None


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the explanation is made of. A fact that says nothing about this state is left out."""

    since: Annotated[Time | None, Meta(description="Since when the job is in this state.")] = None
    due_at: Annotated[Time | None, Meta(description="When it may run at the earliest.")] = None
    expires_at: Annotated[Time | None, Meta(description="It fails if no attempt begins before this time.")] = None
    attempts: int | None = None
    max_attempts: int | None = None
    last_error: str | None = None
    jobs_ahead: Annotated[int | None, Meta(description="Due jobs of its queue and type that run before it.")] = None
    jobs_ahead_is_capped: Annotated[bool, Meta(description="There are more than `jobs_ahead`.")] = False
    jobs_per_minute: Annotated[float | None, Meta(description="Jobs of its queue and type that ended lately.")] = None
    estimated_start: Annotated[Time | None, Meta(description="By that rate; at the earliest, if capped.")] = None
    paused: PauseFacts | None = None
    server: ServerFacts | None = None
    live_workers: Annotated[int | None, Meta(description="Live workers that serve its queue.")] = None
    worker: WorkerFacts | None = None
    limit_seconds: Annotated[float | None, Meta(description="How long an attempt may run.")] = None
    end_reason: EndReason | None = None
    cancel_reason: str | None = None


class Explanation(msgspec.Struct, frozen=True):
    """Why a job is in the state that it is in."""

    job_id: UUID
    status: Status
    reason: Reason
    explanation: Annotated[str, Meta(description="One sentence for a person, or two.")]
    what_to_do: Annotated[str | None, Meta(description="What a person can do; null: nothing is to be done.")]
    facts: Facts


#: An example for the OpenAPI document.
EXAMPLE: dict[str, Any] = {
    "job_id": "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41",
    "status": "pending",
    "reason": "behind_others",
    "explanation": "It waits behind 1,200 jobs of csv-generation on the queue default, and starts in about 2 minutes.",
    "what_to_do": None,
    "facts": {
        "since": "2026-11-26T09:30:00.000Z",
        "due_at": "2026-11-26T09:30:00.000Z",
        "attempts": 0,
        "max_attempts": 8,
        "jobs_ahead": 1200,
        "jobs_per_minute": 600.0,
        "estimated_start": "2026-11-26T09:32:00.000Z",
        "live_workers": 2,
    },
}


class Seen(NamedTuple):
    """A job, and what has to do with it, at one moment."""

    now: datetime
    id: UUID
    type: str
    status: str
    queue: str
    priority: int
    attempts: int
    max_attempts: int
    deferrals: int
    error: str | None
    end_reason: str | None
    cancel_reason: str | None
    waits_for: str | None
    timeout_seconds: int | None
    run_at: datetime
    waits_since: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    deferred_since: datetime | None
    worker_id: UUID | None
    hostname: str | None
    pid: int | None
    is_live: bool
    away_since: datetime | None
    server_error: str | None
    probe_at: datetime | None
    paused_by: str | None
    paused_at: datetime | None
    pause_reason: str | None
    live_workers: int


_SEEN = f"""
SELECT now(), jobs.id, type, status, jobs.queue, priority, attempts, max_attempts, deferrals, jobs.error, end_reason,
       cancel_reason, waits_for, timeout_seconds, run_at, GREATEST(run_at, returned_at), jobs.started_at, finished_at,
       expires_at, deferred_since, worker_id, hostname, pid, COALESCE({statistics.LIVE}, FALSE),
       away_since, servers.error, probe_at, paused_by, paused_at, reason,
       (SELECT count(*) FROM workers WHERE jobs.queue = ANY(queues) AND {statistics.LIVE})
FROM jobs
LEFT JOIN workers ON workers.id = jobs.worker_id
LEFT JOIN servers ON servers.name = jobs.waits_for
LEFT JOIN queue_pauses ON queue_pauses.queue = jobs.queue
WHERE jobs.id = %(job_id)s"""

# In the order in which the relay publishes and the broker hands out: by priority, then by age.
_AHEAD = """
SELECT count(*) FROM (
  SELECT FROM generate_series(%(priority)s + 1, 9) AS level
  CROSS JOIN LATERAL (
    SELECT FROM jobs
    WHERE status = 'pending' AND queue = %(queue)s AND type = %(type)s AND priority = level AND run_at <= now()
    ORDER BY run_at, id NULLS FIRST LIMIT %(most)s + 1
  ) AS more_urgent
  UNION ALL
  SELECT FROM (
    SELECT FROM jobs
    WHERE status = 'pending' AND queue = %(queue)s AND type = %(type)s AND priority = %(priority)s
      AND run_at <= %(run_at)s AND (run_at, id) < (%(run_at)s, %(id)s)
    ORDER BY run_at, id NULLS FIRST LIMIT %(most)s + 1
  ) AS older
  LIMIT %(most)s + 1
) AS ahead"""

# As `statistics.rates`, of one line.
_RATE = """
SELECT COALESCE(count(*) FILTER (WHERE queue = %(queue)s AND type = %(type)s) / CASE WHEN count(*) < %(recent_jobs)s
  THEN %(recent)s ELSE GREATEST(extract(epoch FROM now() - min(finished_at)), 0.001) END::float8, 0) * 60
FROM (
  SELECT queue, type, finished_at FROM jobs WHERE finished_at > now() - %(recent)s * interval '1 second'
  ORDER BY finished_at DESC LIMIT %(recent_jobs)s
) AS recent"""


@dataclass(frozen=True, slots=True)
class Explainer:
    """Explains jobs."""

    database: Database
    lease_seconds: float
    #: Returns the seconds that an attempt of a type may run. None: nobody knows the type.
    limit_of: Callable[[str], float | None]

    def explain(self, job_id: UUID) -> Explanation | None:
        """Return the explanation of a job, by at most three statements. None: there is no such job."""
        row = self.database.row(_SEEN, {"job_id": job_id, "lease": self.lease_seconds})
        if row is None:
            return None
        seen = Seen(*row)
        reason, sentence, to_do, facts = self._of(seen)
        return Explanation(seen.id, Status(seen.status), reason, sentence, to_do, facts)

    def _of(self, seen: Seen) -> "Told":
        match Status(seen.status):
            case Status.PENDING:
                return self._of_pending(seen)
            case Status.PROCESSING:
                return running(seen, self._limit(seen))
            case Status.COMPLETED:
                sentence = f"It completed at {rfc3339(seen.finished_at)}, with attempt {seen.attempts}."
                return Told(Reason.COMPLETED, sentence, None, _facts(seen, since=seen.finished_at))
            case Status.CANCELLED:
                return cancelled(seen)
            case Status.FAILED:
                return dead(seen)

    def _of_pending(self, seen: Seen) -> "Told":
        if seen.run_at > seen.now:
            return due_later(seen)
        if seen.paused_at is not None:
            return paused(seen)
        if not seen.live_workers:
            return no_worker(seen)
        if self.limit_of(seen.type) is None:
            return unknown_type(seen)
        return self._in_line(seen)

    def _in_line(self, seen: Seen) -> "Told":
        line: dict[str, object] = {"queue": seen.queue, "type": seen.type}
        place = {"priority": seen.priority, "run_at": seen.run_at, "id": seen.id, "most": MAX_AHEAD}
        (ahead,) = self.database.row(_AHEAD, line | place) or (0,)
        (rate,) = (ahead and self.database.row(_RATE, line | statistics.RECENT)) or (0.0,)
        return in_line(seen, ahead, rate)

    def _limit(self, seen: Seen) -> float | None:
        return seen.timeout_seconds or self.limit_of(seen.type)


class Told(NamedTuple):
    """An explanation without the job's identity."""

    reason: Reason
    sentence: str
    what_to_do: str | None
    facts: Facts


def due_later(seen: Seen) -> Told:
    """Explain a job that is not due yet."""
    at = rfc3339(seen.run_at)
    if seen.waits_for is not None:
        return _waiting_for_server(seen)
    if seen.deferrals:
        sentence = f"It is deferred until {at}: {short(seen.error)}."
        return Told(Reason.DEFERRED, sentence, None, _waiting(seen, since=seen.deferred_since))
    if seen.attempts:
        number, most = seen.attempts, seen.max_attempts
        sentence = f"Attempt {number} of {most} failed: {short(seen.error)}. The next one begins at {at}."
        return Told(Reason.BETWEEN_ATTEMPTS, sentence, None, _waiting(seen))
    if seen.error:
        sentence = f"Its code postponed it until {at}: {short(seen.error)}."
        return Told(Reason.DEFERRED, sentence, None, _waiting(seen))
    return Told(Reason.SCHEDULED, f"It is not due before {at}.", None, _waiting(seen))


def _waiting_for_server(seen: Seen) -> Told:
    name = seen.waits_for or ""
    if seen.away_since is None:
        sentence = f"It waited for {name}, which answers again: it runs at {rfc3339(seen.run_at)} or sooner."
    else:
        sentence = (
            f"It waits for {name}, which has been unavailable since {rfc3339(seen.away_since)}: "
            f"{short(seen.server_error)}. It runs when the server is back, or tries at {rfc3339(seen.run_at)}."
        )
    server = ServerFacts(name, rfc3339(seen.away_since), seen.server_error, rfc3339(seen.probe_at))
    to_do = "Look at the server, or at the way to it." if seen.away_since else None
    return Told(Reason.SERVER_UNAVAILABLE, sentence, to_do, _waiting(seen, since=seen.deferred_since, server=server))


def paused(seen: Seen) -> Told:
    """Explain a job whose queue is paused."""
    pause = PauseFacts(seen.paused_by or "", rfc3339(seen.paused_at) or "", seen.pause_reason or "")
    sentence = f"The queue {seen.queue} was paused by {pause.by} at {pause.since}: {short(pause.reason)}."
    to_do = f"Resume the queue: POST /queues/{seen.queue}/resume."
    return Told(Reason.QUEUE_PAUSED, sentence, to_do, _waiting(seen, paused=pause))


def no_worker(seen: Seen) -> Told:
    """Explain a job that no live worker can run."""
    sentence = f"No live worker serves the queue {seen.queue}."
    to_do = "Start a worker that serves it, or look why the workers are silent: GET /workers."
    return Told(Reason.NO_WORKER, sentence, to_do, _waiting(seen, live_workers=0))


def unknown_type(seen: Seen) -> Told:
    """Explain a job of a type that this version does not know."""
    sentence = f"This version knows no job type {seen.type}; the job fails if no worker does."
    to_do = "Deploy the version that has the type, to API and workers."
    return Told(Reason.UNKNOWN_TYPE, sentence, to_do, _waiting(seen, live_workers=seen.live_workers))


def in_line(seen: Seen, ahead: int, jobs_per_minute: float) -> Told:
    """Explain a job that could run now. `ahead` are the jobs that run before it, counted to `MAX_AHEAD` + 1."""
    if not ahead:
        sentence = f"It is the next of {seen.type} on the queue {seen.queue}, and runs when a worker has a thread free."
        return Told(Reason.NEXT, sentence, None, _waiting(seen, jobs_ahead=0, live_workers=seen.live_workers))
    is_capped = ahead > MAX_AHEAD
    ahead = min(ahead, MAX_AHEAD)
    seconds = ahead / jobs_per_minute * 60 if jobs_per_minute else None
    start = None if seconds is None else seen.now + timedelta(seconds=seconds)
    facts = _waiting(
        seen,
        jobs_ahead=ahead,
        jobs_ahead_is_capped=is_capped,
        jobs_per_minute=round(jobs_per_minute, 1),
        estimated_start=rfc3339(start),
        live_workers=seen.live_workers,
    )
    more = "more than " if is_capped else ""
    place = f"It waits behind {more}{count(ahead, 'job')} of {seen.type} on the queue {seen.queue}"
    if seconds is None:
        sentence = f"{place}; none of them has ended in the last minutes, so its start cannot be estimated."
    else:
        sentence = f"{place}, and starts in {'more than' if is_capped else 'about'} {duration(seconds)}."
    return Told(Reason.BEHIND_OTHERS, sentence, None, facts)


def running(seen: Seen, limit_seconds: float | None) -> Told:
    """Explain a job that a worker runs."""
    since = rfc3339(seen.started_at)
    worker = WorkerFacts(seen.worker_id, seen.hostname, seen.pid, seen.is_live) if seen.worker_id else None
    facts = _facts(seen, since=seen.started_at, worker=worker, limit_seconds=limit_seconds)
    where = f"{seen.hostname}, process {seen.pid}" if seen.hostname else "a worker that has no row any more"
    attempt = f"Attempt {seen.attempts} of {seen.max_attempts}"
    if not seen.is_live:
        sentence = f"{attempt} began at {since} on {where}, which is silent: it is taken back soon, and runs again."
        return Told(Reason.WORKER_SILENT, sentence, None, facts)
    limit = f", and may run {duration(limit_seconds)}" if limit_seconds else ""
    return Told(Reason.RUNNING, f"{attempt} runs since {since} on {where}{limit}.", None, facts)


_WHY_DEAD = {
    EndReason.ATTEMPTS_EXHAUSTED: (
        "all {max_attempts} attempts failed, the last one with: {error}",
        "Correct the cause, then run it again: POST /jobs/{id}/retry.",
    ),
    EndReason.REJECTED: (
        "its code decided that no attempt can succeed: {error}",
        "Submit a corrected job; run this one again only if its code or its surroundings have changed.",
    ),
    EndReason.INVALID_PAYLOAD: (
        "its code does not accept the payload: {error}",
        "Submit a job with a valid payload: GET /job-types/{type} has the schema.",
    ),
    EndReason.POISON: (
        "three workers were lost while they ran it",
        "Find out what it does to its process (memory, native code) before it runs again.",
    ),
    EndReason.EXPIRED: (
        "it did not begin before its expires_at, {expires_at}",
        "If it is still wanted, run it again: POST /jobs/{id}/retry.",
    ),
    EndReason.UNAVAILABLE: (
        "a server that it needs was unavailable for as long as it may wait: {error}",
        "When the server is back, run it again: POST /jobs/{id}/retry.",
    ),
    EndReason.UNKNOWN_TYPE: (
        "no worker knew the type {type}",
        "Deploy workers that know the type, then run it again: POST /jobs/{id}/retry.",
    ),
    EndReason.AMBIGUOUS: (
        "it is unknown whether its effect happened, and its on_ambiguous is hold",
        "Find out whether the effect happened. If not, run it again: POST /jobs/{id}/retry.",
    ),
}


def dead(seen: Seen) -> Told:
    """Explain a dead letter, and what a person can do about it."""
    end_reason = EndReason(seen.end_reason or "")
    why, to_do = _WHY_DEAD[end_reason]
    values = seen._asdict() | {"error": short(seen.error), "expires_at": rfc3339(seen.expires_at)}
    is_held = end_reason is EndReason.AMBIGUOUS
    verb = "is held since" if is_held else "failed at"
    return Told(
        Reason.HELD if is_held else Reason.DEAD,
        f"It {verb} {rfc3339(seen.finished_at)}: {why.format(**values)}.",
        to_do.format(**values),
        _facts(seen, since=seen.finished_at, end_reason=end_reason),
    )


def cancelled(seen: Seen) -> Told:
    """Explain a job that a person ended."""
    why = f": {short(seen.cancel_reason)}" if seen.cancel_reason else ", without a reason"
    sentence = f"It was cancelled at {rfc3339(seen.finished_at)}{why}."
    facts = _facts(
        seen, since=seen.finished_at, end_reason=EndReason(seen.end_reason or ""), cancel_reason=seen.cancel_reason
    )
    return Told(Reason.CANCELLED, sentence, None, facts)


def _waiting(seen: Seen, *, since: datetime | None = None, **more: Any) -> Facts:  # noqa: ANN401 - the fields of `Facts`
    """Return the facts of a job that waits."""
    # A date that is to come says since when it will wait.
    began = since or (seen.waits_since if seen.waits_since <= seen.now else None)
    return _facts(seen, since=began, due_at=rfc3339(seen.run_at), expires_at=rfc3339(seen.expires_at), **more)


def _facts(seen: Seen, *, since: datetime | None, **more: Any) -> Facts:  # noqa: ANN401 - as above
    return Facts(
        since=rfc3339(since), attempts=seen.attempts, max_attempts=seen.max_attempts, last_error=seen.error, **more
    )
