"""The objectives of each queue, from the settings, exported as metrics so that alert rules need not list queues."""

from collections.abc import Iterable, Iterator
from typing import Any

from jobs_service.config import Settings, seconds_by_name
from jobs_service.jobs.job_types import Registry
from jobs_service.metrics import catalogue


class Objectives:
    """The SLO_ settings, by queue."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._latency_seconds = seconds_by_name(settings.slo_queue_latency_seconds)

    def latency_seconds(self, queue: str) -> float:
        """Return for how many seconds the first due job may wait before the queue is late."""
        return self._latency_seconds.get(queue, self.settings.slo_latency_seconds)

    def families(self, registry: Registry) -> Iterator[Any]:
        """Yield as metrics what the settings say of queues, job types and the console."""
        yield from self._of_queues(registry.queues)
        limits = catalogue.TIME_LIMIT.family()
        for job_type in registry:
            seconds = job_type.time_limit_seconds or self.settings.time_limit_seconds
            limits.add_metric([job_type.queue, job_type.name], seconds)
        yield limits
        console = catalogue.CONSOLE_INFO.family()
        if self.settings.console_url:
            console.add_metric([self.settings.console_url], 1)
        yield console

    def _of_queues(self, queues: Iterable[str]) -> Iterator[Any]:
        latency, dead = catalogue.SLO_LATENCY.family(), catalogue.SLO_DEAD_LIMIT.family()
        budget = catalogue.SLO_ERROR_BUDGET.family()
        for queue in queues:
            latency.add_metric([queue], self.latency_seconds(queue))
            dead.add_metric([queue], self.settings.slo_dead_letters)
            budget.add_metric([queue, "success"], _budget(self.settings.slo_success_ratio))
            budget.add_metric([queue, "latency"], _budget(self.settings.slo_latency_ratio))
        yield from (latency, dead, budget)


def _budget(ratio: float) -> float:
    return round(1 - ratio, 9)
