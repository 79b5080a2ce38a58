"""Metrics of the jobs, read from PostgreSQL."""

from collections.abc import Iterable, Iterator
from typing import Any

from jobs_service.database.connection import Database
from jobs_service.jobs.queries import WAITING_LINES
from jobs_service.metrics import catalogue

STATES = ("scheduled", "pending", "retrying", "deferred", "processing")

#: Seconds after which a due job that was not published is overdue. The relay looks about every second.
OVERDUE_SECONDS = 15

# Each queue by itself: with GROUP BY, PostgreSQL would first sort a backlog that it has no statistics of yet. Counting
# the due jobs, the only part that grows with a backlog, needs the index jobs_lines alone.
_CURRENT = """
WITH RECURSIVE queues (queue) AS (
  (SELECT queue FROM jobs WHERE status = 'pending' ORDER BY queue LIMIT 1)
  UNION ALL
  SELECT (SELECT jobs.queue FROM jobs WHERE status = 'pending' AND jobs.queue > queues.queue ORDER BY queue LIMIT 1)
  FROM queues WHERE queue IS NOT NULL
)
SELECT queue, state, jobs, age
FROM queues
CROSS JOIN LATERAL (
  SELECT 'pending', count(*), COALESCE(extract(epoch FROM now() - min(run_at)), 0)::float8
  FROM jobs WHERE status = 'pending' AND jobs.queue = queues.queue AND run_at <= now()
  UNION ALL
  SELECT unnest(ARRAY['scheduled', 'retrying', 'deferred']),
         unnest(ARRAY[count(*) FILTER (WHERE attempts = 0 AND deferrals = 0),
                      count(*) FILTER (WHERE attempts > 0 AND deferrals = 0), count(*) FILTER (WHERE deferrals > 0)]), 0
  FROM jobs WHERE status = 'pending' AND jobs.queue = queues.queue AND run_at > now()
) AS counts (state, jobs, age)
WHERE queue IS NOT NULL
UNION ALL
SELECT queue, 'processing', count(*), 0 FROM jobs WHERE status = 'processing' GROUP BY queue"""

# As the relay reads: an index range for each queue, type and priority, and no more rows than it would publish.
_OVERDUE = """
<lines>
SELECT lines.queue, sum(overdue)
FROM lines
CROSS JOIN generate_series(0, 9) AS level
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE publish_at < now() - %(seconds)s * interval '1 second')
  FROM (
    SELECT publish_at FROM jobs
    WHERE jobs.queue = lines.queue AND jobs.type = lines.type AND status = 'pending' AND priority = level
      AND run_at <= now()
    ORDER BY run_at, id NULLS FIRST
    LIMIT 500
  ) AS head
) AS counts (overdue)
WHERE lines.queue = ANY(%(queues)s)
GROUP BY lines.queue""".replace("<lines>", WAITING_LINES)

# A heartbeat later than now was written before PostgreSQL's clock was set back.
_STALE = """
SELECT queue, count(*) FROM jobs
WHERE status = 'processing' AND NOT EXISTS (
  SELECT FROM workers WHERE workers.id = jobs.worker_id
    AND heartbeat_at BETWEEN now() - %(lease)s * interval '1 second' AND now() + %(lease)s * interval '1 second'
)
GROUP BY queue"""

# By the index alone. The number of servers that are away is limited; few jobs wait for any other server.
_BREAKERS = """
SELECT COALESCE(name, waits_for), name IS NOT NULL, COALESCE(jobs, 0)
FROM servers
FULL JOIN (
  SELECT waits_for, count(*) AS jobs FROM jobs WHERE status = 'pending' AND waits_for IS NOT NULL
  GROUP BY waits_for ORDER BY waits_for LIMIT 100
) AS waiting ON waits_for = name"""

_DEAD = (
    "SELECT queue, count(*), extract(epoch FROM min(finished_at))::float8 FROM jobs WHERE status = 'failed' GROUP BY 1"
)

_BULK_ACTIONS = """
SELECT kind, count(*), sum(matched - moved - skipped) FROM bulk_actions WHERE state = 'running' GROUP BY kind"""

_CANARIES = "SELECT queue, extract(epoch FROM finished_at)::float8, seconds FROM canaries WHERE queue = ANY(%s)"

_PAUSED = "SELECT queue FROM queue_pauses"

_WORKERS = """
SELECT count(*) FROM workers
WHERE heartbeat_at BETWEEN now() - %(lease)s * interval '1 second' AND now() + %(lease)s * interval '1 second'"""


class JobRows:
    """Reads the rows. Each read raises `DatabaseUnavailable`, its `SchemaUnavailable` for a missing table."""

    def __init__(
        self, database: Database, *, queues: Iterable[str], lease_seconds: float, servers: Iterable[str] = ()
    ) -> None:
        """`servers` are shown as closed breakers before they have ever been away."""
        self.database = database
        self.servers = frozenset(servers)
        self.queues = sorted(queues)
        self.lease_seconds = lease_seconds

    def jobs(self) -> Iterator[Any]:
        current, oldest = catalogue.CURRENT.family(), catalogue.OLDEST_ELIGIBLE.family()
        counts = {(queue, state): (count, age) for queue, state, count, age in self.database.rows(_CURRENT)}
        for queue in self._with(queue for queue, _ in counts):
            for state in STATES:
                current.add_metric([queue, state], counts.get((queue, state), (0, 0))[0])
            oldest.add_metric([queue], max(0.0, counts.get((queue, "pending"), (0, 0.0))[1]))
        yield from (current, oldest)

    def pauses(self) -> Iterator[Any]:
        yield self._by_queue(catalogue.QUEUE_PAUSED, [(queue, 1) for (queue,) in self.database.rows(_PAUSED)])

    def overdue(self) -> Iterator[Any]:
        yield self._by_queue(
            catalogue.OVERDUE, self.database.rows(_OVERDUE, {"queues": self.queues, "seconds": OVERDUE_SECONDS})
        )

    def dead_letters(self) -> Iterator[Any]:
        rows = self.database.rows(_DEAD)
        yield self._by_queue(catalogue.DEAD, [(queue, count) for queue, count, _ in rows])
        oldest = catalogue.DEAD_OLDEST.family()
        for queue, _, failed_at in rows:
            oldest.add_metric([queue], failed_at)
        yield oldest

    def bulk_actions(self) -> Iterator[Any]:
        running, remaining = catalogue.BULK_ACTIONS_RUNNING.family(), catalogue.BULK_ACTIONS_REMAINING.family()
        found = {kind: (count, jobs) for kind, count, jobs in self.database.rows(_BULK_ACTIONS)}
        for kind in catalogue.BULK_ACTION_KINDS:
            count, jobs = found.get(kind, (0, 0))
            running.add_metric([kind], count)
            remaining.add_metric([kind], jobs)
        yield from (running, remaining)

    def breakers(self) -> Iterator[Any]:
        is_open, waiting = catalogue.BREAKER_OPEN.family(), catalogue.BREAKER_WAITING.family()
        found = {name: (is_away, jobs) for name, is_away, jobs in self.database.rows(_BREAKERS)}
        for name in sorted(self.servers | found.keys()):
            is_away, jobs = found.get(name, (False, 0))
            is_open.add_metric([name], is_away)
            waiting.add_metric([name], jobs)
        yield from (is_open, waiting)

    def canaries(self) -> Iterator[Any]:
        last_success, latency = catalogue.CANARY_LAST_SUCCESS.family(), catalogue.CANARY_LATENCY.family()
        # A queue that no job type names any more gets no canaries: the age of its last one would grow for ever.
        for queue, finished_at, seconds in self.database.rows(_CANARIES, (self.queues,)):
            last_success.add_metric([queue], finished_at)
            latency.add_metric([queue], seconds)
        yield from (last_success, latency)

    def workers(self) -> Iterator[Any]:
        (count,) = self.database.row(_WORKERS, {"lease": self.lease_seconds}) or (0,)
        workers = catalogue.WORKERS.family()
        workers.add_metric([], count)
        yield workers
        yield self._by_queue(catalogue.STALE_PROCESSING, self.database.rows(_STALE, {"lease": self.lease_seconds}))

    def _by_queue(self, row: catalogue.Computed, counts: Iterable[tuple[Any, ...]]) -> Any:  # noqa: ANN401
        family, by_queue = row.family(), dict(counts)
        for queue in self._with(by_queue):
            family.add_metric([queue], by_queue.get(queue, 0))
        return family

    def _with(self, queues: Iterable[str]) -> list[str]:
        """Return the queues of the job types and those found in rows, sorted."""
        return sorted({*self.queues, *queues})
