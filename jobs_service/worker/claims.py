"""Claiming jobs for this worker process, confirming their leases, giving them back."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from uuid import UUID

from dramatiq.broker import MessageProxy
from structlog.stdlib import get_logger

from jobs_service import descriptors, events
from jobs_service.broker.redis import JobBroker, Popped
from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable, LeaseLost, PostgresError
from jobs_service.failpoints import failpoint
from jobs_service.ids import random_ids
from jobs_service.jobs import lifecycle
from jobs_service.observability import logs
from jobs_service.worker.attempt import RunningAttempt, RunningAttempts, attempt_of
from jobs_service.worker.database_wait import DatabaseWait

log = get_logger(module=__name__)


class Claims:
    """Takes leases for one worker process: a consumer claims what it has popped by one statement."""

    def __init__(
        self,
        database: Database,
        wait: DatabaseWait,
        broker: JobBroker,
        attempts: RunningAttempts,
        worker_id: UUID,
        *,
        claiming: Database,
    ) -> None:
        """Claims are sent through the database `claiming`, all else through `database`."""
        self.database = database
        self.claiming = claiming
        self.wait = wait
        self.broker = broker
        self.attempts = attempts
        self.worker_id = worker_id
        #: The tokens of claims that have no answer yet, or were given up without one.
        self.unanswered: set[UUID] = set()

    def claim(self, messages: Sequence[Popped]) -> list[Popped]:
        """Begin the next attempts of the messages' jobs. Return the messages of those that are to run here.

        It fails closed: a job whose claim failed is still pending, or is released, and the relay publishes it again.
        """
        if not messages:
            return []
        self._announce_received(messages)
        try:
            if descriptors.are_exhausted():
                return self._leave_to_others(messages)
            return self._accepted(messages, self._claim(messages))
        except Exception:
            log.exception("Claims failed; the relay will publish the jobs again", jobs=len(messages))
            self.give_back_surely([running for message in messages if (running := attempt_of(message))])
            return []

    def begin_effect(self, running: RunningAttempt) -> None:
        """Confirm the lease and note that the effect begins. Raises `LeaseLost`."""
        if not self.wait.until_answered("begin_effect", lambda: lifecycle.begin_effect(self.database, running.claim)):
            raise LeaseLost("the job is not this attempt's any more")
        running.effect_begun = True

    def release(self, messages: Iterable[MessageProxy]) -> None:
        """Give back the claims of messages whose attempts have not begun.

        Without an answer they stay among the attempts of this process, and are released when it ends.
        """
        waiting = [running for message in messages if (running := attempt_of(message))]
        with suppress(PostgresError):
            self.give_back(waiting)

    def give_back_surely(self, attempts: Sequence[RunningAttempt]) -> None:
        """Release attempts that will not run, once PostgreSQL answers: this process must not keep their leases."""
        with suppress(DatabaseUnavailable):  # at a stop, which releases all
            self.wait.until_answered("release", lambda: self.give_back(attempts), give_up_when_draining=True)
            for running in attempts:
                self.attempts.remove(running)

    def give_back(self, attempts: Sequence[RunningAttempt]) -> list[RunningAttempt]:
        """Release these attempts by one statement and announce it. Return those that could not be released.

        Raises `DatabaseUnavailable`.
        """
        released = lifecycle.release(self.database, [running.claim for running in attempts]) if attempts else []
        for running, is_released in zip(attempts, released, strict=True):
            if is_released:
                self.attempts.remove(running)
                # Not in the attempt's own thread, so nothing of it is bound here.
                with logs.bound(worker_id=str(self.worker_id), **running.claim.origin.fields):
                    events.emit(events.JobReleased(**running.end_facts))
        return [running for running, is_released in zip(attempts, released, strict=True) if not is_released]

    def _claim(self, messages: Sequence[Popped]) -> list[lifecycle.Claim | None]:
        asks = [
            lifecycle.ClaimRequest(UUID(message.message_id), self.worker_id, token)
            for message, token in zip(messages, random_ids(len(messages)), strict=True)
        ]
        tokens = {ask.token for ask in asks}
        self.unanswered |= tokens
        claims = self.wait.until_answered(
            "claim", lambda: lifecycle.claim(self.claiming, asks), give_up_when_draining=True
        )
        self.unanswered -= tokens
        failpoint("worker.after_claim")
        return claims

    def _announce_received(self, messages: Sequence[Popped]) -> None:
        with logs.batched():
            for message in messages:
                self._bind(message)
                events.emit(events.JobReceived(job_id=message.message_id, type=message.actor_name))
        logs.bind_anew()

    def _accepted(self, messages: Sequence[Popped], claims: Sequence[lifecycle.Claim | None]) -> list[Popped]:
        try:
            with logs.batched():
                accepted = zip(messages, claims, strict=True)
                return [message for message, claim in accepted if self._is_accepted(message, claim)]
        finally:
            logs.bind_anew()

    def _is_accepted(self, message: Popped, claim: lifecycle.Claim | None) -> bool:
        """Attach the attempt to its message and announce it. False: it is not to run here."""
        self._bind(message)
        if claim is None:
            job_type = message.counted_type or message.actor_name
            events.emit(events.JobNotClaimed(job_id=message.message_id, type=job_type, queue=message.queue_name))
            return False
        running = RunningAttempt(claim)
        self.attempts.add(running)
        if self.broker.name_of(claim.type) != message.counted_type:
            log.error("A message names another type than its job", named=message.actor_name, type=claim.type)
            self.give_back_surely([running])
            return False
        running.attach_to(message)
        logs.bind(attempt=claim.attempts, **claim.origin.fields)
        events.emit(events.JobProcessing(**running.facts, waited_seconds=round(claim.waited_seconds, 4)))
        return True

    def _leave_to_others(self, messages: Sequence[Popped]) -> list[Popped]:
        """Publish the messages again, for another process: this one can open no file, and is to be replaced."""
        # The watchdog sees it too, and has the process stop.
        self.broker.draining = True
        log.warning("Not claimed: this process can open no further file; published again", jobs=len(messages))
        messages[0].consumer.requeue(messages)
        return []

    def _bind(self, message: Popped) -> None:
        """Have the log lines of this consumer's thread name the message."""
        logs.bind_anew(
            job_id=message.message_id,
            type=message.actor_name,
            queue=message.queue_name,
            worker_id=str(self.worker_id),
        )
