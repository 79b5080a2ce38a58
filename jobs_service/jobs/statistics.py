"""Queues, workers, counts, rates and latencies. Each read is limited in what it counts, and says so."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from jobs_service.database.connection import Database, Row
from jobs_service.jobs.lifecycle import FENCE, Status
from jobs_service.jobs.queries import WAITING_LINES

#: How far jobs are counted: those of one type, queue and priority that wait, and those of one status.
MAX_COUNTED = 10_000

#: The jobs that ended last, by which rates and latencies are told: those of so many seconds, and so many of them.
RECENT_SECONDS, RECENT_JOBS = 300, 20_000

#: Workers, and running jobs of all of them, that are listed.
MAX_WORKERS, MAX_RUNNING = 1_000, 10_000

#: How many minutes of history are shown, and how many are kept.
SHOWN_MINUTES, KEPT_MINUTES = 60, 1_440

#: Minutes of which one run of maintenance writes the history; finished jobs of one minute that it looks at.
MINUTES_AT_ONCE, JOBS_OF_MINUTE = 5, 200_000

#: Seconds after its end at which a minute is counted: what ended in it has been committed.
SETTLE_SECONDS = 10

LIVE = "heartbeat_at BETWEEN now() - %(lease)s * interval '1 second' AND now() + %(lease)s * interval '1 second'"

# An id has the time of its submission, and ids the order of it.
_LEAST_ID = """rpad(lpad(to_hex((extract(epoch FROM {}) * 1000)::bigint), 12, '0'), 32, '0')::uuid"""
_SECONDS_OF_ID = "('x' || lpad(replace(left({}, 13), '-', ''), 16, '0'))::bit(64)::bigint / 1000.0"

_LINE = "status = 'pending' AND jobs.queue = lines.queue AND jobs.type = lines.type AND priority = level"

# An index range for each queue, type and priority.
_DEPTHS = f"""
{WAITING_LINES}
SELECT queue, type, sum(due)::bigint, sum(scheduled)::bigint, sum(retrying)::bigint, sum(deferred)::bigint,
       bool_or(due = %(most)s OR later = %(most)s),
       CASE WHEN min(oldest) IS NOT NULL THEN GREATEST(0, extract(epoch FROM now() - min(oldest)))::float8 END
FROM lines
CROSS JOIN generate_series(0, 9) AS level
CROSS JOIN LATERAL (
  SELECT count(*) AS due, min(run_at) AS oldest
  FROM (
    SELECT run_at FROM jobs WHERE {_LINE} AND run_at <= now() ORDER BY run_at, id NULLS FIRST LIMIT %(most)s
  ) AS due_jobs
) AS now_due
CROSS JOIN LATERAL (
  SELECT count(*) AS later, count(*) FILTER (WHERE attempts = 0 AND deferrals = 0) AS scheduled,
         count(*) FILTER (WHERE attempts > 0 AND deferrals = 0) AS retrying,
         count(*) FILTER (WHERE deferrals > 0) AS deferred
  FROM (
    SELECT attempts, deferrals FROM jobs WHERE {_LINE} AND run_at > now()
    ORDER BY run_at, id NULLS FIRST LIMIT %(most)s
  ) AS later_jobs
) AS due_later
GROUP BY queue, type"""

_ENDED_OR_RUNNING = """
SELECT status, queue, type, count(*), sum(count(*)) OVER (PARTITION BY status) = %(most)s
FROM unnest(%(statuses)s::text[]) AS state
CROSS JOIN LATERAL (
  SELECT status, queue, type FROM jobs
  WHERE (status, id) >= (state, '00000000-0000-0000-0000-000000000000')
    AND (status, id) <= (state, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  ORDER BY status DESC, id DESC LIMIT %(most)s
) AS newest
GROUP BY status, queue, type"""

_RECENT = """
recent AS MATERIALIZED (
  SELECT queue, type, status, finished_at, finished_at - started_at AS run,
         finished_at - created_at AT TIME ZONE 'utc' AS latency
  FROM jobs WHERE finished_at > now() - %(recent)s * interval '1 second'
  ORDER BY finished_at DESC LIMIT %(recent_jobs)s
), recent_time AS MATERIALIZED (
  -- Of more jobs than are read, only the last ones tell the rate, and the time that they took.
  SELECT CASE WHEN count(*) < %(recent_jobs)s THEN %(recent)s
         ELSE GREATEST(extract(epoch FROM now() - min(finished_at)), 0.001) END::float8 / 60 AS minutes
  FROM recent
)"""

_RATES = f"""
WITH {_RECENT}
SELECT queue, type, count(*) FILTER (WHERE status = 'completed') / (SELECT minutes FROM recent_time),
       count(*) FILTER (WHERE status = 'failed') / (SELECT minutes FROM recent_time)
FROM recent GROUP BY queue, type"""

# Random ids, of rows that another program wrote, have any time: so there is an upper end.
_SUBMITTED = f"""
WITH recent AS MATERIALIZED (
  SELECT queue, type, id FROM jobs
  WHERE id >= {_LEAST_ID.format("now() - %(recent)s * interval '1 second'")}
    AND id < {_LEAST_ID.format("now() + interval '1 minute'")}
  ORDER BY id DESC LIMIT %(recent_jobs)s
), recent_time AS MATERIALIZED (
  SELECT CASE WHEN count(*) < %(recent_jobs)s THEN %(recent)s
         ELSE GREATEST(extract(epoch FROM now()) - {_SECONDS_OF_ID.format("min(id::text)")}, 0.001) END::float8 / 60
         AS minutes
  FROM recent
)
SELECT queue, type, count(*) / (SELECT minutes FROM recent_time) FROM recent GROUP BY queue, type"""

# One row for each type, and one without a type for all jobs.
_OVERALL = f"""
WITH {_RECENT}
SELECT type, (SELECT minutes * 60 FROM recent_time),
       count(*) FILTER (WHERE status = 'completed') / (SELECT minutes FROM recent_time),
       count(*) FILTER (WHERE status = 'failed') / (SELECT minutes FROM recent_time),
       count(*) FILTER (WHERE status = 'cancelled') / (SELECT minutes FROM recent_time),
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY GREATEST(extract(epoch FROM latency), 0)::float8)
         FILTER (WHERE status = 'completed'),
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM run)::float8)
         FILTER (WHERE status = 'completed')
FROM recent GROUP BY GROUPING SETS ((type), ())"""

# Beyond what is counted: the rows of the table, by its statistics, times the share that the status has by them.
_COUNTS = """
SELECT state, counted, CASE WHEN counted < %(most)s THEN counted ELSE GREATEST(counted, COALESCE((
  SELECT (GREATEST(reltuples, 0) * freqs[array_position(vals, state)])::bigint
  FROM pg_class CROSS JOIN LATERAL (
    SELECT most_common_vals::text::text[] AS vals, most_common_freqs AS freqs FROM pg_stats
    WHERE schemaname = relnamespace::regnamespace::text AND tablename = 'jobs' AND attname = 'status' AND NOT inherited
  ) AS shares
  WHERE pg_class.oid = 'jobs'::regclass
), 0)) END
FROM unnest(%(statuses)s::text[]) AS state
CROSS JOIN LATERAL (
  SELECT count(*) AS counted FROM (
    SELECT FROM jobs
    WHERE (status, id) >= (state, '00000000-0000-0000-0000-000000000000')
      AND (status, id) <= (state, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ORDER BY status DESC, id DESC LIMIT %(most)s
  ) AS newest
) AS counts"""

_WORKERS = f"""
SELECT id, hostname, pid, queues, threads, version, started_at, heartbeat_at, {LIVE}
FROM workers ORDER BY heartbeat_at DESC, id LIMIT %(limit)s"""

_RUNNING = """
SELECT worker_id, id, type, queue, started_at FROM jobs
WHERE (status, id) >= ('processing', '00000000-0000-0000-0000-000000000000')
  AND (status, id) <= ('processing', 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY status, id LIMIT %(limit)s"""

_SERVING = f"SELECT queue, count(*) FROM workers, unnest(queues) AS queue WHERE {LIVE} GROUP BY queue"

_PAUSES = "SELECT queue, paused_by, paused_at, reason FROM queue_pauses"

_HISTORY = """
SELECT minute, submitted, completed, failed, cancelled, latency_p50, latency_p95, latency_p99, run_p50, run_p95, run_p99
FROM job_minutes
WHERE queue = '' AND minute >= date_trunc('minute', now()) - %(minutes)s * interval '1 minute'
ORDER BY minute"""


class Depth(NamedTuple):
    """Jobs that wait. With `is_capped` there are at least so many."""

    due: int = 0
    scheduled: int = 0
    retrying: int = 0
    deferred: int = 0
    is_capped: bool = False
    oldest_seconds: float | None = None


class Pause(NamedTuple):
    """Who paused a queue, since when, and why."""

    by: str
    since: datetime
    reason: str


class Worker(NamedTuple):
    """A worker process, as its last heartbeat left it."""

    id: UUID
    hostname: str
    pid: int
    queues: list[str]
    threads: int
    #: Of its code. None: that of a worker from before it was written.
    version: str | None
    started_at: datetime
    heartbeat_at: datetime
    is_live: bool


class Running(NamedTuple):
    """A job that a worker runs."""

    job_id: UUID
    type: str
    queue: str
    started_at: datetime | None


class Count(NamedTuple):
    """How many jobs have a status."""

    jobs: int
    is_estimate: bool


class Recent(NamedTuple):
    """What the jobs that ended last tell. Rates are a minute; percentiles are the 50th, 95th and 99th, in seconds."""

    seconds: float
    completed: float
    failed: float
    cancelled: float
    latency: list[float] | None
    run: list[float] | None


#: A queue, and a job type.
Line = tuple[str, str]


def depths(database: Database) -> dict[Line, Depth]:
    """Return the waiting jobs of each queue and type that has any."""
    return {(queue, kind): Depth(*rest) for queue, kind, *rest in database.rows(_DEPTHS, {"most": MAX_COUNTED})}


def ended_or_running(database: Database) -> dict[tuple[str, str, str], tuple[int, bool]]:
    """Return (status, queue, type) -> (jobs that run or have failed, whether there are more), from the newest down."""
    names = {"most": MAX_COUNTED, "statuses": [Status.PROCESSING, Status.FAILED]}
    rows = database.rows(_ENDED_OR_RUNNING, names)
    return {(status, queue, kind): (jobs, more) for status, queue, kind, jobs, more in rows}


def rates(database: Database) -> dict[Line, tuple[float, float]]:
    """Return (queue, type) -> (jobs completed, jobs failed) a minute, lately."""
    rows = database.rows(_RATES, RECENT)
    return {(queue, kind): (completed, failed) for queue, kind, completed, failed in rows}


def submitted(database: Database) -> dict[Line, float]:
    """Return (queue, type) -> jobs submitted a minute, lately."""
    return {(queue, kind): jobs for queue, kind, jobs in database.rows(_SUBMITTED, RECENT)}


RECENT = {"recent": RECENT_SECONDS, "recent_jobs": RECENT_JOBS}


def recent(database: Database) -> dict[str | None, Recent]:
    """Return what the jobs that ended last tell: of each type, and under None of all together."""
    return {kind: Recent(*rest) for kind, *rest in database.rows(_OVERALL, RECENT)}


def counts(database: Database) -> dict[Status, Count]:
    """Return how many jobs have each status. Above `MAX_COUNTED` it is an estimate, by PostgreSQL's statistics."""
    rows = database.rows(_COUNTS, {"most": MAX_COUNTED, "statuses": list(Status)})
    return {Status(status): Count(shown, counted >= MAX_COUNTED) for status, counted, shown in rows}


def workers(database: Database, *, lease_seconds: float) -> list[Worker]:
    """Return the worker processes, those with the latest heartbeat first."""
    return [Worker(*row) for row in database.rows(_WORKERS, {"lease": lease_seconds, "limit": MAX_WORKERS})]


def running(database: Database) -> dict[UUID | None, list[Running]]:
    """Return the running jobs of each worker."""
    found: dict[UUID | None, list[Running]] = {}
    for worker_id, *job in database.rows(_RUNNING, {"limit": MAX_RUNNING}):
        found.setdefault(worker_id, []).append(Running(*job))
    return found


def serving(database: Database, *, lease_seconds: float) -> dict[str, int]:
    """Return how many live workers serve each queue."""
    return dict(_pairs(database.rows(_SERVING, {"lease": lease_seconds})))


def _pairs(rows: Iterable[Row]) -> Iterable[tuple[str, int]]:
    return ((name, count) for name, count in rows)


def pauses(database: Database) -> dict[str, Pause]:
    """Return the queues that are paused."""
    return {queue: Pause(*pause) for queue, *pause in database.rows(_PAUSES)}


def history(database: Database) -> list[Row]:
    """Return the minutes of the last hour that maintenance has written, the oldest first."""
    return database.rows(_HISTORY, {"minutes": SHOWN_MINUTES})


_NEXT_MINUTE = "%(minute)s::timestamptz + interval '1 minute'"

_MISSING = """
SELECT minute FROM generate_series(
  date_trunc('minute', now() - %(settle)s * interval '1 second') - %(minutes)s * interval '1 minute',
  date_trunc('minute', now() - %(settle)s * interval '1 second') - interval '1 minute',
  interval '1 minute'
) AS past (minute)
WHERE NOT EXISTS (SELECT FROM job_minutes WHERE job_minutes.minute = past.minute AND queue = '')
ORDER BY minute DESC LIMIT %(limit)s"""

_PERCENTILES = "percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY {}) FILTER (WHERE status = 'completed')"

_WRITE_MINUTE = f"""
WITH ended AS (
  SELECT queue, status, GREATEST(extract(epoch FROM finished_at - created_at AT TIME ZONE 'utc'), 0)::float8 AS latency,
         extract(epoch FROM finished_at - started_at)::float8 AS run
  FROM jobs WHERE finished_at >= %(minute)s AND finished_at < {_NEXT_MINUTE}
  ORDER BY finished_at LIMIT %(jobs)s
), submitted AS (
  SELECT queue FROM jobs
  WHERE id >= {_LEAST_ID.format("%(minute)s::timestamptz")} AND id < {_LEAST_ID.format(_NEXT_MINUTE)}
  ORDER BY id LIMIT %(jobs)s
), counted AS (
  SELECT COALESCE(queue, '') AS queue, count(*) AS jobs FROM submitted GROUP BY GROUPING SETS ((queue), ())
), measured AS (
  SELECT COALESCE(queue, '') AS queue, count(*) FILTER (WHERE status = 'completed') AS completed,
         count(*) FILTER (WHERE status = 'failed') AS failed,
         count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
         {_PERCENTILES.format("latency")} AS latency, {_PERCENTILES.format("run")} AS run
  FROM ended GROUP BY GROUPING SETS ((queue), ())
)
INSERT INTO job_minutes (minute, queue, submitted, completed, failed, cancelled,
                         latency_p50, latency_p95, latency_p99, run_p50, run_p95, run_p99)
SELECT %(minute)s, queue, COALESCE(jobs, 0), COALESCE(completed, 0), COALESCE(failed, 0), COALESCE(cancelled, 0),
       latency[1], latency[2], latency[3], run[1], run[2], run[3]
FROM counted FULL JOIN measured USING (queue)
WHERE {FENCE}
ON CONFLICT DO NOTHING"""

_FORGET = f"""
DELETE FROM job_minutes WHERE minute < now() - %(minutes)s * interval '1 minute' AND {FENCE}"""


def missing_minutes(database: Database) -> list[datetime]:
    """Return minutes of the last hour that are not in the history, the latest first: a few."""
    names = {"settle": SETTLE_SECONDS, "minutes": SHOWN_MINUTES, "limit": MINUTES_AT_ONCE}
    return [minute for (minute,) in database.rows(_MISSING, names)]


def write_minute(database: Database, minute: datetime, *, fence: int | None = None) -> None:
    """Write what happened in a minute into the history, for each queue and for all together."""
    names: Mapping[str, Any] = {"minute": minute, "jobs": JOBS_OF_MINUTE, "fence": fence}
    database.rows(_WRITE_MINUTE, names)


def forget_minutes(database: Database, *, fence: int | None = None) -> None:
    """Delete the history of what is longer ago than a day."""
    database.rows(_FORGET, {"minutes": KEPT_MINUTES, "fence": fence})
