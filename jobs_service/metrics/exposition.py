"""The process that serves the workers' metrics, and the registry from which it and the API serve.

This module must not create a metric: this process would export it a second time, with the value 0.
"""

import dataclasses
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from structlog.stdlib import get_logger

from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings
from jobs_service.database import budget
from jobs_service.database.connection import Database, open_database
from jobs_service.jobs.job_types import Registry, load
from jobs_service.mail.smtp import name_of
from jobs_service.metrics import dramatiq_names, multiprocess, server_stats
from jobs_service.metrics.collector import ScrapeCollector
from jobs_service.metrics.queue_stats import JobRows
from jobs_service.metrics.slo import Objectives
from jobs_service.observability import logs
from jobs_service.orphans import end_with_parent, is_orphan

log = get_logger(module=__name__)

#: Seconds to wait for PostgreSQL at a scrape: for a connection, and for one statement.
CONNECT_SECONDS = 1
STATEMENT_SECONDS = 4


class Processes(Collector):
    """Exports the values of all processes, without the gauges of processes that have ended."""

    def __init__(self, directory: Path, *, with_dramatiq_names: bool) -> None:
        self.directory = directory
        self.with_dramatiq_names = with_dramatiq_names

    def describe(self) -> list[Metric]:
        """Return nothing: which metrics there will be is not known yet."""
        return []

    def collect(self) -> Iterable[Metric]:
        multiprocess.forget_dead(self.directory)
        families: list[Metric] = list(MultiProcessCollector(None, str(self.directory)).collect())
        yield from families
        if self.with_dramatiq_names:
            yield from dramatiq_names.made_of(families)


def build_registry(settings: Settings, registry: Registry) -> CollectorRegistry:
    """Return the registry to serve: the values of all processes and `build_collector`. Connects to nothing yet."""
    served = CollectorRegistry(support_collectors_without_names=True)
    if multiprocess.VARIABLE in os.environ:
        directory = Path(os.environ[multiprocess.VARIABLE])
        served.register(Processes(directory, with_dramatiq_names=settings.dramatiq_metrics == "on"))
    served.register(build_collector(settings, registry))
    return served


def build_collector(settings: Settings, registry: Registry) -> ScrapeCollector:
    """Return the collector that reads the servers at each scrape, with connections of its own."""
    database = _database(settings)
    rows = JobRows(
        database,
        queues=registry.queues,
        lease_seconds=settings.lease_seconds,
        servers=[name_of(settings.mail_host, settings.mail_port)],
    )
    broker = JobBroker.from_settings(settings)
    broker.learn(job_type.name for job_type in registry)
    return ScrapeCollector(
        {
            "settings": lambda: Objectives(settings).families(registry),
            "redis": lambda: server_stats.redis(broker, registry.queues),
            "postgresql": lambda: server_stats.postgresql(database),
            "workers": rows.workers,
            "jobs": rows.jobs,
            "breakers": rows.breakers,
            # Where canaries are off, the age of the last one would grow for ever.
            **({"canaries": rows.canaries} if settings.canary_interval_seconds else {}),
            "pauses": rows.pauses,
            "bulk_actions": rows.bulk_actions,
            "overdue": rows.overdue,
            "dead_letters": rows.dead_letters,
            "tables": lambda: server_stats.tables(database),
        }
    )


def _database(settings: Settings) -> Database:
    """Return a database of one connection: of several scrapes, `ScrapeCollector` runs one at a time."""
    impatient = dataclasses.replace(
        settings,
        database_connect_timeout_seconds=CONNECT_SECONDS,
        database_statement_timeout_seconds=min(STATEMENT_SECONDS, settings.database_statement_timeout_seconds),
    )
    return open_database(impatient, service="metrics", connections=budget.FOR_METRICS)


def serve() -> int:
    """Serve GET /metrics until this process is terminated. Dramatiq forks it from the same parent as the workers."""
    end_with_parent()
    if is_orphan():
        return 1
    settings = Settings.from_env(os.environ)
    logs.configure(form=settings.log_format, level=settings.log_level, service="worker")
    registry = build_registry(settings, load(settings.actor_modules))
    try:
        start_http_server(settings.worker_metrics_port, settings.metrics_host, registry)
    except OSError as error:
        log.error("Metrics not served: correct METRICS_HOST or WORKER_METRICS_PORT", error=str(error))  # noqa: TRY400
        return 1
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(serve())
