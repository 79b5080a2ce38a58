"""Metrics that are read from PostgreSQL, Redis and the settings when Prometheus scrapes."""

import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from structlog.stdlib import get_logger

from jobs_service.metrics import catalogue

log = get_logger(module=__name__)

#: Seconds an answer is reused, so that many scrapes at once query the servers once.
CACHE_SECONDS = 2.0

#: An answer that took long, as counting a huge backlog does, is kept for this many times as long, within limits.
CACHE_FACTOR = 20
CACHE_SECONDS_AT_MOST = 60.0

#: Seconds after which no further source is read: a scrape that takes longer than ten fails as a whole.
BUDGET_SECONDS = 5.0

#: Returns the metrics of one source, or raises.
Look = Callable[[], Iterable[Metric]]


class ScrapeCollector(Collector):
    """Reads several sources at each scrape. One that fails is left out, and counted in `jobs_collector_success`."""

    def __init__(self, looks: Mapping[str, Look]) -> None:
        self.looks = looks
        self._lock = Lock()
        self._cached: list[Metric] = []
        self._cached_until = 0.0
        self._succeeded_at = dict.fromkeys(looks, 0.0)
        self._failing: set[str] = set()

    def describe(self) -> list[Metric]:
        """Return nothing, or registering would query the servers."""
        return []

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() >= self._cached_until:
                began_at = time.monotonic()
                self._cached = self._look()
                self._cached_until = time.monotonic() + self._kept_seconds(time.monotonic() - began_at)
            return list(self._cached)

    def _kept_seconds(self, took: float) -> float:
        """Return how long to keep an answer. Where a source failed, it is read again soon."""
        return CACHE_SECONDS if self._failing else min(max(CACHE_SECONDS, took * CACHE_FACTOR), CACHE_SECONDS_AT_MOST)

    def _look(self) -> list[Metric]:
        found: list[Metric] = []
        success, duration = catalogue.COLLECTOR_SUCCESS.family(), catalogue.COLLECTOR_DURATION.family()
        last = catalogue.COLLECTOR_LAST_SUCCESS.family()
        deadline = time.monotonic() + BUDGET_SECONDS
        for name, look in self.looks.items():
            began_at = time.monotonic()
            seen = self._attempt(name, look) if began_at < deadline else None
            found += seen or []
            success.add_metric([name], seen is not None)
            duration.add_metric([name], time.monotonic() - began_at)
            last.add_metric([name], self._succeeded_at[name])
        return [*found, success, duration, last, *self._ups()]

    def _attempt(self, name: str, look: Look) -> list[Metric] | None:
        try:
            seen = list(look())
        except Exception as error:  # noqa: BLE001 - whatever failed, the other sources are still to be shown
            if name not in self._failing:
                log.warning("Metrics not collected", collector=name, error=str(error).strip())
            self._failing.add(name)
            return None
        self._failing.discard(name)
        self._succeeded_at[name] = time.time()
        return seen

    def _ups(self) -> list[Metric]:
        """Return for each server whether it answered."""
        ups = []
        for row, name in ((catalogue.PG_UP, "postgresql"), (catalogue.REDIS_UP, "redis")):
            if name in self.looks:
                up = row.family()
                up.add_metric([], name not in self._failing)
                ups.append(up)
        return ups
