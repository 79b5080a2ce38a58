"""Gives back what this process holds when it ends: its jobs did not fail, and go back to their places in line."""

import math
import time
from collections.abc import Collection
from uuid import UUID

from dramatiq.middleware import Shutdown
from structlog.stdlib import get_logger

from jobs_service import events
from jobs_service.database.connection import Database
from jobs_service.jobs import lifecycle
from jobs_service.observability import logs
from jobs_service.worker.attempt import RunningAttempt, RunningAttempts
from jobs_service.worker.claims import Claims
from jobs_service.worker.database_wait import DatabaseWait
from jobs_service.worker.settler import Settler
from jobs_service.worker.verdict import decide

log = get_logger(module=__name__)

#: A process that has to end at once ends after this, whether PostgreSQL has answered or not.
RELEASE_SECONDS = 5.0

#: Seconds between two looks whether the verdicts that a stop waits for are written.
_LOOK_SECONDS = 0.05


class Release:
    """Releases the attempts of a worker process that ends, and waits for the verdicts on those that have returned."""

    def __init__(
        self,
        database: Database,
        wait: DatabaseWait,
        attempts: RunningAttempts,
        claims: Claims,
        settler: Settler,
        *,
        worker_id: UUID,
        give_back_seconds: float,
    ) -> None:
        """A stop releases jobs and writes verdicts for up to `give_back_seconds` after it began."""
        self.database = database
        self.wait = wait
        self.attempts = attempts
        self.claims = claims
        self.settler = settler
        self.worker_id = worker_id
        self.give_back_seconds = give_back_seconds

    def of_lost_process(self) -> None:
        """Release the jobs that the process before this one had claimed and not begun: they did not end it.

        The rescuer takes back the others, and these too if PostgreSQL does not answer.
        """
        if lost := self.attempts.begun.lost_process:
            self._release_all_but(lost.worker_id, lost.begun, until=time.monotonic() + RELEASE_SECONDS)
        self.attempts.begun.open(self.worker_id)

    def at_shutdown(self) -> None:
        """Release what still runs when the time to stop is over, and claims whose answers were lost.

        What has returned waits for PostgreSQL with its verdict, and gets the rest of the time.
        """
        until = (self.wait.broker.draining_since or time.monotonic()) + self.give_back_seconds
        self._release_running(until)
        # Where every claim was answered there is nothing to find: a stop does not wait for PostgreSQL then.
        self._release_all_but(
            self.worker_id, self.attempts.tokens(), until=until if self.claims.unanswered else -math.inf
        )
        self._wait_for_verdicts(until)
        if not self.attempts.tokens():
            self.attempts.begun.close()

    def at_once(self, *, hung: Collection[UUID] = ()) -> None:
        """Release what runs in a process that cannot go on, but for the `hung` attempts: those count as its crash."""
        until = time.monotonic() + RELEASE_SECONDS
        self._release_running(until, hung)
        self._wait_for_verdicts(until)

    def _release_running(self, until: float, hung: Collection[UUID] = ()) -> None:
        """Release what runs; what has begun its effect gets a verdict. No error keeps the others from theirs."""
        # A lease that is gone because its release lost its reply was not taken away by a cancel.
        self.attempts.leave_alone()
        try:
            kept = self.wait.until_answered("release", lambda: self._write(hung), until=until)
        except Exception as error:  # noqa: BLE001 - the process has to end, and others wait for their verdicts
            log.warning("Attempts not given back; the rescuer will take them", error=str(error).strip())
            return
        for running in kept:
            try:
                self._settle_interrupted(running, until)
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("Interrupted attempt not settled", **running.facts, error=str(error).strip())

    def _write(self, hung: Collection[UUID]) -> list[RunningAttempt]:
        """Release all that has not returned by one statement, and return what was not released.

        What has returned is left alone: its work is done, and is not to be begun again.
        """
        return self.claims.give_back(
            [running for running in self.attempts if running.claim.token not in hung and not running.has_returned]
        )

    def _settle_interrupted(self, running: RunningAttempt, until: float) -> None:
        """Settle what has begun its effect: what may have been done must not count as not begun."""
        claim = running.claim
        if running.has_returned:
            return
        running.effect_begun = True
        retry_seconds = 0.0 if claim.attempts < claim.max_attempts else None
        verdict = decide(running, Shutdown("the worker stopped"), retry_seconds=retry_seconds)
        with logs.bound(worker_id=str(self.worker_id), **claim.origin.fields):
            self.settler.write(running, verdict, until=until)

    def _release_all_but(self, worker_id: UUID, known: Collection[UUID], *, until: float) -> None:
        """Release the claims of a process that no attempt of it holds, for example because their answers were lost."""
        lost_reply = lifecycle.LostReply()
        try:
            jobs = self.wait.until_answered(
                "release",
                lambda: lifecycle.release_worker(self.database, worker_id, known=known, lost_reply=lost_reply),
                until=until,
            )
        except Exception as error:  # noqa: BLE001 - the process has to go on, or to end
            log.warning("Claims not given back; the rescuer will take them", error=str(error).strip())
            return
        for job in jobs:
            with logs.bound(worker_id=str(worker_id), **job.origin.fields):
                events.emit(events.JobReleased(**job.facts, seconds=0.0))

    def _wait_for_verdicts(self, until: float) -> None:
        while any(running.has_returned for running in self.attempts) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
