"""What PostgreSQL knows about the jobs, computed when Prometheus asks."""

import time
from collections.abc import Callable, Iterable, Iterator
from threading import Lock

import psycopg2
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jobs_service.database import Database
from jobs_service.errors import DatabaseUnavailable
from jobs_service.logs import get_logger
from jobs_service.metrics import definitions

log = get_logger(__name__)

#: Seconds an answer is served again, so that a storm of scrapes asks PostgreSQL once.
CACHE_SECONDS = 2.0

#: An answer that took long, as counting a huge backlog does, is kept for so many times as long.
CACHE_FACTOR = 20

STATES = ("scheduled", "pending", "retrying", "processing")

# Each queue for itself: grouped by queue, a backlog of which PostgreSQL has no statistics yet would be sorted first.
# What is due, the only part that grows with a backlog, is answered by the index jobs_waiting alone.
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
  SELECT unnest(ARRAY['scheduled', 'retrying']),
         unnest(ARRAY[count(*) FILTER (WHERE attempts = 0), count(*) FILTER (WHERE attempts > 0)]), 0
  FROM jobs WHERE status = 'pending' AND jobs.queue = queues.queue AND run_at > now()
) AS counts (state, jobs, age)
WHERE queue IS NOT NULL
UNION ALL
SELECT queue, 'processing', count(*), 0 FROM jobs WHERE status = 'processing' GROUP BY queue"""

_DEAD = "SELECT queue, count(*) FROM jobs WHERE status = 'failed' GROUP BY 1"

_WORKERS = "SELECT count(*) FROM workers WHERE heartbeat_at > now() - %s * interval '1 second'"


class DatabaseCollector(Collector):
    """Gauges from the rows. Each query fails alone, and says so in `jobs_collector_success`."""

    def __init__(self, database: Database, *, queues: Iterable[str], lease_seconds: float) -> None:
        self.database = database
        self.queues = sorted(queues)
        self.lease_seconds = lease_seconds
        self._lock = Lock()
        self._cached: list[GaugeMetricFamily] = []
        self._cached_until = 0.0

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing, or registering would ask the database."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            if time.monotonic() >= self._cached_until:
                began_at = time.monotonic()
                self._cached = list(self._measure())
                took = time.monotonic() - began_at
                self._cached_until = time.monotonic() + max(CACHE_SECONDS, took * CACHE_FACTOR)
        yield from self._cached

    def _measure(self) -> Iterator[GaugeMetricFamily]:
        success = definitions.COLLECTOR_SUCCESS.family()
        queries = {"jobs": self._jobs, "dead_letters": self._dead_letters, "workers": self._workers}
        for name, query in queries.items():
            families = self._attempt(name, query)
            success.add_metric([name], 1 if families else 0)
            yield from families
        yield success

    def _attempt(self, name: str, query: Callable[[], list[GaugeMetricFamily]]) -> list[GaugeMetricFamily]:
        try:
            return query()
        except (DatabaseUnavailable, psycopg2.Error) as error:
            log.warning("Metrics not collected", collector=name, error=str(error).strip())
            return []

    def _jobs(self) -> list[GaugeMetricFamily]:
        current = definitions.CURRENT.family()
        oldest = definitions.OLDEST_ELIGIBLE.family()
        counts = {(queue, state): (count, age) for queue, state, count, age in self.database.rows(_CURRENT)}
        for queue in sorted({*self.queues, *(queue for queue, _ in counts)}):
            for state in STATES:
                current.add_metric([queue, state], counts.get((queue, state), (0, 0))[0])
            oldest.add_metric([queue], max(0.0, counts.get((queue, "pending"), (0, 0.0))[1]))
        return [current, oldest]

    def _dead_letters(self) -> list[GaugeMetricFamily]:
        dead = definitions.DEAD.family()
        counts: dict[str, int] = dict(self.database.rows(_DEAD))
        for queue in sorted({*self.queues, *counts}):
            dead.add_metric([queue], counts.get(queue, 0))
        return [dead]

    def _workers(self) -> list[GaugeMetricFamily]:
        (count,) = self.database.row(_WORKERS, (self.lease_seconds,)) or (0,)
        workers = definitions.WORKERS.family()
        workers.add_metric([], count)
        return [workers]
