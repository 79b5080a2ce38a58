"""Writes new jobs, many in one statement, and publishes the messages of those that are due."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from jobs_service.broker.publisher import Publisher
from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle
from jobs_service.metrics.clock import DatabaseTime, measure_offset, steady_seconds


@dataclass(frozen=True, slots=True)
class Written:
    """What PostgreSQL and Redis answered about a new job. Its row is committed unless it had expired."""

    submitted: lifecycle.Submitted
    #: Why its message was not sent, although it is due now; "" if it was sent, or if the relay sends it anyway.
    publish_error: str = ""
    #: Why the relay could not be asked to send that message at once; "" if it could. It sends it some seconds later.
    relay_error: str = ""


class JobWriter:
    """Commits new jobs and publishes them. Its methods block. Thread-safe if the database is."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self.database = database
        self.publisher = publisher
        #: Ids are made from PostgreSQL's time, and lists are sorted by id: so they are in order across processes.
        self.time = DatabaseTime(lambda: lifecycle.database_seconds(database))

    def write(self, jobs: Sequence[lifecycle.NewJob]) -> list[Written | Exception]:
        """Write the jobs by one statement and publish them. Return for each the result, or the error that it met.

        All have the error of a database that does not answer. Any other error is that of a few of them: the halves are
        then written by themselves, until only those fail. Safe to run twice for the same jobs.
        """
        try:
            return list(self._write(jobs) if jobs else [])
        except DatabaseUnavailable as error:
            return [error] * len(jobs)
        except Exception as error:  # noqa: BLE001 - it is raised to the caller of the job that it is about
            if len(jobs) == 1:
                return [error]
            half = len(jobs) // 2
            return [*self.write(jobs[:half]), *self.write(jobs[half:])]

    def _write(self, jobs: Sequence[lifecycle.NewJob]) -> list[Written]:
        jobs = self._within_the_windows(jobs)
        failpoint("api.before_commit")
        submitted = self._commit(jobs)
        failpoint("api.after_commit")
        unsent = self._publish(jobs, submitted)
        relay_error = self._leave_to_the_relay(unsent)
        failpoint("api.after_publish")
        return [
            Written(answer, unsent[answer.id], relay_error) if answer.id in unsent else Written(answer)
            for answer in submitted
        ]

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
