"""Submitting a job: from a parsed body to a committed row and, if Redis answers, a published message."""

from collections.abc import Callable, Iterator
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
from jobs_service.errors import DatabaseUnavailable, InvalidRequest, QueueFull, TooBusy
from jobs_service.ids import new_id
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.idempotency import KeptAnswer, Key, Once
from jobs_service.jobs.job_types import JobType, Registry
from jobs_service.jobs.lifecycle import NewJob, OnAmbiguous
from jobs_service.metrics.catalogue import SUBMISSION_ERRORS
from jobs_service.observability import tracing
from jobs_service.submission.intake import Intake
from jobs_service.submission.queue_limits import QueueLimits
from jobs_service.submission.writer import JobWriter, Written

log = get_logger(module=__name__)

#: How far in the future a job may be scheduled.
MAX_DELAY = timedelta(days=366)

#: Added to the limits of dates, because a client's clock may be wrong.
SLACK = timedelta(days=1)

DEFAULT_PRIORITY = 5

#: What is wrong with a job that PostgreSQL found to have expired before it could begin.
EXPIRED = "expires_at must be later than run_at and later than now"


#: The maximum length of a queue's name, in characters: that of the column `jobs.queue`.
MAX_QUEUE_NAME = 50

MAX_TAGS = 20

#: Only characters that can be seen: no control characters, line breaks, marks of direction and other invisible ones.
_VISIBLE = r"^[^\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]*$(?!\n)"

Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=_VISIBLE)]

#: The longest `timeout_seconds` that any settings permit.
LONGEST_TIMEOUT_SECONDS = 100_000

_OF_QUEUE = "A queue of this installation. Null: the type's own."
_OF_TIMEOUT = "How long each attempt may run. Null: as long as the type says."


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /jobs`."""

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
    #: The JSON text as the client sent it.
    payload: msgspec.Raw
    queue: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_QUEUE_NAME, description=_OF_QUEUE)] | None = None
    run_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY.total_seconds())] | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = DEFAULT_PRIORITY
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    on_ambiguous: OnAmbiguous = OnAmbiguous.RESEND
    timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=LONGEST_TIMEOUT_SECONDS, description=_OF_TIMEOUT)] | None = (
        None
    )
    tags: Annotated[
        list[Tag],
        msgspec.Meta(max_length=MAX_TAGS, description="To find the job by.", extra_json_schema={"uniqueItems": True}),
    ] = []


class Submitter:
    """Submits jobs. One for a process."""

    def __init__(self, database: Database, publisher: Publisher, registry: Registry, settings: Settings) -> None:
        """No other code uses the database, where it is made for one thread."""
        self.registry = registry
        self.settings = settings
        self.queue_limits = QueueLimits(settings.queue_limit)
        self._queues = registry.queues
        self.writer = JobWriter(database, publisher)
        self.intake = Intake(self.writer, announce)

    async def submit(self, submission: Submission, origin: Origin, *, retry_of: UUID | None = None) -> NewJob:
        """Commit the job, then publish it. Jobs that are submitted at the same time share statement and commit.

        `retry_of` is the finished job that it repeats with changes.

        Raises `InvalidRequest`, `QueueFull`, `TooBusy`, and `DatabaseUnavailable` when the job could not be committed.
        If Redis does not answer, the relay publishes the job later. A job whose caller is cancelled may be submitted
        all the same.
        """
        with counted_errors():
            job_type, size = self._checked_type(submission), memoryview(submission.payload).nbytes
            job = self._new_job(submission, job_type, origin, now=await self.intake.now(size))
            self._check_room(job, job_type)
            job, _ = await self._submit(replace(job, retry_of=retry_of) if retry_of else job, size)
        return job

    async def submit_once(
        self,
        submission: Submission,
        origin: Origin,
        key: Key,
        answer_about: Callable[[NewJob], KeptAnswer],
        *,
        retry_of: UUID | None = None,
    ) -> tuple[KeptAnswer, bool]:
        """Submit a job like `submit`, once for the key. Return the answer, and whether it is an earlier one.

        `answer_about` returns the answer if the job is submitted; it is kept with the key. Raises
        `IdempotencyConflict` as well.
        """
        with counted_errors():
            job_type, size = self._checked_type(submission), memoryview(submission.payload).nbytes
            job = self._new_job(submission, job_type, origin, now=await self.intake.now(size))
            self._check_room(job, job_type)
            answer = answer_about(job)
            once = Once(key, job.id, answer)
            _, earlier = await self._submit(replace(job, once=once, retry_of=retry_of), size)
        return earlier or answer, earlier is not None

    def new_job(
        self, submission: Submission, origin: Origin, *, now: float, may_publish: Callable[[str, str, int], bool]
    ) -> NewJob:
        """Return the job that is to be written. `now` is PostgreSQL's time. Raises `InvalidRequest`.

        `may_publish` takes queue, type and priority; where it returns false the job is left to the relay.
        """
        return self._new_job(submission, self._checked_type(submission), origin, now=now, may_publish=may_publish)

    async def _submit(self, job: NewJob, size: int) -> tuple[NewJob, KeptAnswer | None]:
        """Return the job as it was written, and the answer that its Idempotency-Key had before, if it had one."""
        with tracing.sending(job.id, job.type, job.queue) as traceparent:
            job = replace(job, traceparent=traceparent) if traceparent else job
            written = await self.intake.write(job, size)
        if isinstance(written, KeptAnswer):
            return job, written
        _check_expiry(written)
        return job, None

    def submit_blocking(self, submission: Submission, origin: Origin) -> NewJob:
        """Submit a job like `submit`, but alone, and from a thread that may wait."""
        with counted_errors():
            job_type = self._checked_type(submission)
            job = self._new_job(submission, job_type, origin, now=self.writer.time.now())
            with tracing.sending(job.id, job.type, job.queue) as traceparent:
                job = replace(job, traceparent=traceparent) if traceparent else job
                [outcome] = self.writer.write([job])
                if isinstance(outcome, Exception):
                    raise outcome
                if isinstance(outcome, Written):
                    announce(job, outcome)
                    _check_expiry(outcome)
        return job

    def _check_room(self, job: NewJob, job_type: JobType) -> None:
        """Raise `QueueFull` if the job's queue has none. Canaries are always let in."""
        if not job_type.is_canary:
            self.queue_limits.check(job.queue)

    def _checked_type(self, submission: Submission) -> JobType:
        """Return the type of a job whose payload is one of that type."""
        job_type = self.registry.get(submission.type)
        job_type.decode(bytes(submission.payload))
        return job_type

    def _new_job(
        self,
        submission: Submission,
        job_type: JobType,
        origin: Origin,
        *,
        now: float,
        may_publish: Callable[[str, str, int], bool] = lambda *_: True,
    ) -> NewJob:
        _check_times(submission, datetime.fromtimestamp(now, UTC))
        self._check_timeout(submission, job_type)
        if submission.tags and len(set(submission.tags)) < len(submission.tags):
            raise InvalidRequest("send each tag only once", pointer="/tags")
        if job_type.is_canary:
            _check_canary(submission)
        queue = self._queue(submission, job_type)
        is_published = not submission.delay_seconds and may_publish(queue, job_type.name, submission.priority)
        return NewJob(
            id=new_id(now),
            type=job_type.name,
            payload=bytes(submission.payload).decode(),
            queue=queue,
            priority=submission.priority,
            max_attempts=submission.max_attempts or job_type.max_attempts or self.settings.max_attempts,
            run_at=submission.run_at,
            delay_seconds=submission.delay_seconds or 0,
            publish_grace_seconds=self.settings.republish_seconds if is_published else 0,
            expires_at=submission.expires_at,
            on_ambiguous=submission.on_ambiguous,
            request_id=origin.request_id,
            traceparent=origin.traceparent,
            tags=submission.tags,
            timeout_seconds=submission.timeout_seconds,
        )

    def _queue(self, submission: Submission, job_type: JobType) -> str:
        if submission.queue is None:
            return job_type.queue
        if submission.queue not in self._queues:
            known = ", ".join(self._queues)
            raise InvalidRequest(f"unknown queue {submission.queue!r}; known queues: {known}", pointer="/queue")
        return submission.queue

    def _check_timeout(self, submission: Submission, job_type: JobType) -> None:
        longest = max(self.settings.longest_timeout_seconds, job_type.time_limit_seconds or 0)
        if submission.timeout_seconds is not None and submission.timeout_seconds > longest:
            raise InvalidRequest(
                f"timeout_seconds must be at most {longest}: a worker that stops waits no longer for a running job",
                pointer="/timeout_seconds",
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
def counted_errors() -> Iterator[None]:
    """Count what keeps jobs from being submitted, beside what is wrong with them."""
    try:
        yield
    except DatabaseUnavailable:
        SUBMISSION_ERRORS.labels("database_unavailable").inc()
        raise
    except TooBusy:
        SUBMISSION_ERRORS.labels("too_busy").inc()
        raise
    except QueueFull:
        SUBMISSION_ERRORS.labels("queue_full").inc()
        raise


def _check_expiry(written: Written) -> None:
    if written.submitted.is_expired:
        raise InvalidRequest(EXPIRED, pointer="/expires_at")


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
    for field in ("run_at", "delay_seconds", "expires_at", "queue"):
        if getattr(submission, field) is not None:
            raise InvalidRequest(f"a canary runs at once and in its own queue: send no {field}", pointer=f"/{field}")
