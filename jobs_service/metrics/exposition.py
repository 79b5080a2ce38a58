"""The process beside the workers that serves their metrics, and the registry it and the API serve from.

This module makes no metric: the process would export it a second time, at zero.
"""

import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from jobs_service import logs
from jobs_service.config import Settings
from jobs_service.database import open_database
from jobs_service.metrics import multiprocess
from jobs_service.metrics.collector import DatabaseCollector
from jobs_service.registry import load


class Processes(Collector):
    """The values of all processes, without the gauges of dead ones."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def describe(self) -> list[Metric]:
        """Return nothing: what there will be is not known yet."""
        return []

    def collect(self) -> Iterable[Metric]:
        multiprocess.forget_dead(self.directory)
        found: Iterable[Metric] = MultiProcessCollector(None, str(self.directory)).collect()
        return found


def build_registry(collector: DatabaseCollector) -> CollectorRegistry:
    """Return what is to be served: the values of all processes, and what PostgreSQL knows."""
    served = CollectorRegistry(support_collectors_without_names=True)
    if multiprocess.VARIABLE in os.environ:
        served.register(Processes(Path(os.environ[multiprocess.VARIABLE])))
    served.register(collector)
    return served


def serve() -> int:
    """Serve GET /metrics until this process is ended. Dramatiq forks it beside the workers."""
    settings = Settings.from_env(os.environ)
    logs.configure(form=settings.log_format, level=settings.log_level, service="worker")
    collector = DatabaseCollector(
        open_database(settings), queues=load(settings.actor_modules).queues, lease_seconds=settings.lease_seconds
    )
    start_http_server(settings.worker_metrics_port, settings.metrics_host, build_registry(collector))
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(serve())
