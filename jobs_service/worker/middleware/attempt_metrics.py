"""Counts attempts: busy threads from Dramatiq's hooks, everything else from the events of committed transitions."""

import os
from threading import get_ident
from typing import Any

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware

from jobs_service import events
from jobs_service.metrics import catalogue as metrics, exposition, multiprocess, observations
from jobs_service.metrics.slo import Objectives


class AttemptMetrics(Middleware):
    """Subscribes itself to the events; as the first middleware its after-hooks run last, so busy threads balance."""

    def __init__(self, objectives: Objectives) -> None:
        self.objectives = objectives
        #: The threads that have a message in hand. The sampler exports their number: a gauge would cost more.
        self.busy: set[int] = set()
        self._error_type = metrics.Capped(metrics.ATTEMPT_ERRORS, "error_type")
        events.subscribe("metrics", self.on_event)

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

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        self.busy.discard(get_ident())

    def on_event(self, event: events.Event) -> None:
        match event:
            case events.JobProcessing():
                self._started(event)
            case events.JobCompleted():
                self._attempt_ended(event, "completed", seconds=event.seconds)
                self._job_ended(event, "completed", age_seconds=event.age_seconds)
            case events.JobFailed():
                self._failed(event)
            case events.JobRetried():
                self._attempt_ended(event, "retried", seconds=event.seconds, error=event.error)
            case events.JobDeferred():
                self._attempt_ended(event, "deferred", seconds=event.seconds, error=event.error)
            case events.JobReleased():
                self._attempt_ended(event, "released", seconds=event.seconds)
            case events.AttemptInterrupted():
                self._attempt_ended(event, "interrupted", seconds=event.seconds)
            case events.VerdictRefused():
                self._attempt_ended(event, "refused")
            case _:
                self._happened(event)

    def _happened(self, event: events.Event) -> None:
        match event:
            case events.JobNotClaimed():
                metrics.ATTEMPTS.labels(event.queue, event.type, "skipped").inc()
            case events.JobSnoozed():
                metrics.SNOOZED.labels(event.queue, event.type).inc()
            case events.JobRescued():
                metrics.RESCUED.labels(event.queue, event.type).inc()
            case events.AttemptAmbiguous():
                metrics.AMBIGUOUS.labels(event.queue, event.type, event.policy).inc()
            case events.MessageQuarantined():
                metrics.QUARANTINED.labels(event.queue).inc()
            case events.JobsPruned():
                metrics.PRUNED.labels(event.status).inc(event.jobs)
            case events.SubscriberFailed():
                metrics.EVENT_SUBSCRIBER_ERRORS.labels(event.subscriber).inc()
            case _:
                self._done_to_many(event)

    def _done_to_many(self, event: events.Event) -> None:
        """Count what maintenance does for actions on many jobs: a worker does these things for nothing else."""
        match event:
            case events.JobRedriven():
                metrics.SUBMITTED.labels(event.queue, event.type, "redrive").inc()
                metrics.BULK_ACTION_JOBS.labels("redrive", "moved").inc()
            case events.JobDiscarded():
                metrics.DISCARDED.labels(event.queue, event.type).inc()
                metrics.BULK_ACTION_JOBS.labels("discard", "moved").inc()
            case events.JobCancelled():
                metrics.FINISHED.labels(event.queue, event.type, "cancelled").inc()
                metrics.BULK_ACTION_JOBS.labels("cancellation", "moved").inc()
            case events.BulkActionEnded():
                metrics.BULK_ACTIONS_ENDED.labels(event.kind, event.state).inc()
                metrics.BULK_ACTION_JOBS.labels(event.kind, "skipped").inc(event.skipped)

    def _started(self, event: events.JobProcessing) -> None:
        metrics.STARTED.labels(event.queue).inc()
        observations.add(metrics.QUEUE_LATENCY.labels(event.queue), max(0.0, event.waited_seconds))
        if event.waited_seconds > self.objectives.latency_seconds(event.queue):
            metrics.STARTED_LATE.labels(event.queue).inc()

    def _failed(self, event: events.JobFailed) -> None:
        # A job may fail without an attempt that ends here: its worker was lost, or no worker knows its type.
        if event.seconds is not None:
            self._attempt_ended(event, "failed", seconds=event.seconds, error=event.error)
        self._job_ended(event, "failed", age_seconds=event.age_seconds)
        metrics.DEAD_LETTERS.labels(event.queue, event.type, event.reason).inc()

    def _attempt_ended(
        self, event: events.JobEvent, outcome: str, *, seconds: float | None = None, error: str | None = None
    ) -> None:
        metrics.ATTEMPTS.labels(event.queue, event.type, outcome).inc()
        if seconds is not None:
            observations.add(metrics.RUN_DURATION.labels(event.queue, event.type), seconds)
        if error is not None:
            metrics.ATTEMPT_ERRORS.labels(event.queue, event.type, self._error_type(error[:64])).inc()

    def _job_ended(self, event: events.JobEvent, outcome: str, *, age_seconds: float | None) -> None:
        metrics.FINISHED.labels(event.queue, event.type, outcome).inc()
        observations.add(metrics.ATTEMPTS_PER_JOB.labels(event.queue, event.type), event.attempt)
        if age_seconds is not None:
            observations.add(metrics.END_TO_END.labels(event.queue), age_seconds)
