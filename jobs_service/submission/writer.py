"""Writes new jobs, many in one statement, and publishes the messages of those that are due."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar
from uuid import UUID

from jobs_service.broker.publisher import Publisher
from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable
from jobs_service.failpoints import failpoint
from jobs_service.jobs import idempotency, lifecycle
from jobs_service.jobs.lifecycle import Submitted
from jobs_service.metrics.clock import DatabaseTime, measure_offset, steady_seconds


@dataclass(frozen=True, slots=True)
class Written:
    """What PostgreSQL and Redis answered about a new job. Its row is committed unless it had expired."""

    submitted: lifecycle.Submitted
    #: Why its message was not sent, although it is due now; "" if it was sent, or if the relay sends it anyway.
    publish_error: str = ""
    #: Why the relay could not be asked to send that message at once; "" if it could. It sends it some seconds later.
    relay_error: str = ""


#: What came of a job: besides an error, the answer that its Idempotency-Key had before.
Outcome = Written | idempotency.KeptAnswer | Exception

T = TypeVar("T")


class JobWriter:
    """Commits new jobs and publishes them. Its methods block. Thread-safe if the database is."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self.database = database
        self.publisher = publisher
        #: Ids are made from PostgreSQL's time, and lists are sorted by id: so they are in order across processes.
        self.time = DatabaseTime(lambda: lifecycle.database_seconds(database))

    def write(self, jobs: Sequence[lifecycle.NewJob]) -> Sequence[Outcome]:
        """Write the jobs by one statement and publish them. Return for each the result, or the error that it met.

        Those with an Idempotency-Key have a statement of their own. All have the error of a database that does not
        answer. Any other error is that of a few of them: the halves are then written by themselves, until only those
        fail. Safe to run twice for the same jobs.
        """
        keyed = [job for job in jobs if job.once is not None]
        if not keyed:
            return _by_halves(jobs, self._write)
        written = iter(_by_halves([job for job in jobs if job.once is None], self._write))
        answered = iter(_by_halves(keyed, self._write_once))
        return [next(written if job.once is None else answered) for job in jobs]

    def publish(self, jobs: Sequence[lifecycle.NewJob], submitted: Sequence[lifecycle.Submitted]) -> list[Written]:
        """Publish jobs that were committed. Return for each what is known about it."""
        unsent = self._publish(jobs, submitted)
        relay_error = self._leave_to_the_relay(unsent)
        failpoint("api.after_publish")
        return [
            Written(answer, unsent[answer.id], relay_error) if answer.id in unsent else Written(answer)
            for answer in submitted
        ]

    def _write(self, jobs: Sequence[lifecycle.NewJob]) -> list[Written]:
        jobs = self._within_the_windows(jobs)
        failpoint("api.before_commit")
        submitted = self._commit(jobs)
        failpoint("api.after_commit")
        return self.publish(jobs, submitted)

    def _write_once(self, jobs: Sequence[lifecycle.NewJob]) -> list[Outcome]:
        jobs = self._within_the_windows(jobs)
        failpoint("api.before_commit")
        answers = lifecycle.submit_once(self.database, jobs)
        failpoint("api.after_commit")
        new = [(job, answer) for job, answer in zip(jobs, answers, strict=True) if isinstance(answer, Submitted)]
        written = iter(self.publish([job for job, _ in new], [answer for _, answer in new]) if new else ())
        return [next(written) if isinstance(answer, Submitted) else answer for answer in answers]

    def _within_the_windows(self, jobs: Sequence[lifecycle.NewJob]) -> Sequence[lifecycle.NewJob]:
        """Leave those jobs to the relay from the start that may not be published now."""
        lines = {(job.queue, job.type, job.priority) for job in jobs if job.publish_grace_seconds}
        closed = {line for line in lines if not self.publisher.may_publish(*line)}
        if not closed:
            return jobs
        return [
            replace(job, publish_grace_seconds=0) if (job.queue, job.type, job.priority) in closed else job
            for job in jobs
        ]

    def _commit(self, jobs: Sequence[lifecycle.NewJob]) -> list[lifecycle.Submitted]:
        asked_at = steady_seconds()
        submitted = lifecycle.submit(self.database, jobs)
        answered_at, said = steady_seconds(), submitted[0].database_seconds
        # The API has no heartbeat from which to learn PostgreSQL's time. Here it costs no further statement.
        measure_offset(said, asked_at=asked_at, answered_at=answered_at)
        self.time.learn(said, asked_at=asked_at, answered_at=answered_at)
        return submitted

    def _publish(self, jobs: Sequence[lifecycle.NewJob], submitted: Sequence[lifecycle.Submitted]) -> dict[UUID, str]:
        """Send the messages of the jobs that are due. Return by id why a message was not sent."""
        due = [
            (job, answer)
            for job, answer in zip(jobs, submitted, strict=True)
            if job.publish_grace_seconds and answer.is_due and not answer.is_expired
        ]
        errors = self.publisher.publish(due)
        return {job.id: errors[job.queue] for job, _ in due if job.queue in errors}

    def _leave_to_the_relay(self, unsent: Mapping[UUID, str]) -> str:
        """Make the relay publish jobs at once. Return "", or why it publishes them only when their `publish_at` comes.

        The jobs are committed, so they are submitted either way.
        """
        if not unsent:
            return ""
        try:
            lifecycle.publish_soon(self.database, list(unsent))
        except DatabaseUnavailable as error:
            return str(error) or type(error).__name__
        return ""


def _by_halves(
    jobs: Sequence[lifecycle.NewJob], write: Callable[[Sequence[lifecycle.NewJob]], Sequence[T]]
) -> Sequence[T | Exception]:
    try:
        return write(jobs) if jobs else []
    except DatabaseUnavailable as error:
        return [error] * len(jobs)
    except Exception as error:  # noqa: BLE001 - it is raised to the caller of the job that it is about
        if len(jobs) == 1:
            return [error]
        half = len(jobs) // 2
        return [*_by_halves(jobs[:half], write), *_by_halves(jobs[half:], write)]
