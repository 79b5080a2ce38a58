"""Submitting a job: from a parsed body to a committed row and, if Redis answers, a published message."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from structlog.stdlib import get_logger

from jobs_service import events
from jobs_service.broker.publisher import Publisher
from jobs_service.config import Settings
from jobs_service.database.connection import Database
from jobs_service.database.group_commit import Batch
from jobs_service.errors import DatabaseUnavailable, InvalidRequest
from jobs_service.failpoints import failpoint
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.job_types import JobType, Registry
from jobs_service.metrics.catalogue import SUBMISSION_ERRORS
from jobs_service.metrics.clock import DatabaseTime, measure_offset, steady_seconds
from jobs_service.observability import tracing

log = get_logger(module=__name__)

#: How far in the future a job may be scheduled.
MAX_DELAY = timedelta(days=366)

#: Added to the limits of dates, because a client's clock may be wrong.
SLACK = timedelta(days=1)

DEFAULT_PRIORITY = 5


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /jobs`."""

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
    #: The JSON text as the client sent it.
    payload: msgspec.Raw
    run_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY.total_seconds())] | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = DEFAULT_PRIORITY
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    on_ambiguous: lifecycle.OnAmbiguous = lifecycle.OnAmbiguous.RESEND


class Submitter:
    """Submits jobs. All threads share one submitter, and calls made at the same time share one commit."""

    def __init__(self, database: Database, publisher: Publisher, registry: Registry, settings: Settings) -> None:
        self.database = database
        self.publisher = publisher
        self.registry = registry
        self.settings = settings
        self._write = Batch[lifecycle.NewJob, lifecycle.Submitted](self._write_all)
        #: Ids are made from PostgreSQL's time, and lists are sorted by id: so they are in order across processes.
        self._time = DatabaseTime(self._ask_the_time)

    def submit(self, submission: Submission, origin: Origin) -> lifecycle.NewJob:
        """Commit the job, then publish it.

        Raises `InvalidRequest`, and `DatabaseUnavailable` when the job could not be committed. If Redis does not
        answer, the relay publishes the job later.
        """
        job_type = self.registry.get(submission.type)
        publish = not submission.delay_seconds and self.publisher.may_publish(
            job_type.queue, job_type.name, submission.priority
        )
        job = self._new_job(submission, job_type, origin, publish=publish)
        with tracing.sending(job.id, job.type, job.queue) as traceparent:
            self._write_and_publish(replace(job, traceparent=traceparent) if traceparent else job, publish=publish)
        return job

    def _write_and_publish(self, job: lifecycle.NewJob, *, publish: bool) -> None:
        failpoint("api.before_commit")
        submitted = self._commit(job)
        failpoint("api.after_commit")
        if publish and submitted.is_due and not self.publisher.publish(job, submitted):
            self._leave_to_the_relay(job)
        failpoint("api.after_publish")
        events.emit(events.JobSubmitted(job_id=str(job.id), type=job.type, queue=job.queue))

    def _write_all(self, jobs: Sequence[lifecycle.NewJob]) -> list[lifecycle.Submitted]:
        asked_at = steady_seconds()
        submitted = lifecycle.submit(self.database, jobs)
        answered_at, said = steady_seconds(), submitted[0].database_seconds
        # The API has no heartbeat from which to learn PostgreSQL's time. Here it costs no further statement.
        measure_offset(said, asked_at=asked_at, answered_at=answered_at)
        self._time.learn(said, asked_at=asked_at, answered_at=answered_at)
        return submitted

    def _ask_the_time(self) -> float:
        try:
            return lifecycle.database_seconds(self.database)
        except DatabaseUnavailable:
            SUBMISSION_ERRORS.labels("database_unavailable").inc()
            raise

    def _commit(self, job: lifecycle.NewJob) -> lifecycle.Submitted:
        try:
            submitted = self._write(job)
        except DatabaseUnavailable:
            SUBMISSION_ERRORS.labels("database_unavailable").inc()
            raise
        if submitted.is_expired:
            raise InvalidRequest("expires_at must be later than run_at and later than now", pointer="/expires_at")
        return submitted

    def _new_job(self, submission: Submission, job_type: JobType, origin: Origin, *, publish: bool) -> lifecycle.NewJob:
        payload = bytes(submission.payload)
        job_type.decode(payload)
        now = self._time.now()
        _check_times(submission, datetime.fromtimestamp(now, UTC))
        if job_type.is_canary:
            _check_canary(submission)
        return lifecycle.NewJob(
            id=new_id(now),
            type=job_type.name,
            payload=payload.decode(),
            queue=job_type.queue,
            priority=submission.priority,
            max_attempts=submission.max_attempts or job_type.max_attempts or self.settings.max_attempts,
            run_at=submission.run_at,
            delay_seconds=submission.delay_seconds or 0,
            publish_grace_seconds=self.settings.republish_seconds if publish else 0,
            expires_at=submission.expires_at,
            on_ambiguous=submission.on_ambiguous,
            request_id=origin.request_id,
            traceparent=origin.traceparent,
        )

    def _leave_to_the_relay(self, job: lifecycle.NewJob) -> None:
        try:
            lifecycle.publish_soon(self.database, job.id)
        except DatabaseUnavailable as error:
            # The job is committed, so it is accepted. The relay publishes it when its `publish_at` comes.
            log.warning("Job not published yet; the relay will publish it", job_id=str(job.id), error=str(error))


def _check_times(submission: Submission, now: datetime) -> None:
    if submission.run_at is not None and submission.delay_seconds is not None:
        raise InvalidRequest("send run_at or delay_seconds, not both", pointer="/delay_seconds")
    if submission.run_at is not None and abs(submission.run_at - now) > MAX_DELAY + SLACK:
        raise InvalidRequest(f"run_at must be at most {MAX_DELAY.days} days from now", pointer="/run_at")
    if submission.expires_at is not None and submission.expires_at - now > 2 * MAX_DELAY + SLACK:
        raise InvalidRequest(f"expires_at must be at most {2 * MAX_DELAY.days} days from now", pointer="/expires_at")


def _check_canary(submission: Submission) -> None:
    """Refuse what would delay a canary: the next one is sent only after it has completed."""
    for field in ("run_at", "delay_seconds", "expires_at"):
        if getattr(submission, field) is not None:
            raise InvalidRequest(f"a canary runs at once: send it without {field}", pointer=f"/{field}")
