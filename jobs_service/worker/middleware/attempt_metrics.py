"""Counts attempts: busy threads from Dramatiq's hooks, everything else from the events of committed transitions."""

import os
from threading import get_ident
from typing import Any

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware

from jobs_service import events
from jobs_service.events import Event
from jobs_service.metrics import catalogue as metrics
from jobs_service.metrics import exposition, multiprocess, observations
from jobs_service.metrics.slo import Objectives

#: What an event says about the attempt, and about the job if that has ended.
OUTCOMES = {
    Event.COMPLETED: "completed",
    Event.RETRIED: "retried",
    Event.DEFERRED: "deferred",
    Event.FAILED: "failed",
    Event.RELEASED: "released",
    Event.REFUSED: "refused",
    Event.INTERRUPTED: "interrupted",
}
TERMINAL = {Event.COMPLETED, Event.FAILED}


class AttemptMetrics(Middleware):
    """Subscribes itself to the events; as the first middleware its after-hooks run last, so busy threads balance."""

    def __init__(self, objectives: Objectives) -> None:
        self.objectives = objectives
        #: The threads that have a message in hand. The sampler exports their number: a gauge would cost more.
        self.busy: set[int] = set()
        self._error_type = metrics.Capped(metrics.ATTEMPT_ERRORS, "error_type")
        events.subscribe(self.on_event)

    @property
    def forks(self) -> list[Any]:
        """The process that serves this worker's metrics, unless a supervisor runs one."""
        return [] if multiprocess.SERVED_VARIABLE in os.environ else [exposition.serve]

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        self.busy.add(get_ident())

    def after_process_message(
        self,
        broker: Broker,  # noqa: ARG002
        message: MessageProxy,  # noqa: ARG002
        *,
        result: object = None,  # noqa: ARG002
        exception: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        self.busy.discard(get_ident())

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        self.busy.discard(get_ident())
        metrics.ATTEMPTS.labels(message.queue_name, broker.get_actor(message.actor_name).actor_name, "skipped").inc()

    def on_event(self, event: Event, facts: dict[str, Any]) -> None:
        if event is Event.PROCESSING:
            self._started(facts["queue"], facts["waited_seconds"])
        elif event in OUTCOMES:
            self._ended(event, facts)
        else:
            self._happened(event, facts)

    def _happened(self, event: Event, facts: dict[str, Any]) -> None:
        match event:
            case Event.SNOOZED:
                metrics.SNOOZED.labels(facts["queue"], facts["type"]).inc()
            case Event.RESCUED:
                metrics.RESCUED.labels(facts["queue"], facts["type"]).inc()
            case Event.AMBIGUOUS:
                metrics.AMBIGUOUS.labels(facts["queue"], facts["type"], facts["policy"]).inc()
            case Event.QUARANTINED:
                metrics.QUARANTINED.labels(facts["queue"]).inc()
            case Event.PRUNED:
                metrics.PRUNED.labels(facts["status"]).inc(facts["jobs"])

    def _started(self, queue: str, waited_seconds: float) -> None:
        metrics.STARTED.labels(queue).inc()
        observations.add(metrics.QUEUE_LATENCY.labels(queue), max(0.0, waited_seconds))
        if waited_seconds > self.objectives.latency_seconds(queue):
            metrics.STARTED_LATE.labels(queue).inc()

    def _ended(self, event: Event, facts: dict[str, Any]) -> None:
        job = (facts["queue"], facts["type"])
        # A job may fail without an attempt that ends here: its worker was lost, or no worker knows its type.
        if event is not Event.FAILED or "seconds" in facts:
            self._attempt_ended(job, OUTCOMES[event], facts)
        if event in TERMINAL:
            self._job_ended(job, OUTCOMES[event], facts)

    def _attempt_ended(self, job: tuple[str, str], outcome: str, facts: dict[str, Any]) -> None:
        metrics.ATTEMPTS.labels(*job, outcome).inc()
        if "seconds" in facts:
            observations.add(metrics.RUN_DURATION.labels(*job), facts["seconds"])
        if "error" in facts:
            metrics.ATTEMPT_ERRORS.labels(*job, self._error_type(facts["error"][:64])).inc()

    def _job_ended(self, job: tuple[str, str], outcome: str, facts: dict[str, Any]) -> None:
        metrics.FINISHED.labels(*job, outcome).inc()
        observations.add(metrics.ATTEMPTS_PER_JOB.labels(*job), facts["attempt"])
        if "reason" in facts:
            metrics.DEAD_LETTERS.labels(*job, facts["reason"]).inc()
        if "age_seconds" in facts:
            observations.add(metrics.END_TO_END.labels(job[0]), facts["age_seconds"])
