"""Keeps rows in step with Dramatiq: each attempt is claimed before its actor runs, and settled after it."""

import math
from contextlib import suppress
from uuid import UUID

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware, SkipMessage
from dramatiq.worker import Worker
from structlog.stdlib import get_logger

from jobs_service import events
from jobs_service.broker.redis import RETRY_DELAY_OPTION, JobBroker, due_ms_of, message_of
from jobs_service.errors import BrokerUnavailable
from jobs_service.failpoints import failpoint
from jobs_service.jobs.lifecycle import Claim
from jobs_service.worker import attempt
from jobs_service.worker.claims import Claims, NotClaimable, NotHere
from jobs_service.worker.middleware.time_limit import ISOLATED_OPTION
from jobs_service.worker.release import Release
from jobs_service.worker.settler import Settler

log = get_logger(module=__name__)


class LifecycleSync(Middleware):
    """Claims the row before the actor runs and settles the attempt after `Retries` has decided.

    It fails closed. Dramatiq swallows what a hook raises and then runs the actor all the same, so everything that
    goes wrong before the claim becomes a `SkipMessage`: the row is still pending and the relay publishes it again.
    """

    def __init__(
        self, broker: JobBroker, attempts: attempt.RunningAttempts, claims: Claims, settler: Settler, release: Release
    ) -> None:
        self.broker = broker
        self.attempts = attempts
        self.claims = claims
        self.settler = settler
        self.release = release

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        events.emit(events.JobReceived(job_id=message.message_id, type=message.actor_name))
        try:
            self._begin(self.claims.claim(UUID(message.args[0])), message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the actor must not run without a claim
            try:
                self._give_up(message, error)
            finally:
                raise SkipMessage("not claimed") from None

    def after_process_message(
        self,
        broker: Broker,  # noqa: ARG002 - the one given to the constructor
        message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002 - the attempt has it, as JSON (attempt.py says why)
        exception: BaseException | None = None,
    ) -> None:
        if running := _taken_from(message):
            self.attempts.returned(running)
            retry_seconds = None if message.failed else message.options.get(RETRY_DELAY_OPTION, 0) / 1000
            try:
                self.settler.settle(running, exception, retry_seconds)
            finally:
                self.attempts.remove(running)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        """Handle what never ran: a message for an actor that this worker does not have."""
        if not self.broker.knows(message.actor_name):
            job_id = UUID(message.args[0])
            log.warning("No actor for this job type", job_id=message.message_id, type=message.actor_name)
            self.settler.fail_unknown(job_id, message.actor_name)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        self.release.at_shutdown()

    def _begin(self, claim: Claim, message: MessageProxy) -> None:
        failpoint("worker.after_claim")
        running = message.kwargs[attempt.ATTEMPT_ARGUMENT] = attempt.begin(claim)
        self.attempts.add(running)
        actor = self.broker.get_actor(claim.type)
        if actor is not self.broker.get_actor(message.actor_name):
            raise ValueError(f"the message names {message.actor_name!r}, its job is of type {claim.type!r}")
        running.begin_effect = lambda: self.claims.begin_effect(running)
        running.limit_seconds = actor.options.get("time_limit", math.inf) / 1000
        message.options[ISOLATED_OPTION] = running.is_suspect
        # The row counts attempts and says how many there may be; Retries reads both from the message.
        message.options["retries"] = claim.attempts - 1
        message.options["max_retries"] = claim.max_attempts - 1
        events.emit(events.JobProcessing(**running.facts, waited_seconds=round(claim.waited_seconds, 4)))

    def _give_up(self, message: MessageProxy, error: Exception) -> None:
        """End what did not begin. A claim that went through is given back."""
        if running := _taken_from(message):
            self.attempts.remove(running)
            self.claims.release(running.claim)
        if isinstance(error, NotClaimable):
            events.emit(events.JobNotClaimed(job_id=message.message_id, type=message.actor_name))
        elif isinstance(error, NotHere):
            log.warning("Not claimed here; published again", job_id=message.message_id, error=str(error))
            with suppress(BrokerUnavailable):
                self.broker.publish(message.queue_name, [(message_of(message), due_ms_of(message))])
        else:
            log.error("Claim failed; the relay will publish it again", job_id=message.message_id, exc_info=error)


def _taken_from(message: MessageProxy) -> attempt.RunningAttempt | None:
    """Take the attempt off its message and return it; None where none began."""
    running: attempt.RunningAttempt | None = message.kwargs.pop(attempt.ATTEMPT_ARGUMENT, None)
    return running
