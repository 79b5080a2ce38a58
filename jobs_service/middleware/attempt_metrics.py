"""Counts attempts: busy threads from Dramatiq's hooks, everything else from the events of committed transitions."""

import os
from typing import Any

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware

from jobs_service import events
from jobs_service.events import Event
from jobs_service.metrics import definitions as metrics
from jobs_service.metrics import exposition, multiprocess

#: What an event says about the attempt, and about the job if that has ended.
OUTCOMES = {
    Event.COMPLETED: "completed",
    Event.RETRIED: "retried",
    Event.FAILED: "failed",
    Event.RELEASED: "released",
    Event.REFUSED: "refused",
}


class AttemptMetrics(Middleware):
    """Subscribes itself to the events; as the first middleware its after-hooks run last, so the gauge balances."""

    def __init__(self) -> None:
        events.subscribe(self.on_event)

    @property
    def forks(self) -> list[Any]:
        """The process that serves this worker's metrics, unless a supervisor runs one."""
        return [] if multiprocess.SERVED_VARIABLE in os.environ else [exposition.serve]

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        metrics.THREADS_BUSY.metric.inc()

    def after_process_message(
        self,
        broker: Broker,  # noqa: ARG002
        message: MessageProxy,  # noqa: ARG002
        *,
        result: object = None,  # noqa: ARG002
        exception: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        metrics.THREADS_BUSY.metric.dec()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        metrics.THREADS_BUSY.metric.dec()
        metrics.ATTEMPTS.labels(message.queue_name, broker.get_actor(message.actor_name).actor_name, "skipped").inc()

    def on_event(self, event: Event, facts: dict[str, Any]) -> None:
        if event is Event.PROCESSING:
            metrics.STARTED.labels(facts["queue"]).inc()
            metrics.QUEUE_LATENCY.labels(facts["queue"]).observe(max(0.0, facts["waited_seconds"]))
        elif event in OUTCOMES:
            self._ended(event, facts)

    def _ended(self, event: Event, facts: dict[str, Any]) -> None:
        labels = (facts["queue"], facts["type"])
        metrics.ATTEMPTS.labels(*labels, OUTCOMES[event]).inc()
        if event in {Event.COMPLETED, Event.FAILED}:
            metrics.FINISHED.labels(*labels, OUTCOMES[event]).inc()
        if "seconds" in facts:
            metrics.RUN_DURATION.labels(*labels).observe(facts["seconds"])
