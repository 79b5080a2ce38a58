"""Submitting a job: from a parsed body to a committed row and, if Redis answers, a published message."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec
from structlog.stdlib import get_logger

from jobs_service import events
from jobs_service.broker.publisher import Publisher
from jobs_service.config import Settings
from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable, InvalidRequest, TooBusy
from jobs_service.ids import new_id
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.job_types import JobType, Registry
from jobs_service.jobs.lifecycle import NewJob, OnAmbiguous
from jobs_service.metrics.catalogue import SUBMISSION_ERRORS
from jobs_service.observability import tracing
from jobs_service.submission.intake import Intake
from jobs_service.submission.writer import JobWriter, Written

log = get_logger(module=__name__)

#: How far in the future a job may be scheduled.
MAX_DELAY = timedelta(days=366)

#: Added to the limits of dates, because a client's clock may be wrong.
SLACK = timedelta(days=1)

DEFAULT_PRIORITY = 5

MAX_TAGS = 20

#: Only characters that can be seen: no control characters, line breaks, marks of direction and other invisible ones.
_VISIBLE = r"^[^\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]*$(?!\n)"

Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=_VISIBLE)]


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
    on_ambiguous: OnAmbiguous = OnAmbiguous.RESEND


class Submitter:
    """Submits jobs. One for a process."""

    def __init__(self, database: Database, publisher: Publisher, registry: Registry, settings: Settings) -> None:
        """No other code uses the database, where it is made for one thread."""
        self.registry = registry
        self.settings = settings
        self.writer = JobWriter(database, publisher)
        self.intake = Intake(self.writer, announce)

    async def submit(self, submission: Submission, origin: Origin, *, retry_of: UUID | None = None) -> NewJob:
        """Commit the job, then publish it. Jobs that are submitted at the same time share statement and commit.

        `retry_of` is the finished job that it repeats with changes.

        Raises `InvalidRequest`, `TooBusy`, and `DatabaseUnavailable` when the job could not be committed. If Redis does
        not answer, the relay publishes the job later. A job whose caller is cancelled may be submitted all the same.
        """
        with _counted_errors():
            job_type, size = self._checked_type(submission), memoryview(submission.payload).nbytes
            job = self._new_job(submission, job_type, origin, now=await self.intake.now(size))
            job = replace(job, retry_of=retry_of) if retry_of else job
            with tracing.sending(job.id, job.type, job.queue) as traceparent:
                job = replace(job, traceparent=traceparent) if traceparent else job
                _check_expiry(await self.intake.write(job, size))
        return job

    def submit_blocking(self, submission: Submission, origin: Origin) -> NewJob:
        """Submit a job like `submit`, but alone, and from a thread that may wait."""
        with _counted_errors():
            job_type = self._checked_type(submission)
            job = self._new_job(submission, job_type, origin, now=self.writer.time.now())
            with tracing.sending(job.id, job.type, job.queue) as traceparent:
                job = replace(job, traceparent=traceparent) if traceparent else job
                [outcome] = self.writer.write([job])
                if isinstance(outcome, Exception):
                    raise outcome
                announce(job, outcome)
                _check_expiry(outcome)
        return job

    def _checked_type(self, submission: Submission) -> JobType:
        """Return the type of a job whose payload is one of that type."""
        job_type = self.registry.get(submission.type)
        job_type.decode(bytes(submission.payload))
        return job_type

    def _new_job(self, submission: Submission, job_type: JobType, origin: Origin, *, now: float) -> NewJob:
        _check_times(submission, datetime.fromtimestamp(now, UTC))
        if job_type.is_canary:
            _check_canary(submission)
        return NewJob(
            id=new_id(now),
            type=job_type.name,
            payload=bytes(submission.payload).decode(),
            queue=job_type.queue,
            priority=submission.priority,
            max_attempts=submission.max_attempts or job_type.max_attempts or self.settings.max_attempts,
            run_at=submission.run_at,
            delay_seconds=submission.delay_seconds or 0,
            publish_grace_seconds=0 if submission.delay_seconds else self.settings.republish_seconds,
            expires_at=submission.expires_at,
            on_ambiguous=submission.on_ambiguous,
            request_id=origin.request_id,
            traceparent=origin.traceparent,
        )


def announce(job: NewJob, written: Written) -> None:
    """Emit the events of a job that was written. One that had expired was not."""
    if written.submitted.is_expired:
        return
    if written.publish_error:
        events.emit(events.MessageNotPublished(queue=job.queue, error=written.publish_error))
    if written.relay_error:
        log.warning("Job not published yet; the relay will publish it", job_id=str(job.id), error=written.relay_error)
    events.emit(events.JobSubmitted(job_id=str(job.id), type=job.type, queue=job.queue))


@contextmanager
def _counted_errors() -> Iterator[None]:
    try:
        yield
    except DatabaseUnavailable:
        SUBMISSION_ERRORS.labels("database_unavailable").inc()
        raise
    except TooBusy:
        SUBMISSION_ERRORS.labels("too_busy").inc()
        raise


def _check_expiry(written: Written) -> None:
    if written.submitted.is_expired:
        raise InvalidRequest("expires_at must be later than run_at and later than now", pointer="/expires_at")


def _check_times(submission: Submission, now: datetime) -> None:
    if submission.run_at is not None and submission.delay_seconds is not None:
        raise InvalidRequest("send run_at or delay_seconds, not both", pointer="/delay_seconds")
    if submission.run_at is not None:
        check_run_at(submission.run_at, now)
    if submission.expires_at is not None and submission.expires_at - now > 2 * MAX_DELAY + SLACK:
        raise InvalidRequest(f"expires_at must be at most {2 * MAX_DELAY.days} days from now", pointer="/expires_at")


def check_run_at(run_at: datetime, now: datetime) -> None:
    """Raise `InvalidRequest` for a date that is too far away."""
    if abs(run_at - now) > MAX_DELAY + SLACK:
        raise InvalidRequest(f"run_at must be at most {MAX_DELAY.days} days from now", pointer="/run_at")


def _check_canary(submission: Submission) -> None:
    """Refuse what would delay a canary: the next one is sent only after it has completed."""
    for field in ("run_at", "delay_seconds", "expires_at"):
        if getattr(submission, field) is not None:
            raise InvalidRequest(f"a canary runs at once: send it without {field}", pointer=f"/{field}")
