"""Claiming a job for this worker process, confirming the lease, giving it back."""

from uuid import UUID

from jobs_service import descriptors
from jobs_service.database.connection import Database
from jobs_service.database.group_commit import Batch
from jobs_service.errors import JobsError, LeaseLost
from jobs_service.jobs import lifecycle
from jobs_service.worker.attempt import RunningAttempt
from jobs_service.worker.database_wait import DatabaseWait


class NotClaimable(JobsError):
    """There is nothing to do for this message."""


class NotHere(JobsError):
    """Another process can claim the job: this one is to be replaced."""


class Claims:
    """Takes leases for one worker process. Threads that claim at the same time share a statement and its commit."""

    def __init__(self, database: Database, wait: DatabaseWait, worker_id: UUID) -> None:
        self.database = database
        self.wait = wait
        self.worker_id = worker_id
        #: The tokens of claims that have no answer yet, or were given up without one.
        self.unanswered: set[UUID] = set()
        self._claim_row = Batch[lifecycle.ClaimRequest, lifecycle.Claim | None](
            lambda asks: lifecycle.claim(database, asks)
        )

    def claim(self, job_id: UUID) -> lifecycle.Claim:
        """Begin the job's next attempt. Raises `NotClaimable`, `NotHere`, and `DatabaseUnavailable` at a stop."""
        if descriptors.are_exhausted():
            # The watchdog sees it too, and has the process stop.
            self.wait.broker.draining = True
            raise NotHere("this process can open no further file")
        ask = lifecycle.ClaimRequest(job_id, self.worker_id)
        self.unanswered.add(ask.token)
        claim = self.wait.until_answered("claim", lambda: self._claim_row(ask), give_up_when_draining=True)
        self.unanswered.discard(ask.token)
        if claim is None:
            raise NotClaimable("not pending, or not due")
        return claim

    def begin_effect(self, running: RunningAttempt) -> None:
        """Confirm the lease and note that the effect begins. Raises `LeaseLost`."""
        if not self.wait.until_answered("begin_effect", lambda: lifecycle.begin_effect(self.database, running.claim)):
            raise LeaseLost("the job is not this attempt's any more")
        running.effect_begun = True

    def release(self, claim: lifecycle.Claim) -> None:
        """Give back a claim whose attempt did not begin."""
        self.wait.until_answered("release", lambda: lifecycle.release(self.database, [claim]))
