"""Keeps rows in step with Dramatiq: an attempt begins before its actor runs, and is settled after it."""

import math
from typing import Any
from uuid import UUID

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware, SkipMessage
from dramatiq.worker import Worker
from structlog.stdlib import get_logger

from jobs_service.broker.redis import RETRY_DELAY_OPTION, JobBroker
from jobs_service.worker.attempt import RunningAttempt, RunningAttempts, attempt_of
from jobs_service.worker.claims import Claims
from jobs_service.worker.completions import Completions
from jobs_service.worker.middleware.time_limit import ISOLATED_OPTION
from jobs_service.worker.note_writer import NoteWriter
from jobs_service.worker.release import Release
from jobs_service.worker.settler import Settler

log = get_logger(module=__name__)


class LifecycleSync(Middleware):
    """Begins the attempt that `Claims` attached to the message, and has it settled after `Retries` has decided.

    It fails closed. Dramatiq swallows what a hook raises and then runs the actor all the same, so everything that
    goes wrong before the actor becomes a `SkipMessage`: the job is given back and the relay publishes it again.
    """

    def __init__(
        self,
        broker: JobBroker,
        attempts: RunningAttempts,
        claims: Claims,
        *,
        settler: Settler,
        completions: Completions,
        release: Release,
        notes: NoteWriter,
    ) -> None:
        self.broker = broker
        self.attempts = attempts
        self.claims = claims
        self.settler = settler
        self.completions = completions
        self.release = release
        self.notes = notes

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        self.release.of_lost_process()
        self.completions.start()
        self.broker.claims = self.claims

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        running = attempt_of(message)
        if running is None:
            raise SkipMessage("not claimed")
        try:
            self._begin(running, message)
        except Exception:
            log.exception("Attempt not begun; its job is given back", job_id=message.message_id)
            self.claims.give_back_surely([running])
            raise SkipMessage("not begun") from None

    def after_process_message(
        self,
        broker: Broker,  # noqa: ARG002 - the one given to the constructor
        message: MessageProxy,
        *,
        result: object = None,  # noqa: ARG002 - the attempt has it, as JSON (attempt.py says why)
        exception: BaseException | None = None,
    ) -> None:
        if running := attempt_of(message):
            self.attempts.returned(running)
            # Before the verdict: a client that sees the end of the job has seen what it said.
            self.notes.flush(running.notes)
            self.notes.forget(running.notes)
            if exception is None and not self._is_settled_here(running) and self.completions.add(running):
                return
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
        self.completions.start()
        self.release.at_shutdown()

    def _begin(self, running: RunningAttempt, message: MessageProxy) -> None:
        self.attempts.begin(running)
        claim = running.claim
        running.begin_effect = lambda: self.claims.begin_effect(running)
        limit_ms = self._limit_ms(running)
        running.limit_seconds = limit_ms / 1000
        # `TimeLimit` takes it from the message.
        message.options["time_limit"] = limit_ms
        running.notes.on_change = self.notes.add
        message.options[ISOLATED_OPTION] = running.is_suspect
        # The row counts attempts and says how many there may be; Retries reads both from the message.
        message.options["retries"] = claim.attempts - 1
        message.options["max_retries"] = claim.max_attempts - 1
        running.attach_to(message)

    def _is_settled_here(self, running: RunningAttempt) -> bool:
        """An effect that cannot be undone is settled before its thread does anything else."""
        return running.effect_begun or bool(self._options(running)["is_canary"])

    def _limit_ms(self, running: RunningAttempt) -> float:
        if running.claim.timeout_seconds is not None:
            return running.claim.timeout_seconds * 1000
        limit_ms: float = self._options(running).get("time_limit", math.inf)
        return limit_ms

    def _options(self, running: RunningAttempt) -> dict[str, Any]:
        return self.broker.get_actor(running.claim.type).options
