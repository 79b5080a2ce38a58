"""The life of a job: the states, the transitions, and a verb for each. Nothing else writes `jobs.status`.

Each verb is one guarded statement in its own transaction; the three that every job needs take many jobs, so that those
that meet share the statement and its commit. No row changed is an answer, not an error: somebody else
was faster, or this attempt's lease is gone. All times are the database's; a worker's clock decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import msgspec

from jobs_service.database import Database, Row
from jobs_service.origin import Origin


class Status(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: verb -> (the states it starts from, the states it may lead to). docs/architecture.md draws this table; a test
#: compares the two.
TRANSITIONS: Mapping[str, tuple[tuple[Status, ...], tuple[Status, ...]]] = {
    "claim": ((Status.PENDING,), (Status.PROCESSING,)),
    "complete": ((Status.PROCESSING,), (Status.COMPLETED,)),
    "retry": ((Status.PROCESSING,), (Status.PENDING,)),
    "bury": ((Status.PROCESSING,), (Status.FAILED,)),
    "release": ((Status.PROCESSING,), (Status.PENDING,)),
    "snooze": ((Status.PROCESSING,), (Status.PENDING,)),
    "rescue": ((Status.PROCESSING,), (Status.PENDING, Status.FAILED)),
    "crash": ((Status.PROCESSING,), (Status.PENDING, Status.FAILED)),
    "bury_unknown": ((Status.PENDING,), (Status.FAILED,)),
    "expire": ((Status.PENDING,), (Status.FAILED,)),
    "cancel": ((Status.PENDING, Status.PROCESSING), (Status.CANCELLED,)),
    "redrive": ((Status.COMPLETED, Status.FAILED, Status.CANCELLED), (Status.PENDING,)),
}

#: A job in one of these stays as it is, until somebody redrives it or its retention is over.
TERMINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class DeadReason(StrEnum):
    """Why a job ended without a result. The closed list of `jobs.dead_reason`."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    REJECTED = "rejected"
    UNDECODABLE = "undecodable"
    POISON = "poison"
    EXPIRED = "expired"
    UNKNOWN_TYPE = "unknown_type"
    AMBIGUOUS = "ambiguous"
    #: The one that goes with status cancelled; the others go with failed.
    CANCELLED_BY_OPERATOR = "cancelled_by_operator"


class OnAmbiguous(StrEnum):
    """What becomes of a job whose effect may or may not have happened."""

    #: Another attempt, which may do it twice.
    RESEND = "resend"
    #: No further attempt: a dead letter, for a person to look at.
    HOLD = "hold"


#: Seconds a job of a type that a worker does not know stays pending, for a newer worker to come.
UNKNOWN_TYPE_GRACE_SECONDS = 600

#: So many workers may be lost with a job before it is taken for their killer.
POISON_CRASHES = 3


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that was parsed and is to be written. Without a date or a delay it is due at once."""

    id: UUID
    type: str
    payload: str
    queue: str
    priority: int
    max_attempts: int
    run_at: datetime | None = None
    delay_seconds: float = 0
    #: The relay publishes the job this long after it is due, unless it was claimed by then. 0: no message follows.
    publish_grace_seconds: float = 0
    #: No attempt begins after this.
    expires_at: datetime | None = None
    on_ambiguous: OnAmbiguous = OnAmbiguous.RESEND
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A worker's wish to claim a job, under a token of its own."""

    job_id: UUID
    worker_id: UUID
    token: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt, held under its lease token."""

    job_id: UUID
    token: UUID
    worker_id: UUID
    type: str
    queue: str
    payload: str
    attempts: int
    max_attempts: int
    #: Workers lost with this job so far.
    crashes: int
    #: Seconds from when the job could have run to now: the time it stood in line.
    waited_seconds: float
    #: Seconds since it was accepted.
    age_seconds: float
    on_ambiguous: OnAmbiguous = OnAmbiguous.RESEND
    request_id: str | None = None
    traceparent: str | None = None

    @property
    def origin(self) -> Origin:
        return Origin(self.request_id, self.traceparent)


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in one attempt. Becomes an entry of `jobs.history`; the message alone is `jobs.error`."""

    error: str
    message: str
    traceback: str
    seconds: float
    #: Nobody knows whether the attempt had its effect.
    is_ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """A job that a sweep or a person put into another state."""

    job_id: UUID
    type: str
    queue: str
    attempts: int
    request_id: str | None
    traceparent: str | None

    @property
    def origin(self) -> Origin:
        return Origin(self.request_id, self.traceparent)

    @property
    def facts(self) -> dict[str, Any]:
        """What events say about it."""
        return {"job_id": str(self.job_id), "type": self.type, "queue": self.queue, "attempt": self.attempts}


@dataclass(frozen=True, slots=True)
class Rescued(Moved):
    """A job taken from a worker that went silent."""

    status: Status
    dead_reason: DeadReason | None
    worker_id: UUID | None
    #: What the job says about an effect that may have happened; None when none had begun.
    on_ambiguous: OnAmbiguous | None


# The writes of maintenance name the lease under which they are made: a leader that lost it, frozen or cut off, changes
# nothing any more. Without a fence anybody may.
_FENCE = """(%(fence)s::bigint IS NULL
       OR EXISTS (SELECT FROM leases WHERE name = 'maintenance' AND token = %(fence)s))"""

_SUBMIT = """
INSERT INTO jobs (id, type, status, payload, queue, priority, max_attempts, run_at, publish_at,
                  expires_at, on_ambiguous, request_id, traceparent)
SELECT id, type, 'pending', payload::jsonb, queue, priority, max_attempts,
       due, due + publish_grace_seconds * interval '1 second', expires_at, on_ambiguous,
       request_id, traceparent
FROM unnest(
  %(id)s::uuid[], %(type)s::text[], %(payload)s::text[], %(queue)s::text[], %(priority)s::smallint[],
  %(max_attempts)s::integer[], %(run_at)s::timestamptz[], %(delay_seconds)s::float8[],
  %(publish_grace_seconds)s::float8[], %(expires_at)s::timestamptz[], %(on_ambiguous)s::text[],
  %(request_id)s::text[], %(traceparent)s::text[]
) AS new (id, type, payload, queue, priority, max_attempts, wish, delay_seconds, publish_grace_seconds,
          expires_at, on_ambiguous, request_id, traceparent)
CROSS JOIN LATERAL (
  SELECT GREATEST(now(), COALESCE(wish, now() + delay_seconds * interval '1 second'))
) AS dates (due)
ON CONFLICT (id) DO NOTHING"""


def submit(database: Database, jobs: Sequence[NewJob]) -> list[None]:
    """Write accepted jobs as pending; when this returns they are committed, all of them."""
    database.rows(_SUBMIT, {name: [getattr(job, name) for job in jobs] for name in NewJob.__slots__})
    return [None] * len(jobs)


def publish_soon(database: Database, job_id: UUID) -> None:
    """Have the relay publish a job whose message could not be sent."""
    database.rows("UPDATE jobs SET publish_at = now() WHERE id = %s AND (status = 'pending') IS TRUE", (job_id,))


def published(
    database: Database, job_ids: Sequence[UUID], *, republish_seconds: float, fence: int | None = None
) -> int:
    """Note that messages were sent: unless claimed, these jobs are published again after `republish_seconds`.

    Returns how many are still to be claimed; none if the fence is not the lease's any more. Touches no indexed column,
    so PostgreSQL updates the rows in place (HOT).
    """
    noted = database.rows(
        # Only where the job is still due: one that ran meanwhile and waits for its retry has a date of its own.
        f"""UPDATE jobs SET publish_at = now() + %(seconds)s * interval '1 second'
        WHERE id = ANY(%(job_ids)s) AND (status = 'pending') IS TRUE AND run_at <= now() AND {_FENCE}
        RETURNING 1""",
        {"seconds": republish_seconds, "job_ids": list(job_ids), "fence": fence},
    )
    return len(noted)


# A statement that names its jobs by id writes its guard as (status = …) IS TRUE: the same truth, but no condition of a
# partial index. With statistics from an empty queue PostgreSQL would rather read every waiting row than look up an id.
_CLAIM = """
UPDATE jobs
SET status = 'processing', attempts = attempts + 1, lease_token = ask.token, worker_id = ask.worker_id,
    started_at = now(), effect_at = NULL, updated_at = timezone('utc', now())
FROM unnest(%(job_ids)s::uuid[], %(worker_ids)s::uuid[], %(tokens)s::uuid[]) AS ask (job_id, worker_id, token)
WHERE id = ask.job_id AND (status = 'pending') IS TRUE AND run_at <= now()
  AND (expires_at IS NULL OR expires_at > now())
RETURNING id, lease_token, jobs.worker_id, type, queue, payload, attempts, max_attempts, crashes,
          extract(epoch FROM now() - run_at)::float8,
          extract(epoch FROM timezone('utc', now()) - created_at)::float8, on_ambiguous,
          request_id, traceparent"""

_CLAIMED = """
SELECT id, lease_token, worker_id, type, queue, payload, attempts, max_attempts, crashes,
       extract(epoch FROM now() - run_at)::float8,
       extract(epoch FROM timezone('utc', now()) - created_at)::float8, on_ambiguous,
       request_id, traceparent
FROM jobs WHERE id = ANY(%(job_ids)s) AND lease_token = ANY(%(tokens)s)"""


def claim(database: Database, asks: Sequence[Ask]) -> list[Claim | None]:
    """Begin the next attempt of jobs that are due, and count it. None: ended, running, not due, expired or unknown.

    Ask again with the same token after `DatabaseUnavailable`, to learn whether the claim had gone through after all.
    """
    # Rows are locked in the order of their ids, here as everywhere: two batches never wait for each other.
    found = _claims(database, _CLAIM, sorted(asks, key=lambda ask: ask.job_id))
    if missing := [ask for ask in asks if ask.token not in found]:
        # `rows` may have sent the claim twice, and then only the first one found the row: look for our own token.
        found |= _claims(database, _CLAIMED, missing)
    return [found.get(ask.token) for ask in asks]


def _claims(database: Database, sql: str, asks: Sequence[Ask]) -> dict[UUID, Claim]:
    columns = {
        "job_ids": [ask.job_id for ask in asks],
        "worker_ids": [ask.worker_id for ask in asks],
        "tokens": [ask.token for ask in asks],
    }
    return {claim.token: claim for claim in (Claim(*row) for row in database.rows(sql, columns))}


def begin_effect(database: Database, claim: Claim) -> bool:
    """Note that the attempt is about to do what cannot be taken back. False: the lease is gone, so it must not."""
    sql = """
    UPDATE jobs SET effect_at = now()
    WHERE id = %s AND (status = 'processing') IS TRUE AND lease_token = %s
    RETURNING id"""
    return database.row(sql, (claim.job_id, claim.token)) is not None


_COMPLETE = """
UPDATE jobs
SET status = 'completed', result = done.result::jsonb, error = NULL, lease_token = NULL,
    finished_at = now(), updated_at = timezone('utc', now())
FROM unnest(%(job_ids)s::uuid[], %(tokens)s::uuid[], %(results)s::text[]) AS done (job_id, token, result)
WHERE id = done.job_id AND (status = 'processing') IS TRUE AND lease_token = done.token
RETURNING id"""


def complete(database: Database, done: Sequence[tuple[Claim, str]]) -> list[bool]:
    """Finish attempts with their results (JSON text). False: the lease is gone and this verdict with it."""
    ordered = sorted(done, key=lambda item: item[0].job_id)
    columns = {
        "job_ids": [claim.job_id for claim, _ in ordered],
        "tokens": [claim.token for claim, _ in ordered],
        "results": [result for _, result in ordered],
    }
    completed = {job_id for (job_id,) in database.rows(_COMPLETE, columns)}
    return [
        claim.job_id in completed or _settled(database, claim, Status.COMPLETED, claim.attempts) for claim, _ in done
    ]


_RETRY = """
UPDATE jobs
SET status = 'pending', error = %(message)s, lease_token = NULL,
    run_at = now() + %(delay)s * interval '1 second', publish_at = now() + %(delay)s * interval '1 second',
    history = history || jsonb_build_array(%(entry)s::jsonb || jsonb_build_object('started_at', started_at)),
    updated_at = timezone('utc', now())
WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(token)s
RETURNING id"""


def retry(database: Database, claim: Claim, failure: Failure, *, delay_seconds: float) -> bool:
    """Put the job back for another attempt after `delay_seconds`. False: the lease is gone."""
    return _settle(database, claim, Status.PENDING, _RETRY, {"delay": delay_seconds, **_record(claim, failure)})


_BURY = """
UPDATE jobs
SET status = 'failed', dead_reason = %(reason)s, error = %(message)s, lease_token = NULL,
    history = history || jsonb_build_array(%(entry)s::jsonb || jsonb_build_object('started_at', started_at)),
    finished_at = now(), updated_at = timezone('utc', now())
WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(token)s
RETURNING id"""


def bury(database: Database, claim: Claim, failure: Failure, *, reason: DeadReason) -> bool:
    """Make the job a dead letter. False: the lease is gone."""
    return _settle(database, claim, Status.FAILED, _BURY, {"reason": reason, **_record(claim, failure)})


_RELEASE = """
UPDATE jobs
SET status = 'pending', attempts = attempts - 1, lease_token = NULL, started_at = NULL,
    run_at = now(), publish_at = now(), updated_at = timezone('utc', now())
WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(token)s AND effect_at IS NULL
RETURNING id"""


def release(database: Database, claim: Claim) -> bool:
    """Give the job back as if it had not been claimed: the attempt does not count.

    False: the lease is gone, or the effect has begun, which nobody may forget.
    """
    return _settle(database, claim, Status.PENDING, _RELEASE, {})


_SNOOZE = """
UPDATE jobs
SET status = 'pending', attempts = attempts - 1, error = %(message)s, lease_token = NULL, started_at = NULL,
    run_at = now() + %(delay)s * interval '1 second', publish_at = now() + %(delay)s * interval '1 second',
    updated_at = timezone('utc', now())
WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(token)s
RETURNING id"""


def snooze(database: Database, claim: Claim, message: str | None, *, delay_seconds: float) -> bool:
    """Put the job off: the attempt does not count, `message` says why. False: the lease is gone."""
    return _settle(database, claim, Status.PENDING, _SNOOZE, {"delay": delay_seconds, "message": message})


_RELEASE_WORKER = """
UPDATE jobs
SET status = 'pending', attempts = attempts - 1, lease_token = NULL, started_at = NULL,
    run_at = now(), publish_at = now(), updated_at = timezone('utc', now())
WHERE status = 'processing' AND worker_id = %s AND effect_at IS NULL
RETURNING id, type, queue, attempts + 1, request_id, traceparent"""


def release_worker(database: Database, worker_id: UUID) -> list[Moved]:
    """Give back what a worker that ends still holds: a claim whose answer it never got."""
    return [Moved(*row) for row in database.rows(_RELEASE_WORKER, (worker_id,))]


def bury_unknown(
    database: Database, job_id: UUID, *, job_type: str, grace_seconds: float, fence: int | None = None
) -> bool:
    """Make a pending job of a type that the worker does not know a dead letter, once it has waited `grace_seconds`.

    Until then it stays pending: during a deployment a newer worker may know the type.
    """
    sql = f"""
    UPDATE jobs
    SET status = 'failed', dead_reason = %(reason)s, error = 'no worker knows the job type ' || type,
        finished_at = now(), updated_at = timezone('utc', now())
    WHERE id = %(job_id)s AND type = %(job_type)s AND (status = 'pending') IS TRUE
      AND run_at < now() - %(grace)s * interval '1 second' AND {_FENCE}
    RETURNING id"""
    names = {
        "reason": DeadReason.UNKNOWN_TYPE,
        "job_id": job_id,
        "job_type": job_type,
        "grace": grace_seconds,
        "fence": fence,
    }
    return database.row(sql, names) is not None


# The same for jobs whose worker went silent and for one that killed the process it had to itself.
_TAKE_BACK = """
WITH lost AS (
  SELECT jobs.id, worker_id, CASE WHEN effect_at IS NOT NULL THEN on_ambiguous END AS on_ambiguous,
         CASE WHEN crashes + 1 >= %(poison)s THEN 'poison'
              WHEN effect_at IS NOT NULL AND on_ambiguous = 'hold' THEN 'ambiguous'
              WHEN attempts >= max_attempts THEN 'attempts_exhausted' END AS reason
  FROM <which>
)
UPDATE jobs
SET status = CASE WHEN reason IS NULL THEN 'pending' ELSE 'failed' END,
    dead_reason = reason, finished_at = CASE WHEN reason IS NOT NULL THEN now() END,
    error = %(message)s, crashes = crashes + 1, lease_token = NULL, worker_id = NULL,
    run_at = now() + %(delay)s * interval '1 second', publish_at = now() + %(delay)s * interval '1 second',
    history = history || jsonb_build_array(jsonb_build_object(
      'attempt', attempts, 'worker_id', lost.worker_id, 'started_at', started_at,
      'seconds', round(extract(epoch FROM now() - started_at)::numeric, 3),
      'error', %(error)s::text, 'message', %(message)s::text)
      || CASE WHEN lost.on_ambiguous IS NULL THEN '{}' ELSE '{"ambiguous": true}'::jsonb END),
    updated_at = timezone('utc', now())
FROM lost WHERE jobs.id = lost.id
RETURNING jobs.id, type, queue, attempts, request_id, traceparent, status, dead_reason,
          lost.worker_id, lost.on_ambiguous"""

# A worker that has beaten since it was found silent lives, and keeps its jobs.
_RESCUE = _TAKE_BACK.replace(
    "<which>",
    f"""jobs JOIN unnest(%(workers)s::uuid[], %(beats)s::bigint[]) AS silent (id, beats)
       ON silent.id IS NOT DISTINCT FROM jobs.worker_id
  WHERE status = 'processing' AND {_FENCE}
    AND NOT EXISTS (
      SELECT FROM workers WHERE workers.id = silent.id AND workers.beats IS DISTINCT FROM silent.beats
    )
  ORDER BY jobs.id LIMIT %(limit)s
  FOR UPDATE OF jobs SKIP LOCKED""",
)

_CRASH = _TAKE_BACK.replace(
    "<which>", "jobs WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(token)s FOR UPDATE"
)

#: What the history calls an attempt whose process was lost.
WORKER_LOST = "WorkerLost"


def rescue(
    database: Database, silent: Mapping[UUID | None, int | None], *, limit: int = 500, fence: int | None = None
) -> list[Rescued]:
    """Take back the jobs of silent workers: for another attempt, or as dead letters.

    `silent` maps a worker's id to the count of beats at which it stands still; None for one that has no row.
    """
    names = {"workers": list(silent), "beats": list(silent.values()), "limit": limit, "fence": fence}
    return _take_back(database, _RESCUE, "the worker was lost: killed, frozen or cut off", delay_seconds=0, **names)


def crash(database: Database, claim: Claim, message: str, *, delay_seconds: float) -> Rescued | None:
    """Note that the attempt killed the process it had to itself. None: the lease is gone."""
    names = {"job_id": claim.job_id, "token": claim.token}
    return next(iter(_take_back(database, _CRASH, message, delay_seconds=delay_seconds, **names)), None)


def _take_back(database: Database, sql: str, message: str, *, delay_seconds: float, **names: object) -> list[Rescued]:
    names |= {"poison": POISON_CRASHES, "error": WORKER_LOST, "message": message, "delay": delay_seconds}
    return [_rescued(row) for row in database.rows(sql, names)]


def _rescued(row: Row) -> Rescued:
    *job, status, reason, worker_id, policy = row
    return Rescued(*[*job, Status(status), reason and DeadReason(reason), worker_id, policy and OnAmbiguous(policy)])


_EXPIRE = f"""
WITH late AS (
  SELECT id FROM jobs WHERE status = 'pending' AND expires_at <= now() AND {_FENCE}
  ORDER BY expires_at LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED
)
UPDATE jobs
SET status = 'failed', dead_reason = %(reason)s, error = 'not begun before expires_at',
    finished_at = now(), updated_at = timezone('utc', now())
FROM late WHERE jobs.id = late.id
RETURNING jobs.id, type, queue, attempts, request_id, traceparent"""


def expire(database: Database, *, limit: int = 500, fence: int | None = None) -> list[Moved]:
    """Make pending jobs whose `expires_at` has passed dead letters."""
    names = {"limit": limit, "reason": DeadReason.EXPIRED, "fence": fence}
    return [Moved(*row) for row in database.rows(_EXPIRE, names)]


_CANCEL = """
UPDATE jobs
SET status = 'cancelled', dead_reason = %s, lease_token = NULL, finished_at = now(), updated_at = timezone('utc', now())
WHERE id = %s AND (status IN ('pending', 'processing')) IS TRUE
RETURNING id, type, queue, attempts, request_id, traceparent"""


def cancel(database: Database, job_id: UUID) -> Moved | None:
    """End a job that is not finished. None: it is, or there is no such job.

    A running attempt loses its lease: it cannot begin its effect any more, and its verdict is refused.
    """
    row = database.row(_CANCEL, (DeadReason.CANCELLED_BY_OPERATOR, job_id))
    return Moved(*row) if row else None


_REDRIVE = """
UPDATE jobs
SET status = 'pending', attempts = 0, crashes = 0, dead_reason = NULL, error = NULL, result = NULL,
    worker_id = NULL, started_at = NULL, finished_at = NULL, expires_at = NULL,
    run_at = now(), publish_at = now(), updated_at = timezone('utc', now())
WHERE id = %s AND (status IN ('completed', 'failed', 'cancelled')) IS TRUE
RETURNING id, type, queue, attempts, request_id, traceparent"""


def redrive(database: Database, job_id: UUID) -> Moved | None:
    """Run a finished job again: its attempts start afresh, its history stays. None: not finished, or no such job."""
    row = database.row(_REDRIVE, (job_id,))
    return Moved(*row) if row else None


def move(database: Database, job_ids: Sequence[UUID], *, queue: str, fence: int | None = None) -> None:
    """Put pending jobs on another queue."""
    sql = f"""
    UPDATE jobs SET queue = %(queue)s, publish_at = now()
    WHERE id = ANY(%(job_ids)s) AND (status = 'pending') IS TRUE AND {_FENCE}"""
    database.rows(sql, {"queue": queue, "job_ids": list(job_ids), "fence": fence})


def prune(
    database: Database,
    job_ids: Sequence[UUID],
    *,
    status: Status,
    retention_seconds: float,
    fence: int | None = None,
) -> int:
    """Delete those of the jobs that have been in this terminal status for so long; return how many."""
    sql = f"""
    DELETE FROM jobs
    WHERE id = ANY(%(job_ids)s) AND (status = %(status)s) IS TRUE
      AND finished_at < now() - %(retention)s * interval '1 second' AND {_FENCE}
    RETURNING id"""
    names = {"job_ids": list(job_ids), "status": status, "retention": retention_seconds, "fence": fence}
    return len(database.rows(sql, names))


def _settle(database: Database, claim: Claim, status: Status, sql: str, names: dict[str, Any]) -> bool:
    attempts = claim.attempts - (sql in {_RELEASE, _SNOOZE})
    names = {"job_id": claim.job_id, "token": claim.token, **names}
    return database.row(sql, names) is not None or _settled(database, claim, status, attempts)


_SETTLED = """
SELECT 1 FROM jobs
WHERE id = %s AND status = %s AND attempts = %s AND worker_id = %s AND lease_token IS NULL"""


def _settled(database: Database, claim: Claim, status: Status, attempts: int) -> bool:
    """Tell whether this very verdict stands: `rows` may have sent it twice, and the first one counted."""
    return database.row(_SETTLED, (claim.job_id, status, attempts, claim.worker_id)) is not None


def _record(claim: Claim, failure: Failure) -> dict[str, str]:
    entry: dict[str, object] = {
        "attempt": claim.attempts,
        "worker_id": claim.worker_id,
        "seconds": round(failure.seconds, 3),
        "error": failure.error,
        "message": failure.message,
        "traceback": failure.traceback,
    }
    if failure.is_ambiguous:
        entry["ambiguous"] = True
    return {"message": failure.message, "entry": msgspec.json.encode(entry).decode()}
