"""The life of a job: the states, the transitions, and a function for each. No other module writes `jobs.status`.

Each transition is one guarded statement in its own transaction. The three that every job passes take many jobs, so that
calls made at the same time share the statement and its commit. That no row changed is a result, not an error: another
process was faster, or the attempt has lost its lease. All times are PostgreSQL's; a worker's clock decides nothing.

A statement whose reply was lost may have been carried out. So each carries a token, which the row keeps as its
`transition_token`. A transition that finds no row to change looks for its own token on the row.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4, uuid5

import msgspec

from jobs_service.database.connection import Database, Row
from jobs_service.errors import DatabaseUnavailable, IdempotencyConflict, IdempotencyKeyInFlight
from jobs_service.events import JobFacts
from jobs_service.jobs import event_log, idempotency, jsonb
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.deferral import Deferral


class Status(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: Transition -> (the states it starts from, the states it may lead to). docs/architecture.md draws this table; a test
#: compares the two.
TRANSITIONS: Mapping[str, tuple[tuple[Status, ...], tuple[Status, ...]]] = {
    "claim": ((Status.PENDING,), (Status.PROCESSING,)),
    "complete": ((Status.PROCESSING,), (Status.COMPLETED,)),
    # Leads to no state: the row is deleted.
    "complete_canary": ((Status.PROCESSING,), ()),
    "retry": ((Status.PROCESSING,), (Status.PENDING,)),
    "fail": ((Status.PROCESSING,), (Status.FAILED,)),
    "release": ((Status.PROCESSING,), (Status.PENDING,)),
    "snooze": ((Status.PROCESSING,), (Status.PENDING,)),
    "defer": ((Status.PROCESSING,), (Status.PENDING, Status.FAILED)),
    "rescue": ((Status.PROCESSING,), (Status.PENDING, Status.FAILED)),
    "crash": ((Status.PROCESSING,), (Status.PENDING, Status.FAILED)),
    "abandon": ((Status.PROCESSING,), (Status.PENDING, Status.FAILED)),
    "fail_unknown": ((Status.PENDING,), (Status.FAILED,)),
    "expire": ((Status.PENDING,), (Status.FAILED,)),
    "cancel": ((Status.PENDING, Status.PROCESSING), (Status.CANCELLED,)),
    "redrive": ((Status.COMPLETED, Status.FAILED, Status.CANCELLED), (Status.PENDING,)),
    # Leads to no state: the row is deleted.
    "discard": ((Status.FAILED,), ()),
}

#: A job stays in one of these states until it is redriven or its retention is over.
TERMINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class EndReason(StrEnum):
    """Why a job ended without a result: all values of `jobs.end_reason`."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    REJECTED = "rejected"
    INVALID_PAYLOAD = "invalid_payload"
    POISON = "poison"
    EXPIRED = "expired"
    #: A server that the job needs was unavailable, or did not accept it, until the time it may wait was over.
    UNAVAILABLE = "unavailable"
    UNKNOWN_TYPE = "unknown_type"
    AMBIGUOUS = "ambiguous"
    #: The only reason of a cancelled job; the others belong to failed jobs.
    CANCELLED_BY_OPERATOR = "cancelled_by_operator"


class OnAmbiguous(StrEnum):
    """What to do with a job whose effect may or may not have happened."""

    #: Make another attempt, which may repeat the effect.
    RESEND = "resend"
    #: Make no further attempt. The job becomes a dead letter, for a person to decide.
    HOLD = "hold"


#: Seconds for which a job of an unknown type stays pending, in case a newer worker that knows the type starts.
UNKNOWN_TYPE_GRACE_SECONDS = 600

#: A job during whose attempts this many workers were lost is assumed to have killed them, and fails as poison.
POISON_WORKER_LOSSES = 3


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job that is to be written. Without `run_at` or a delay it is due at once."""

    id: UUID
    type: str
    #: The JSON text as the client sent it.
    payload: str
    queue: str
    priority: int
    max_attempts: int
    run_at: datetime | None = None
    delay_seconds: float = 0
    #: If the job is due, its submitter publishes it; after this time the relay publishes it again, unless it has been
    #: claimed. 0 leaves the first publish to the relay.
    publish_grace_seconds: float = 0
    #: No attempt begins after this.
    expires_at: datetime | None = None
    on_ambiguous: OnAmbiguous = OnAmbiguous.RESEND
    request_id: str | None = None
    traceparent: str | None = None
    tags: Sequence[str] = ()
    #: The time limit of its attempts, in place of the type's.
    timeout_seconds: int | None = None
    #: The request's Idempotency-Key, and its answer.
    once: idempotency.Once | None = None
    #: The finished job that this one repeats with changes.
    retry_of: UUID | None = None


class Submitted(msgspec.Struct, frozen=True):
    """The result of writing a new job. Times are PostgreSQL's."""

    id: UUID
    #: Its `run_at`, in Unix milliseconds.
    due_ms: float
    is_due: bool
    #: The job was not written, because no attempt could begin before its `expires_at`.
    is_expired: bool
    #: PostgreSQL's time during the statement, in Unix seconds.
    database_seconds: float


class ClaimRequest(msgspec.Struct, frozen=True):
    """A worker's request to claim a job, under a lease token of its own."""

    job_id: UUID
    worker_id: UUID
    token: UUID = msgspec.field(default_factory=uuid4)


class Claim(msgspec.Struct, frozen=True):
    """One attempt, held under its lease token."""

    job_id: UUID
    token: UUID
    worker_id: UUID
    type: str
    queue: str
    #: The JSON text as the client sent it.
    payload: str
    attempts: int
    max_attempts: int
    #: Workers lost with this job so far.
    worker_losses: int
    #: Seconds since the attempt could have started: the time the job waited in its queue.
    waited_seconds: float
    #: Seconds since the job was submitted.
    age_seconds: float
    on_ambiguous: OnAmbiguous = OnAmbiguous.RESEND
    request_id: str | None = None
    traceparent: str | None = None
    #: How many times in a row the job was deferred, and the server it waited for.
    deferrals: int = 0
    waits_for: str | None = None
    #: The servers that are known to be unavailable, and that this attempt must not contact.
    away: Sequence[str] = ()
    #: The attempt's time limit, in place of the type's.
    timeout_seconds: int | None = None

    @property
    def origin(self) -> Origin:
        return Origin(self.request_id, self.traceparent)


@dataclass(frozen=True, slots=True)
class Failure:
    """How one attempt failed. Stored as an entry of `jobs.history`; `jobs.error` has the message alone."""

    error: str
    message: str
    traceback: str
    seconds: float
    #: It is unknown whether the attempt had its effect.
    is_ambiguous: bool = False


@dataclass(slots=True)
class LostReply:
    """A caller's transition whose reply was lost, if there is one.

    The caller keeps this object and repeats the call once PostgreSQL answers. The call then first sends the same
    statement under the same token and returns its result, so that each transition is reported exactly once.
    """

    #: The statement's parameters, or None if no reply was lost.
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TransitionedJob:
    """A job whose state was changed by maintenance or by a client, and not by its own attempt."""

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
    def facts(self) -> JobFacts:
        """The fields that events have about it."""
        return {"job_id": str(self.job_id), "type": self.type, "queue": self.queue, "attempt": self.attempts}


@dataclass(frozen=True, slots=True)
class Expired(TransitionedJob):
    """A job that did not start before its `expires_at`: not at all, or not again after it was deferred."""

    end_reason: EndReason


@dataclass(frozen=True, slots=True)
class Deferred:
    """The result of deferring a job."""

    #: The job may not wait any longer, and became a dead letter.
    is_over: bool
    #: Seconds until its next attempt, unless its server is back earlier.
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Rescued(TransitionedJob):
    """A job taken back from a worker that stopped its heartbeat, or from a process that died or broke.

    `attempts` is the number of the lost attempt.
    """

    end_reason: EndReason | None
    worker_id: UUID | None
    #: The job's policy for an effect that may have happened; None if the effect had not begun.
    on_ambiguous: OnAmbiguous | None


@dataclass(frozen=True, slots=True)
class Cancelled(TransitionedJob):
    """A job that was cancelled. `attempts` is the number of the attempt that ran, if one did."""

    #: The job's policy for an effect that may have happened; None if the effect had not begun.
    on_ambiguous: OnAmbiguous | None


#: Maintenance writes carry the token of the leader's lease, so that a leader which lost it while it was frozen or cut
#: off cannot change anything. Other callers pass no fence.
FENCE = """(%(fence)s::bigint IS NULL
       OR EXISTS (SELECT FROM leases WHERE name = 'maintenance' AND token = %(fence)s))"""

# `<with>` and `<guard>` are what a job with an Idempotency-Key adds.
_SUBMISSION = """
WITH new AS (
  SELECT *, due <= now() AS is_due,
         -- Sent again after a lost reply, the statement finds its own row, which was written in time.
         CASE WHEN expires_at <= due THEN NOT EXISTS (SELECT FROM jobs WHERE jobs.id = wanted.id) ELSE FALSE END
           AS is_expired
  FROM unnest(
    %(id)s::uuid[], %(type)s::text[], %(payload)s::text[], %(queue)s::text[], %(priority)s::smallint[],
    %(max_attempts)s::integer[], %(run_at)s::timestamptz[], %(delay_seconds)s::float8[],
    %(publish_grace_seconds)s::float8[], %(expires_at)s::timestamptz[], %(on_ambiguous)s::text[],
    %(request_id)s::text[], %(traceparent)s::text[], %(keep_text)s::boolean[], %(tags)s::text[],
    %(timeout_seconds)s::integer[], %(retry_of)s::uuid[]
  ) AS wanted (id, type, payload, queue, priority, max_attempts, wish, delay_seconds, publish_grace_seconds,
               expires_at, on_ambiguous, request_id, traceparent, keep_text, tags, timeout_seconds,
               retry_of)
  CROSS JOIN LATERAL (
    SELECT GREATEST(now(), COALESCE(wish, now() + delay_seconds * interval '1 second'))
  ) AS dates (due)
)<with>, written AS (
  INSERT INTO jobs (id, type, status, payload, payload_text, queue, priority, max_attempts, run_at, publish_at,
                    expires_at, on_ambiguous, request_id, traceparent, tags, timeout_seconds, retry_of)
  SELECT id, type, 'pending', payload::jsonb, CASE WHEN keep_text THEN payload::json END, queue, priority, max_attempts,
         due, due + CASE WHEN is_due THEN publish_grace_seconds ELSE 0 END * interval '1 second',
         expires_at, on_ambiguous, request_id, traceparent, tags::text[], timeout_seconds, retry_of
  FROM new WHERE NOT is_expired<guard>
  ON CONFLICT (id) DO NOTHING
  RETURNING id, type, queue, status, attempts
), <told>
SELECT id, (extract(epoch FROM due) * 1000)::float8, is_due, is_expired, extract(epoch FROM clock_timestamp())::float8
FROM new""".replace("<told>", event_log.events_of("submit", "written"))

_SUBMIT = _SUBMISSION.replace("<with>", "").replace("<guard>", "")

# The lock is tried first, so that the insert meets no key of a transaction in progress and never waits. A key that was
# committed since the statement began is found by the insert. The job's id is the request's token.
_SUBMIT_ONCE = (
    _SUBMISSION.replace(
        "<with>",
        """, asked AS MATERIALIZED (
  SELECT *, pg_try_advisory_xact_lock(lock_id) AS is_free
  FROM unnest(
    %(id)s::uuid[], %(lock_id)s::bigint[], %(caller)s::text[], %(path)s::text[], %(key)s::text[],
    %(fingerprint)s::bytea[], %(answer_status)s::smallint[], %(location)s::text[], %(body)s::bytea[]
  ) AS request (id, lock_id, caller, path, key, fingerprint, answer_status, location, body)
), keyed AS (
  INSERT INTO idempotency_keys (caller, path, key, fingerprint, token, status, location, body)
  SELECT caller, path, key, fingerprint, id, answer_status, location, body
  FROM asked JOIN new USING (id) WHERE is_free AND NOT is_expired
  ON CONFLICT (caller, path, key) DO NOTHING
  RETURNING token
)""",
    ).replace("<guard>", " AND id IN (SELECT token FROM keyed)")
    + """ JOIN asked USING (id) LEFT JOIN keyed ON token = id"""
).replace("clock_timestamp())::float8\nFROM new", "clock_timestamp())::float8, is_free, token IS NOT NULL\nFROM new")


def submit(database: Database, jobs: Sequence[NewJob]) -> list[Submitted]:
    """Insert jobs as pending. All but those that had expired are committed when this returns."""
    rows = database.rows(_SUBMIT, _columns(jobs))
    found = {row[0]: Submitted(*row) for row in rows}
    return [found[job.id] for job in jobs]


def _columns(jobs: Sequence[NewJob]) -> dict[str, Any]:
    columns: dict[str, Any] = {name: [getattr(job, name) for job in jobs] for name in NewJob.__slots__}
    columns["id"] = _array(job.id for job in jobs)
    columns["keep_text"] = [not jsonb.preserves(job.payload) for job in jobs]
    columns["tags"] = [_text_array(job.tags) if job.tags else None for job in jobs]
    return columns


def submit_once(
    database: Database, jobs: Sequence[NewJob]
) -> list[Submitted | idempotency.KeptAnswer | IdempotencyConflict]:
    """Insert jobs that have an Idempotency-Key, each with its key. Return for each what came of it.

    That is the answer of an earlier request with the key, or why this one was not carried out. A job whose reply was
    lost, and which is sent again, is found by its id.
    """
    requests = [(job.id, job.once) for job in jobs if job.once is not None]
    columns = _columns(jobs) | {
        "lock_id": [once.key.lock_id for _, once in requests],
        "caller": [once.key.caller for _, once in requests],
        "path": [once.key.path for _, once in requests],
        "key": [once.key.text for _, once in requests],
        "fingerprint": [once.key.fingerprint for _, once in requests],
        "answer_status": [once.answer.status for _, once in requests],
        "location": [once.answer.location for _, once in requests],
        "body": [once.answer.body for _, once in requests],
    }
    rows = {row[0]: row for row in database.rows(_SUBMIT_ONCE, columns)}
    others = [once.key for job_id, once in requests if not rows[job_id][-1]]
    stored = idempotency.find(database, others) if others else {}
    return [_of_request(rows[job_id], once, stored) for job_id, once in requests]


def _of_request(
    row: Row, once: idempotency.Once, stored: Mapping[idempotency.Name, idempotency.Stored]
) -> Submitted | idempotency.KeptAnswer | IdempotencyConflict:
    *of_job, is_free, is_written = row
    submitted = Submitted(*of_job)
    found = stored.get(once.key.name)
    if is_written or (found is not None and found.token == submitted.id):
        return msgspec.structs.replace(submitted, is_expired=False)
    if found is not None:
        return found.replay(once.key)
    if is_free and submitted.is_expired:
        return submitted
    return IdempotencyKeyInFlight("a request with this Idempotency-Key is in flight")


def database_seconds(database: Database) -> float:
    """Return PostgreSQL's time, in Unix seconds."""
    (seconds,) = database.row("SELECT extract(epoch FROM clock_timestamp())::float8") or (0.0,)
    return float(seconds)


# A single message to the server without session state, so that it works through a connection pooler.
_TRY_SUBMIT = """
BEGIN;
INSERT INTO jobs (id, type, status, payload) VALUES (%s, 'readiness', 'pending', '{}');
INSERT INTO job_events (name, type, queue, status, job_ids, attempts)
VALUES ('submitted', 'readiness', 'default', 'pending', '{}', '{}');
ROLLBACK"""


def try_submit(database: Database) -> None:
    """Insert a job and roll back. Only this shows that a job could be submitted."""
    database.rows(_TRY_SUBMIT, (uuid4(),))


def publish_soon(database: Database, job_ids: Sequence[UUID]) -> None:
    """Make the relay publish jobs whose messages could not be sent."""
    database.rows(
        "UPDATE jobs SET publish_at = now() WHERE id = ANY(%s::uuid[]) AND (status = 'pending') IS TRUE",
        (sorted(job_ids),),
    )


def published(
    database: Database, job_ids: Sequence[UUID], *, republish_seconds: float, fence: int | None = None
) -> int:
    """Record that messages were sent: unless claimed, these jobs are published again after `republish_seconds`.

    Return how many of the jobs are still pending; 0 if the fence is no longer valid. Changes no indexed column, so
    PostgreSQL can update the rows in place (HOT).
    """
    noted = database.rows(
        # Only if the job is still due: one that has run meanwhile and waits for its retry has a later `publish_at`.
        f"""UPDATE jobs SET publish_at = now() + %(seconds)s * interval '1 second'
        WHERE id = ANY(%(job_ids)s) AND (status = 'pending') IS TRUE AND run_at <= now() AND {FENCE}
        RETURNING 1""",
        {"seconds": republish_seconds, "job_ids": list(job_ids), "fence": fence},
    )
    return len(noted)


# The text as it was sent. If the payload was changed by other means than this module, the stored text is outdated.
_PAYLOAD = "CASE WHEN payload_text::jsonb = payload THEN payload_text::text ELSE payload::text END"
# Read with each claim, so that it needs no statement of its own and is never older than the claim. The table is nearly
# always empty. A server's prober is the one job that may contact it.
_AWAY = "ARRAY(SELECT name FROM servers WHERE prober IS DISTINCT FROM jobs.id)"

#: Whether a job's queue runs. The table is nearly always empty, and read once for a statement.
NOT_PAUSED = "queue <> ALL(ARRAY(SELECT queue FROM queue_pauses))"

# A statement that selects jobs by id writes its guard as (status = …) IS TRUE: equivalent, but it matches no partial
# index. Otherwise PostgreSQL, with statistics from an empty queue, would scan all waiting rows to find an id.
_CLAIM_COLUMNS = f"""lease_token::text, type, queue, {_PAYLOAD}, attempts, max_attempts, worker_losses,
       extract(epoch FROM now() - GREATEST(run_at, returned_at))::float8,
       extract(epoch FROM timezone('utc', now()) - created_at)::float8, on_ambiguous,
       request_id, traceparent, deferrals, waits_for, {_AWAY}, timeout_seconds"""

_CLAIM = event_log.with_event(
    "claim",
    f"""
UPDATE jobs
SET status = 'processing', attempts = attempts + 1, lease_token = ask.token, worker_id = ask.worker_id,
    started_at = now(), effect_started_at = NULL, updated_at = timezone('utc', now())
FROM unnest(%(job_ids)s::uuid[], %(worker_ids)s::uuid[], %(tokens)s::uuid[]) AS ask (job_id, worker_id, token)
WHERE id = ask.job_id AND (status = 'pending') IS TRUE AND run_at <= now()
  AND (expires_at IS NULL OR expires_at > now()) AND {NOT_PAUSED}""",
    _CLAIM_COLUMNS,
)

_CLAIMED = f"""
SELECT {_CLAIM_COLUMNS}
FROM jobs WHERE id = ANY(%(job_ids)s::uuid[]) AND lease_token = ANY(%(tokens)s::uuid[])"""


def claim(database: Database, asks: Sequence[ClaimRequest]) -> list[Claim | None]:
    """Begin the next attempt of jobs that are due, and count it.

    None: it is finished, running, not due, expired or unknown, or its queue is paused.

    After `DatabaseUnavailable`, call again with the same tokens to learn whether the claims succeeded.
    """
    # Rows are always locked in the order of their ids, so that two batches cannot deadlock.
    found = _claims(database, _CLAIM, sorted(asks, key=lambda ask: ask.job_id))
    if missing := [ask for ask in asks if ask.token not in found]:
        # `rows` may have sent the claim twice, and then only the first found the row: look for our own token.
        found |= _claims(database, _CLAIMED, missing)
    return [found.get(ask.token) for ask in asks]


def _claims(database: Database, sql: str, asks: Sequence[ClaimRequest]) -> dict[UUID, Claim]:
    columns = {
        "job_ids": _array(ask.job_id for ask in asks),
        "worker_ids": _array(ask.worker_id for ask in asks),
        "tokens": _array(ask.token for ask in asks),
    }
    known = {str(ask.token): ask for ask in asks}
    claims: dict[UUID, Claim] = {}
    for token, *rest in database.rows(sql, columns):
        ask = known[token]
        claims[ask.token] = Claim(ask.job_id, ask.token, ask.worker_id, *rest)
    return claims


def begin_effect(database: Database, claim: Claim) -> bool:
    """Record that the attempt is about to do what cannot be undone. False: the lease is gone, so it must not do it."""
    sql = """
    UPDATE jobs SET effect_started_at = now()
    WHERE id = %s AND (status = 'processing') IS TRUE AND lease_token = %s
    RETURNING id"""
    return database.row(sql, (claim.job_id, claim.token)) is not None


_COMPLETE = event_log.with_event(
    "complete",
    """
UPDATE jobs
SET status = 'completed', result = done.result::jsonb,
    result_text = CASE WHEN done.keep_text THEN done.result::json END,
    error = NULL, lease_token = NULL, waits_for = NULL,
    transition_token = done.transition, finished_at = now(), updated_at = timezone('utc', now())
FROM unnest(%(job_ids)s::uuid[], %(leases)s::uuid[], %(transitions)s::uuid[], %(results)s::text[],
            %(keep_text)s::boolean[]) AS done (job_id, lease, transition, result, keep_text)
WHERE id = done.job_id AND (status = 'processing') IS TRUE AND lease_token = done.lease""",
    "id",
)


def complete(database: Database, done: Sequence[tuple[Claim, str]]) -> list[bool]:
    """Complete attempts with their results (JSON text). False: the lease is gone, and the result is discarded."""
    ordered = sorted(done, key=lambda item: item[0].job_id)
    names = _held([(claim.job_id, claim.token) for claim, _ in ordered], "complete")
    names["results"] = [result for _, result in ordered]
    names["keep_text"] = [not jsonb.preserves(result) for _, result in ordered]
    completed = {job_id for (job_id,) in _send(database, _COMPLETE, "id", names)}
    return [claim.job_id in completed for claim, _ in done]


_COMPLETE_CANARY = """
WITH gone AS (
  DELETE FROM jobs
  WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(token)s
  RETURNING queue, id, lease_token, extract(epoch FROM timezone('utc', now()) - created_at)::float8 AS seconds
)
INSERT INTO canaries (queue, job_id, lease_token, finished_at, seconds)
SELECT queue, id, lease_token, now(), GREATEST(seconds, 0) FROM gone
ON CONFLICT (queue) DO UPDATE
SET job_id = excluded.job_id, lease_token = excluded.lease_token,
    finished_at = excluded.finished_at, seconds = excluded.seconds
RETURNING job_id"""

_COMPLETED_CANARY = "SELECT job_id FROM canaries WHERE job_id = %(job_id)s AND lease_token = %(token)s"


def complete_canary(database: Database, claim: Claim) -> bool:
    """Delete a completed canary, and record when it completed. False: the lease is gone."""
    names = {"job_id": claim.job_id, "token": claim.token}
    # `rows` may have sent it twice, and then only the first one found the row: look for our own token.
    return any(database.row(sql, names) for sql in (_COMPLETE_CANARY, _COMPLETED_CANARY))


#: The number of failed attempts that a job's history keeps: the first ones and the last ones. Each may have 5 KB, and a
#: job can be redriven any number of times.
HISTORY_FIRST, HISTORY_LAST = 10, 40

# Before an entry is added: the entries of the history to keep, and the number of entries omitted so far.
_HISTORY = f"""CASE WHEN jsonb_array_length(history) < {HISTORY_FIRST + HISTORY_LAST} THEN history
      ELSE jsonb_path_query_array(history, '$[0 to {HISTORY_FIRST - 1}]')
        || jsonb_path_query_array(history, '$[last - {HISTORY_LAST - 2} to last]') END"""
_OMITTED = f"history_omitted + GREATEST(0, jsonb_array_length(history) - {HISTORY_FIRST + HISTORY_LAST - 1})"

_RETRY = event_log.with_event(
    "retry",
    f"""
UPDATE jobs
SET status = 'pending', error = %(message)s, lease_token = NULL, transition_token = %(transition)s,
    waits_for = NULL, deferrals = 0,
    run_at = now() + %(delay)s * interval '1 second', publish_at = now() + %(delay)s * interval '1 second',
    history_omitted = {_OMITTED},
    history = {_HISTORY} || jsonb_build_array(%(entry)s::jsonb || jsonb_build_object('started_at', started_at)),
    updated_at = timezone('utc', now())
WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(lease)s""",
    "id",
)


def retry(database: Database, claim: Claim, failure: Failure, *, delay_seconds: float) -> bool:
    """Make the job pending again, for another attempt after `delay_seconds`. False: the lease is gone."""
    return _settle(database, claim, "retry", _RETRY, {"delay": delay_seconds, **_record(claim, failure)})


_FAIL = event_log.with_event(
    "fail",
    f"""
UPDATE jobs
SET status = 'failed', end_reason = %(reason)s, error = %(message)s, lease_token = NULL, waits_for = NULL,
    transition_token = %(transition)s,
    history_omitted = {_OMITTED},
    history = {_HISTORY} || jsonb_build_array(%(entry)s::jsonb || jsonb_build_object('started_at', started_at)),
    finished_at = now(), updated_at = timezone('utc', now())
WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(lease)s""",
    "id",
)


def fail(database: Database, claim: Claim, failure: Failure, *, reason: EndReason) -> bool:
    """Make the job a dead letter. False: the lease is gone."""
    return _settle(database, claim, "fail", _FAIL, {"reason": reason, **_record(claim, failure)})


# A job that is given back keeps its place in the queue, before jobs submitted later. `returned_at` is when it began to
# wait again.
_GIVE_BACK = """
UPDATE jobs
SET status = 'pending', attempts = attempts - 1, lease_token = NULL, started_at = NULL,
    transition_token = held.transition, run_at = LEAST(run_at, now()), publish_at = now(), returned_at = now(),
    updated_at = timezone('utc', now())
FROM unnest(%(job_ids)s::uuid[], %(leases)s::uuid[], %(transitions)s::uuid[]) AS held (job_id, lease, transition)
WHERE id = held.job_id AND (status = 'processing') IS TRUE AND lease_token = held.lease AND effect_started_at IS NULL"""

# The number of the attempt that was given back, even if the next one has begun before the lost reply was looked up.
_RELEASED = """id, type, queue, CASE status WHEN 'processing' THEN attempts ELSE attempts + 1 END,
  request_id, traceparent"""

_RELEASE = event_log.with_event("release", _GIVE_BACK, "id")
_RELEASE_WORKER = event_log.with_event("release", _GIVE_BACK, _RELEASED)


def release(database: Database, claims: Sequence[Claim]) -> list[bool]:
    """Give jobs back as if they had not been claimed: the attempts do not count, and the jobs keep their places.

    False: the lease is gone, or the effect has begun, and so the attempt has to count.
    """
    names = _held(sorted((claim.job_id, claim.token) for claim in claims), "release")
    released = {job_id for (job_id,) in _send(database, _RELEASE, "id", names)}
    return [claim.job_id in released for claim in claims]


_HELD = """
SELECT id, lease_token FROM jobs
WHERE status = 'processing' AND worker_id = %s AND effect_started_at IS NULL AND lease_token <> ALL(%s::uuid[])
ORDER BY id"""


def release_worker(
    database: Database, worker_id: UUID, *, known: Collection[UUID] = (), lost_reply: LostReply | None = None
) -> list[TransitionedJob]:
    """Give back the jobs that a stopping worker holds without knowing it, because the replies to its claims were lost.

    `known` are the lease tokens that the worker knows: those attempts are running, or about to be settled.
    """
    lost_reply = lost_reply or LostReply()
    rows = _resend(database, lost_reply, _RELEASE_WORKER, _RELEASED)
    if not rows and (held := database.rows(_HELD, (worker_id, list(known)))):
        rows = _send_tracked(database, lost_reply, _RELEASE_WORKER, _RELEASED, _held(held, "release"))
    return [TransitionedJob(*row) for row in rows]


_SNOOZE = event_log.with_event(
    "snooze",
    """
UPDATE jobs
SET status = 'pending', attempts = attempts - 1, error = %(message)s, lease_token = NULL, started_at = NULL,
    transition_token = %(transition)s, waits_for = NULL,
    run_at = now() + %(delay)s * interval '1 second', publish_at = now() + %(delay)s * interval '1 second',
    updated_at = timezone('utc', now())
WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(lease)s""",
    "id",
)


def snooze(database: Database, claim: Claim, message: str | None, *, delay_seconds: float) -> bool:
    """Postpone the job. The attempt does not count; `message` says why. False: the lease is gone."""
    return _settle(database, claim, "snooze", _SNOOZE, {"delay": delay_seconds, "message": message})


#: So many servers at most are known to be away. Job code may name any number of them; the jobs of the others come back
#: by their own dates. All processes share the table; `CircuitBreaker` is for the service's own servers, in one process.
MAX_SERVERS_AWAY = 100

# The wait is at most half of the time left, so that there is an attempt near the end as well. It is at least as long as
# its server has been unavailable: the job is brought forward once the server is back, and a job that tried in vain goes
# behind the others. The server's row is written in the same transaction. Pauses between probes grow with the outage.
_DEFER = f"""
WITH held AS (
  SELECT id, COALESCE(expires_at, COALESCE(deferred_since, now()) + %(limit)s * interval '1 second') AS ends_at
  FROM jobs WHERE id = %(job_id)s AND (status = 'processing') IS TRUE AND lease_token = %(lease)s
  FOR NO KEY UPDATE
), known AS (
  SELECT error, extract(epoch FROM now() - away_since)::float8 AS seconds FROM servers WHERE name = %(server)s
), waited (name) AS (
  SELECT %(server)s::text
  WHERE NOT %(tried)s OR EXISTS (SELECT FROM known) OR (SELECT count(*) FROM servers) < %(max_servers)s
), dated AS (
  SELECT id, ends_at, now() + LEAST(
    GREATEST(%(delay)s, LEAST(COALESCE((SELECT seconds FROM known), 0), %(max_delay)s)),
    GREATEST(%(least_delay)s, extract(epoch FROM ends_at - now())::float8 / 2)
  ) * interval '1 second' AS next_at
  FROM held
), moved AS (
  UPDATE jobs
  SET status = CASE WHEN next_at < ends_at THEN 'pending' ELSE 'failed' END,
      end_reason = CASE WHEN next_at < ends_at THEN NULL ELSE 'unavailable' END,
      finished_at = CASE WHEN next_at < ends_at THEN NULL ELSE now() END,
      error = CASE WHEN %(tried)s THEN %(message)s
                   ELSE COALESCE(%(message)s || ': ' || (SELECT error FROM known), %(message)s) END,
      attempts = attempts - 1, lease_token = NULL, transition_token = %(transition)s,
      run_at = CASE WHEN next_at < ends_at THEN next_at ELSE run_at END, publish_at = next_at,
      waits_for = (SELECT name FROM waited), deferrals = deferrals + 1,
      deferred_since = COALESCE(deferred_since, now()),
      history_omitted = CASE WHEN %(tried)s THEN {_OMITTED} ELSE history_omitted END,
      history = CASE WHEN %(tried)s
        THEN {_HISTORY} || jsonb_build_array(%(entry)s::jsonb || jsonb_build_object('started_at', started_at))
        ELSE history END,
      updated_at = timezone('utc', now())
  FROM dated WHERE jobs.id = dated.id
  RETURNING jobs.*
), {event_log.events_of("defer", "moved")}, noted AS (
  INSERT INTO servers (name, error, probe_at)
  SELECT name, %(message)s, now() + %(pause)s * interval '1 second' FROM waited, moved
  WHERE name IS NOT NULL AND %(tried)s
  ON CONFLICT (name) DO UPDATE
  SET error = excluded.error, prober = NULLIF(servers.prober, %(job_id)s),
      probe_at = CASE WHEN servers.prober = %(job_id)s THEN now() + GREATEST(%(pause)s, LEAST(%(max_pause)s,
        extract(epoch FROM now() - servers.away_since)::float8 / 4)) * interval '1 second' ELSE servers.probe_at END
)
SELECT <deferred> FROM moved"""

_DEFERRED = "id, end_reason IS NOT NULL, extract(epoch FROM run_at - now())::float8"


def defer(
    database: Database,
    claim: Claim,
    failure: Failure,
    *,
    deferral: Deferral,
    server: str | None = None,
    is_tried: bool = True,
    retry_after_seconds: float | None = None,
) -> Deferred | None:
    """Postpone the job because a server is unavailable. The attempt does not count.

    It is added to the history if it contacted the server (`is_tried`). The job becomes a dead letter if no further
    attempt could begin before its `expires_at`, or before the limit of `deferral`. A `server` is recorded as
    unavailable for all jobs. None: the lease is gone.
    """
    delay = deferral.delay_seconds(claim.deferrals) if retry_after_seconds is None else retry_after_seconds
    pause = max(deferral.first_seconds / 4, min(retry_after_seconds or 0.0, deferral.max_seconds))
    names = _record(claim, failure, is_counted=False) | {
        "job_id": claim.job_id,
        "job_ids": [claim.job_id],
        "lease": claim.token,
        "transition": _transition(claim.token, "defer"),
        "server": server,
        "tried": is_tried,
        "delay": delay,
        "least_delay": deferral.first_seconds if retry_after_seconds is None else retry_after_seconds,
        "max_delay": deferral.max_seconds,
        "limit": deferral.limit_seconds,
        "pause": pause,
        "max_pause": deferral.probe_seconds,
        "max_servers": MAX_SERVERS_AWAY,
    }
    rows = _send(database, _DEFER.replace("<deferred>", _DEFERRED), _DEFERRED, names)
    return Deferred(*rows[0][1:]) if rows else None


# Moves a job to the place it had when it was first deferred, and so before jobs submitted since, but not before the
# head of the queue: the queue's latency is measured from there. `returned_at` is when this job began to wait again.
_FORWARD = """
run_at = LEAST(now(), COALESCE((
  SELECT GREATEST(jobs.deferred_since, line.run_at) FROM jobs AS line
  WHERE line.queue = jobs.queue AND line.status = 'pending' AND line.priority = jobs.priority AND line.run_at <= now()
  ORDER BY line.run_at LIMIT 1
), now())), returned_at = now(), publish_at = now()"""

_PROBE = f"""
WITH next AS (
  SELECT id FROM jobs
  WHERE status = 'pending' AND waits_for = %(server)s AND id IS DISTINCT FROM %(instead_of)s AND {NOT_PAUSED}
    AND {FENCE}
  ORDER BY run_at LIMIT 1
  FOR NO KEY UPDATE SKIP LOCKED
), brought AS (
  UPDATE jobs SET {_FORWARD} FROM next WHERE jobs.id = next.id RETURNING jobs.id
)
UPDATE servers SET prober = brought.id FROM brought WHERE name = %(server)s RETURNING prober"""


def probe(database: Database, server: str, *, instead_of: UUID | None = None, fence: int | None = None) -> bool:
    """Let the first of the jobs that wait for an unavailable server try it now. False: no job waits for it.

    A job in a paused queue is not chosen, because nobody would claim it.
    """
    return database.row(_PROBE, {"server": server, "instead_of": instead_of, "fence": fence}) is not None


_BRING_FORWARD = f"""
WITH next AS (
  SELECT id FROM jobs
  WHERE status = 'pending' AND waits_for = %(server)s AND run_at > now() AND {FENCE}
  ORDER BY run_at LIMIT %(limit)s
  FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE jobs SET {_FORWARD} FROM next WHERE jobs.id = next.id RETURNING 1"""


def bring_forward(database: Database, server: str, *, limit: int, fence: int | None = None) -> int:
    """Make up to `limit` of the jobs that wait for a server due now. Return how many."""
    return len(database.rows(_BRING_FORWARD, {"server": server, "limit": limit, "fence": fence}))


_MOVED = "jobs.id, type, queue, attempts, request_id, traceparent"

_FAIL_UNKNOWN = event_log.with_event(
    "fail_unknown",
    f"""
WITH strays AS (
  SELECT id FROM jobs
  WHERE id = ANY(%(job_ids)s) AND (type = %(job_type)s) IS TRUE AND (status = 'pending') IS TRUE
    AND run_at < now() - %(grace)s * interval '1 second' AND {FENCE}
  ORDER BY id FOR NO KEY UPDATE
)
UPDATE jobs
SET status = 'failed', end_reason = 'unknown_type', error = 'no worker knows the job type ' || type,
    transition_token = %(transition)s, finished_at = now(), updated_at = timezone('utc', now())
FROM strays WHERE jobs.id = strays.id""",
    _MOVED,
)


def fail_unknown(
    database: Database,
    job_ids: Sequence[UUID],
    *,
    job_type: str,
    grace_seconds: float,
    fence: int | None = None,
    lost_reply: LostReply | None = None,
) -> list[TransitionedJob]:
    """Fail pending jobs of a type that this worker does not know, once they have waited `grace_seconds`.

    Until then they stay pending, because during a deployment a newer worker may know the type.
    """
    lost_reply = lost_reply or LostReply()
    rows = _resend(database, lost_reply, _FAIL_UNKNOWN, _MOVED)
    if job_ids and not rows:
        names = {"job_ids": list(job_ids), "job_type": job_type, "grace": grace_seconds, "fence": fence}
        rows = _send_tracked(database, lost_reply, _FAIL_UNKNOWN, _MOVED, names | {"transition": uuid4()})
    return [TransitionedJob(*row) for row in rows]


# The last entry of the history describes the attempt that was taken back, even if the next one has begun.
_TAKEN_BACK = """jobs.id, type, queue, (history->-1->>'attempt')::integer, request_id, traceparent,
  end_reason,
  (history->-1->>'worker_id')::uuid, CASE WHEN (history->-1->>'ambiguous')::boolean THEN jobs.on_ambiguous END"""

# Shared by jobs whose worker stopped its heartbeat and jobs whose own process died or broke. The attempt counts only if
# the job was alone in its process. Else another job may be the cause: `worker_losses` isolates the next attempt.
_TAKE_BACK = f"""
WITH lost AS (
  SELECT jobs.id, worker_id, CASE WHEN effect_started_at IS NOT NULL THEN on_ambiguous END AS on_ambiguous,
         CASE WHEN worker_losses + 1 >= %(poison)s THEN 'poison'
              WHEN effect_started_at IS NOT NULL AND on_ambiguous = 'hold' THEN 'ambiguous'
              WHEN %(counted)s AND attempts >= max_attempts THEN 'attempts_exhausted' END AS reason
  FROM jobs JOIN unnest(%(job_ids)s::uuid[], %(leases)s::uuid[]) AS held (job_id, lease) ON jobs.id = held.job_id
  WHERE (status = 'processing') IS TRUE AND lease_token = held.lease AND <guard>
  ORDER BY jobs.id FOR NO KEY UPDATE OF jobs
)
UPDATE jobs
SET status = CASE WHEN reason IS NULL THEN 'pending' ELSE 'failed' END,
    end_reason = reason, finished_at = CASE WHEN reason IS NOT NULL THEN now() END,
    error = %(message)s, worker_losses = worker_losses + 1,
    attempts = attempts - CASE WHEN %(counted)s THEN 0 ELSE 1 END,
    lease_token = NULL, worker_id = NULL, transition_token = %(transition)s,
    waits_for = CASE WHEN %(counted)s THEN NULL ELSE waits_for END,
    run_at = <run_at>, publish_at = now() + %(delay)s * interval '1 second', returned_at = now(),
    history_omitted = {_OMITTED},
    history = {_HISTORY} || jsonb_build_array(jsonb_build_object(
      'attempt', attempts, 'worker_id', lost.worker_id, 'started_at', started_at,
      'seconds', round(extract(epoch FROM now() - started_at)::numeric, 3),
      'error', %(error)s::text, 'message', %(message)s::text)
      || CASE WHEN lost.on_ambiguous IS NULL THEN '{{}}' ELSE '{{"ambiguous": true}}'::jsonb END
      || CASE WHEN %(counted)s THEN '{{}}' ELSE '{{"counted": false}}'::jsonb END),
    updated_at = timezone('utc', now())
FROM lost WHERE jobs.id = lost.id"""

_KEEPS_ITS_PLACE = "LEAST(run_at, now())"

_SILENT = "unnest(%(workers)s::uuid[], %(beats)s::bigint[]) AS silent (id, beats)"

_LOST_JOBS = """
SELECT id, lease_token FROM jobs
WHERE status = 'processing'
  AND (worker_id = ANY(%(workers)s::uuid[]) OR (worker_id IS NULL AND array_position(%(workers)s::uuid[], NULL) > 0))
ORDER BY id LIMIT %(limit)s
FOR NO KEY UPDATE SKIP LOCKED"""


def _take_back(verb: str, *, run_at: str, guard: str = "TRUE") -> str:
    return event_log.with_event(verb, _TAKE_BACK.replace("<run_at>", run_at).replace("<guard>", guard), _TAKEN_BACK)


# A worker that has sent a heartbeat since it was found silent is alive, and keeps its jobs.
_RESCUE = _take_back(
    "rescue",
    run_at=_KEEPS_ITS_PLACE,
    guard=f"""{FENCE} AND EXISTS (
    SELECT FROM {_SILENT}
    WHERE silent.id IS NOT DISTINCT FROM jobs.worker_id
      AND NOT EXISTS (SELECT FROM workers WHERE workers.id = silent.id AND workers.beats IS DISTINCT FROM silent.beats)
  )""",
)

_CRASH = _take_back("crash", run_at="now() + %(delay)s * interval '1 second'")

_ABANDON = _take_back("abandon", run_at=_KEEPS_ITS_PLACE)

#: The `error` that the history has for an attempt whose process was lost.
WORKER_LOST = "WorkerLost"


def rescue(
    database: Database,
    silent: Mapping[UUID | None, int | None],
    *,
    limit: int = 500,
    fence: int | None = None,
    lost_reply: LostReply | None = None,
) -> list[Rescued]:
    """Take back the jobs of silent workers, for another attempt or as dead letters. The attempts do not count.

    `silent` maps a worker's id to the heartbeat count at which it stopped, or None if the worker has no row. A sweep
    that keeps `lost_reply` also calls this when no worker is silent; without either, no statement is sent.
    """
    lost_reply = lost_reply or LostReply()
    rows = _resend(database, lost_reply, _RESCUE, _TAKEN_BACK)
    if silent and not rows:
        workers = {"workers": list(silent), "beats": list(silent.values())}
        lost = database.rows(_LOST_JOBS, workers | {"limit": limit})
        if lost:
            message = "the worker was lost: killed, frozen or cut off"
            names = workers | {"fence": fence} | _lost(lost, message, counted=False, transition=uuid4())
            rows = _send_tracked(database, lost_reply, _RESCUE, _TAKEN_BACK, names)
    return [_rescued(row) for row in rows]


def crash(database: Database, claim: Claim, message: str, *, delay_seconds: float) -> Rescued | None:
    """Record that the attempt killed the process it had to itself. None: the lease is gone."""
    names = _lost([(claim.job_id, claim.token)], message, counted=True, transition=_transition(claim.token, "crash"))
    rows = _send(database, _CRASH, _TAKEN_BACK, names | {"delay": delay_seconds})
    return _rescued(rows[0]) if rows else None


def abandon(database: Database, claim: Claim, message: str) -> Rescued | None:
    """Give up an attempt whose process broke, where the job may not be the cause. None: the lease is gone.

    As after a lost worker, the attempt does not count, and the next one gets a process of its own.
    """
    names = _lost([(claim.job_id, claim.token)], message, counted=False, transition=_transition(claim.token, "abandon"))
    rows = _send(database, _ABANDON, _TAKEN_BACK, names)
    return _rescued(rows[0]) if rows else None


def _lost(held: Sequence[Row], message: str, *, counted: bool, transition: UUID) -> dict[str, Any]:
    return {
        "job_ids": [job_id for job_id, _ in held],
        "leases": [lease for _, lease in held],
        "transition": transition,
        "counted": counted,
        "message": message,
        "error": WORKER_LOST,
        "poison": POISON_WORKER_LOSSES,
        "delay": 0,
    }


def _rescued(row: Row) -> Rescued:
    *job, reason, worker_id, policy = row
    return Rescued(*[*job, reason and EndReason(reason), worker_id, policy and OnAmbiguous(policy)])


_EXPIRED = f"{_MOVED}, end_reason"

_LATE_JOBS = """
SELECT id FROM jobs WHERE status = 'pending' AND expires_at <= now()
ORDER BY expires_at LIMIT %s
FOR NO KEY UPDATE SKIP LOCKED"""

_EXPIRE = event_log.with_event(
    "expire",
    f"""
WITH late AS (
  SELECT id FROM jobs
  WHERE id = ANY(%(job_ids)s) AND (status = 'pending') IS TRUE AND expires_at <= now() AND {FENCE}
  ORDER BY id FOR NO KEY UPDATE
)
UPDATE jobs
SET status = 'failed', end_reason = CASE WHEN deferrals > 0 THEN 'unavailable' ELSE 'expired' END,
    error = CASE WHEN deferrals > 0 THEN error ELSE 'not begun before expires_at' END,
    transition_token = %(transition)s, finished_at = now(), updated_at = timezone('utc', now())
FROM late WHERE jobs.id = late.id""",
    _EXPIRED,
)


def expire(
    database: Database, *, limit: int = 500, fence: int | None = None, lost_reply: LostReply | None = None
) -> list[Expired]:
    """Fail pending jobs whose `expires_at` has passed. A job that was deferred keeps the error it was deferred with."""
    lost_reply = lost_reply or LostReply()
    rows = _resend(database, lost_reply, _EXPIRE, _EXPIRED)
    if not rows and (late := [job_id for (job_id,) in database.rows(_LATE_JOBS, (limit,))]):
        names = {"job_ids": late, "transition": uuid4(), "fence": fence}
        rows = _send_tracked(database, lost_reply, _EXPIRE, _EXPIRED, names)
    return [Expired(*[*job, EndReason(reason)]) for *job, reason in rows]


# Whether the cancel added an entry is seen from the last one, if it is about the attempt that the row still names.
_CANCELLED = f"""{_MOVED},
  CASE WHEN history->-1->>'error' = 'Cancelled' AND (history->-1->>'started_at')::timestamptz = started_at
       THEN on_ambiguous END"""

# A running attempt is interrupted. If its effect had begun, it is unknown whether it happened.
_END_CANCELLED = f"""
SET status = 'cancelled', end_reason = 'cancelled_by_operator', lease_token = NULL,
    cancel_reason = %(reason)s, cancelled_by = %(by)s,
    transition_token = %(transition)s, finished_at = now(), updated_at = timezone('utc', now()),
    history_omitted = CASE WHEN status = 'processing' AND effect_started_at IS NOT NULL
      THEN {_OMITTED} ELSE history_omitted END,
    history = CASE WHEN status = 'processing' AND effect_started_at IS NOT NULL
      THEN {_HISTORY} || jsonb_build_array(jsonb_build_object(
        'attempt', attempts, 'worker_id', worker_id, 'started_at', started_at,
        'seconds', round(extract(epoch FROM now() - started_at)::numeric, 3),
        'error', 'Cancelled', 'message', 'cancelled after its effect had begun', 'ambiguous', TRUE))
      ELSE history END"""

_CANCEL = event_log.with_event(
    "cancel",
    f"""
UPDATE jobs {_END_CANCELLED.strip()}
WHERE id = ANY(%(job_ids)s) AND (status IN ('pending', 'processing')) IS TRUE""",
    _CANCELLED,
)


def cancel(
    database: Database,
    job_id: UUID,
    *,
    reason: str | None = None,
    by: str | None = None,
    lost_reply: LostReply | None = None,
) -> Cancelled | None:
    """End a job that is not finished. None: it is finished, or there is no such job.

    The row keeps the reason, and `by`: the name of who cancelled it.

    A running attempt loses its lease: it can no longer begin its effect, and its verdict is refused. Its worker learns
    of this with its next heartbeat, and interrupts it.
    """
    lost_reply = lost_reply or LostReply()
    names = lost_reply.parameters or {"job_ids": [job_id], "transition": uuid4(), "reason": reason, "by": by}
    rows = _send_tracked(database, lost_reply, _CANCEL, _CANCELLED, names)
    return _cancelled(rows[0]) if rows else None


def _cancelled(row: Row) -> Cancelled:
    *job, policy = row
    return Cancelled(*[*job, policy and OnAmbiguous(policy)])


_FINISHED = """
SELECT status, transition_token, finished_at FROM jobs
WHERE id = %s AND (status IN ('completed', 'failed', 'cancelled')) IS TRUE"""

# Only if the job still has the end that was seen: sent twice, it must not redrive a job that has finished again since.
_PENDING_AGAIN = """
SET status = 'pending', attempts = 0, worker_losses = 0, end_reason = NULL, error = NULL, result = NULL,
    result_text = NULL, worker_id = NULL, started_at = NULL, finished_at = NULL, expires_at = NULL,
    waits_for = NULL, deferrals = 0, deferred_since = NULL, cancel_reason = NULL, cancelled_by = NULL,
    transition_token = %(transition)s, run_at = now(), publish_at = now(), updated_at = timezone('utc', now())"""

_REDRIVE = event_log.with_event(
    "redrive",
    f"""
UPDATE jobs {_PENDING_AGAIN}
WHERE id = ANY(%(job_ids)s) AND (status = %(status)s) IS TRUE
  AND transition_token IS NOT DISTINCT FROM %(seen)s AND finished_at = %(finished_at)s""",
    _MOVED,
)

# 0, because the first attempt after the redrive may have begun already.
_REDRIVEN = "jobs.id, type, queue, 0, request_id, traceparent"


def redrive(database: Database, job_id: UUID, *, lost_reply: LostReply | None = None) -> TransitionedJob | None:
    """Run a finished job again. Attempts start at 0; the history stays. None: not finished, or there is no such job."""
    lost_reply = lost_reply or LostReply()
    names = lost_reply.parameters or _end_of(database, job_id)
    rows = _send_tracked(database, lost_reply, _REDRIVE, _REDRIVEN, names) if names else []
    return TransitionedJob(*rows[0]) if rows else None


def _end_of(database: Database, job_id: UUID) -> dict[str, Any] | None:
    """Return the parameters of a redrive: how and when the job ended. None: not finished, or there is no such job."""
    end = database.row(_FINISHED, (job_id,))
    seen = dict(zip(("status", "seen", "finished_at"), end or (), strict=False))
    return seen | {"job_ids": [job_id], "transition": uuid4()} if seen else None


def _with_members(verb: str, changed: str, columns: str) -> str:
    """Return a statement about the next members of an action on many jobs.

    `changed` is a part of WITH. Its last query, `moved`, has the jobs that the verb has changed. A member is deleted by
    the statement that looks at it: there is no state between the two, whatever is lost.
    """
    return f"""
WITH running AS (
  SELECT id FROM bulk_actions WHERE id = %(action_id)s AND state = 'running' AND {FENCE} FOR NO KEY UPDATE
), members AS (
  DELETE FROM bulk_action_jobs
  WHERE action_id = %(action_id)s AND place = ANY(%(places)s) AND EXISTS (SELECT FROM running)
  RETURNING job_id, seen, finished_at
), {changed.strip()}, {event_log.events_of(verb, "moved")}, counted AS (
  UPDATE bulk_actions
  SET moved = moved + (SELECT count(*) FROM moved),
      skipped = skipped + (SELECT count(*) FROM members) - (SELECT count(*) FROM moved)
  FROM running WHERE bulk_actions.id = running.id
)
SELECT {columns} FROM moved AS jobs"""


# A job that has left `failed` since the action began, or has failed again, has another end than was seen then.
_DEAD_MEMBERS = """dead AS (
  SELECT jobs.id FROM jobs JOIN members ON jobs.id = job_id
  WHERE (status = 'failed') IS TRUE AND transition_token IS NOT DISTINCT FROM seen
    AND jobs.finished_at = members.finished_at
  ORDER BY jobs.id FOR UPDATE OF jobs
)"""

_REDRIVE_SOME = _with_members(
    "redrive",
    f"""{_DEAD_MEMBERS}, moved AS (
  UPDATE jobs {_PENDING_AGAIN.strip()}, redrive_id = %(action_id)s
  FROM dead WHERE jobs.id = dead.id
  RETURNING jobs.*
)""",
    _REDRIVEN,
)

# Whatever happened to a job since, it is cancelled if its status is still one of those that were chosen.
_CANCEL_SOME = _with_members(
    "cancel",
    f"""unfinished AS (
  SELECT jobs.id FROM jobs JOIN members ON jobs.id = job_id
  WHERE (status = ANY(%(statuses)s)) IS TRUE ORDER BY jobs.id FOR NO KEY UPDATE OF jobs
), moved AS (
  UPDATE jobs {_END_CANCELLED.strip()}
  FROM unfinished WHERE jobs.id = unfinished.id
  RETURNING jobs.*
)""",
    _CANCELLED,
)

_LEFT = "SELECT count(*) FROM bulk_action_jobs WHERE action_id = %(action_id)s AND place = ANY(%(places)s)"

_MEMBERS = "SELECT place, job_id FROM bulk_action_jobs WHERE action_id = %s ORDER BY place LIMIT %s"


@dataclass(frozen=True, slots=True)
class Batch:
    """Some members of an action on many jobs: how many were looked at, and those of them that were changed."""

    taken: int
    moved: Sequence[TransitionedJob]


def redrive_some(
    database: Database, action_id: UUID, *, limit: int, fence: int | None = None, lost_reply: LostReply | None = None
) -> Batch:
    """Redrive the next `limit` members of a running action that are still the dead letters that they were.

    That they are done is written by the same statement, so that no member is redriven twice, whatever is lost. The
    batch is empty when no member is left, or the action must not go on.
    """
    lost_reply = lost_reply or LostReply()
    names = _next_members(database, action_id, lost_reply, limit=limit, fence=fence)
    rows = _send_tracked(database, lost_reply, _REDRIVE_SOME, _REDRIVEN, names) if names else []
    return _batch(database, names, [TransitionedJob(*row) for row in rows])


def cancel_some(
    database: Database,
    action_id: UUID,
    *,
    statuses: Collection[Status],
    reason: str | None,
    by: str,
    limit: int,
    fence: int | None = None,
    lost_reply: LostReply | None = None,
) -> Batch:
    """Cancel the next `limit` members of a running action that have one of these statuses; else as `redrive_some`."""
    lost_reply = lost_reply or LostReply()
    wish = {"statuses": [str(status) for status in statuses], "reason": reason, "by": by}
    names = _next_members(database, action_id, lost_reply, limit=limit, fence=fence, **wish)
    rows = _send_tracked(database, lost_reply, _CANCEL_SOME, _CANCELLED, names) if names else []
    return _batch(database, names, [_cancelled(row) for row in rows])


def _next_members(
    database: Database, action_id: UUID, lost_reply: LostReply, *, limit: int, **names: object
) -> Mapping[str, Any] | None:
    """Return the parameters for the next members, or those whose reply was lost. None: no member is left."""
    if lost_reply.parameters is not None:
        return lost_reply.parameters
    members = database.rows(_MEMBERS, (action_id, limit))
    if not members:
        return None
    places, job_ids = zip(*members, strict=True)
    return names | {"action_id": action_id, "places": [*places], "job_ids": [*job_ids], "transition": uuid4()}


def _batch(database: Database, names: Mapping[str, Any] | None, moved: Sequence[TransitionedJob]) -> Batch:
    if names is None:
        return Batch(0, ())
    # If none was changed, the action may have been cancelled, or the fence be gone: then they are members still.
    (left,) = (0,) if moved else database.row(_LEFT, names) or (0,)
    return Batch(len(names["job_ids"]) - left, moved)


_DISCARDED = "job_id, type, queue, attempts, request_id, traceparent"

# The row in `discards` is also what a statement whose reply was lost is recognised by.
_KEEP_DISCARDED = """
INSERT INTO discards (job_id, type, queue, attempts, request_id, traceparent, transition_token, discarded_by)
SELECT id, type, queue, attempts, request_id, traceparent, %(transition)s, %(by)s FROM <gone>
ON CONFLICT (job_id) DO UPDATE SET transition_token = excluded.transition_token, discarded_by = excluded.discarded_by
""".strip()

_DISCARD = f"""
WITH gone AS (
  DELETE FROM jobs WHERE id = %(job_id)s AND (status = 'failed') IS TRUE
  RETURNING id, type, queue, status, attempts, request_id, traceparent
), forgotten AS (
  DELETE FROM attempt_notes USING gone WHERE attempt_notes.job_id = gone.id
), {event_log.events_of("discard", "gone")}
{_KEEP_DISCARDED.replace("<gone>", "gone")}
RETURNING {_DISCARDED}"""

_IS_DISCARDED = f"SELECT {_DISCARDED} FROM discards WHERE job_id = %(job_id)s AND transition_token = %(transition)s"


def discard(
    database: Database, job_id: UUID, *, by: str, lost_reply: LostReply | None = None
) -> TransitionedJob | None:
    """Delete a dead letter. None: it has another status, or there is no such job. The pruner deletes its files.

    `by` is the name of who discards it.
    """
    lost_reply = lost_reply or LostReply()
    names = lost_reply.parameters or {"job_id": job_id, "transition": uuid4(), "by": by}
    lost_reply.parameters = None
    try:
        # `rows` may have sent it twice, and then only the first one found the row: look for our own token.
        found = next((row for sql in (_DISCARD, _IS_DISCARDED) if (row := database.row(sql, names))), None)
    except DatabaseUnavailable:
        lost_reply.parameters = names
        raise
    return TransitionedJob(*found) if found else None


_DISCARD_SOME = _with_members(
    "discard",
    f"""{_DEAD_MEMBERS}, moved AS (
  DELETE FROM jobs USING dead WHERE jobs.id = dead.id
  RETURNING jobs.id, type, queue, status, attempts, request_id, traceparent
), forgotten AS (
  DELETE FROM attempt_notes USING moved WHERE attempt_notes.job_id = moved.id
), kept AS (
  {_KEEP_DISCARDED.replace("<gone>", "moved")}
)""",
    _MOVED,
)


def discard_some(
    database: Database,
    action_id: UUID,
    *,
    by: str,
    limit: int,
    fence: int | None = None,
    lost_reply: LostReply | None = None,
) -> Batch:
    """Delete the next `limit` members of a running action that are still the dead letters that they were.

    Else as `redrive_some`. The pruner deletes their files.
    """
    lost_reply = lost_reply or LostReply()
    names = _next_members(database, action_id, lost_reply, limit=limit, fence=fence, by=by)
    rows = _send_tracked(database, lost_reply, _DISCARD_SOME, _DISCARDED, names, of="discards") if names else []
    return _batch(database, names, [TransitionedJob(*row) for row in rows])


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be changed of a pending job. None: it stays as it is."""

    run_at: datetime | None = None
    priority: int | None = None
    max_attempts: int | None = None
    #: An empty one removes all tags.
    tags: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A job that was changed, with what its message says. Times are PostgreSQL's."""

    job_id: UUID
    type: str
    queue: str
    priority: int
    #: Its `run_at`, in Unix milliseconds.
    due_ms: float
    is_due: bool


_CHANGED = "id, type, queue, priority, (extract(epoch FROM run_at) * 1000)::float8, run_at <= now()"

# `version` is that of the row as the caller saw it: whatever has changed the row since is not overwritten.
_CHANGE = f"""
UPDATE jobs
SET run_at = CASE WHEN %(run_at)s::timestamptz IS NULL THEN run_at ELSE GREATEST(now(), %(run_at)s::timestamptz) END,
    publish_at = GREATEST(now(), COALESCE(%(run_at)s::timestamptz, run_at)),
    priority = COALESCE(%(priority)s, priority), max_attempts = COALESCE(%(max_attempts)s, max_attempts),
    tags = CASE WHEN %(keeps_tags)s THEN tags ELSE NULLIF(%(tags)s::text[], '{{}}') END,
    transition_token = %(transition)s, updated_at = timezone('utc', now())
WHERE id = ANY(%(job_ids)s) AND (status = 'pending') IS TRUE AND xmin::text = %(version)s
RETURNING {_CHANGED}"""


def version(database: Database, job_id: UUID) -> str | None:
    """Return what differs after each change of the row, or None: there is no such job."""
    row = database.row("SELECT xmin::text FROM jobs WHERE id = %s", (job_id,))
    return None if row is None else str(row[0])


def change(
    database: Database, job_id: UUID, changes: Changes, *, version: str, lost_reply: LostReply | None = None
) -> Changed | None:
    """Change a pending job whose row still has this version. None: it has another, is not pending, or does not exist.

    The relay publishes its message again when the job is due.
    """
    lost_reply = lost_reply or LostReply()
    names = lost_reply.parameters or {
        "job_ids": [job_id],
        "transition": uuid4(),
        "version": version,
        "run_at": changes.run_at,
        "priority": changes.priority,
        "max_attempts": changes.max_attempts,
        "keeps_tags": changes.tags is None,
        "tags": list(changes.tags or ()),
    }
    rows = _send_tracked(database, lost_reply, _CHANGE, _CHANGED, names)
    return Changed(*rows[0]) if rows else None


def move(database: Database, job_ids: Sequence[UUID], *, queue: str, fence: int | None = None) -> None:
    """Move pending jobs to another queue."""
    sql = f"""
    UPDATE jobs SET queue = %(queue)s, publish_at = now()
    WHERE id = ANY(%(job_ids)s) AND (status = 'pending') IS TRUE AND {FENCE}"""
    database.rows(sql, {"queue": queue, "job_ids": list(job_ids), "fence": fence})


def prune(
    database: Database,
    job_ids: Sequence[UUID],
    *,
    status: Status,
    retention_seconds: float,
    fence: int | None = None,
) -> int:
    """Delete those of the jobs that have been in this terminal status for `retention_seconds`. Return how many."""
    sql = f"""
    WITH gone AS (
      DELETE FROM jobs
      WHERE id = ANY(%(job_ids)s) AND (status = %(status)s) IS TRUE
        AND finished_at < now() - %(retention)s * interval '1 second' AND {FENCE}
      RETURNING id
    ), forgotten AS (
      DELETE FROM attempt_notes USING gone WHERE attempt_notes.job_id = gone.id
    )
    SELECT id FROM gone"""
    names = {"job_ids": list(job_ids), "status": status, "retention": retention_seconds, "fence": fence}
    return len(database.rows(sql, names))


def _settle(database: Database, claim: Claim, verb: str, sql: str, names: Mapping[str, Any]) -> bool:
    names = {**names, "job_id": claim.job_id, "job_ids": [claim.job_id], "lease": claim.token}
    names["transition"] = _transition(claim.token, verb)
    return bool(_send(database, sql, "id", names))


def _held(held: Sequence[Row], verb: str) -> dict[str, Any]:
    """Return the statement parameters for jobs and their leases, in this order."""
    return {
        "job_ids": [job_id for job_id, _ in held],
        "leases": _array(lease for _, lease in held),
        "transitions": _array(_transition(lease, verb) for _, lease in held),
    }


def _array(ids: Iterable[UUID]) -> str:
    """Return an array of ids as PostgreSQL reads it: one value to quote instead of many."""
    return f"{{{','.join(map(str, ids))}}}"


def _text_array(texts: Iterable[str]) -> str:
    """Return an array of texts as PostgreSQL reads it: one row's value in a column of such arrays."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _transition(lease: UUID, verb: str) -> UUID:
    """Return the token of a transition made under a lease: always the same one, so that it can be sent again."""
    return uuid5(lease, verb)


def _resend(database: Database, lost_reply: LostReply, sql: str, columns: str) -> list[Row]:
    """Send a transition whose reply was lost once more, if there is one."""
    return (
        []
        if lost_reply.parameters is None
        else _send_tracked(database, lost_reply, sql, columns, lost_reply.parameters)
    )


def _send_tracked(
    database: Database, lost_reply: LostReply, sql: str, columns: str, names: Mapping[str, Any], *, of: str = "jobs"
) -> list[Row]:
    """Send a transition, and keep it in `lost_reply` if no reply comes."""
    lost_reply.parameters = None
    try:
        return _send(database, sql, columns, names, of=of)
    except DatabaseUnavailable:
        lost_reply.parameters = names
        raise


def _send(database: Database, sql: str, columns: str, names: Mapping[str, Any], *, of: str = "jobs") -> list[Row]:
    """Send a transition and return `columns` of each row that it changed, the id first.

    `rows` may have sent it twice, and then the first one changed the rows: missing rows are looked up by their token in
    the table `of`, which for deleted jobs is `discards`.
    """
    rows = database.rows(sql, names)
    if missing := list(set(names["job_ids"]) - {row[0] for row in rows}):
        transitions = names.get("transitions") or [names["transition"]]
        changed = "id = ANY(%s::uuid[])" if of == "jobs" else "job_id = ANY(%s::uuid[])"
        standing = f"SELECT {columns} FROM {of} WHERE {changed} AND transition_token = ANY(%s::uuid[])"
        rows = [*rows, *database.rows(standing, (missing, transitions))]
    return rows


def _record(claim: Claim, failure: Failure, *, is_counted: bool = True) -> dict[str, Any]:
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
    if not is_counted:
        entry["counted"] = False
    return {"message": failure.message, "entry": msgspec.json.encode(entry).decode()}
