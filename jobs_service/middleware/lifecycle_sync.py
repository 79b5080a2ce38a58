"""The custom middleware of the brief: attempts and dead letters go to PostgreSQL, whatever Dramatiq decides."""

import math
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware, SkipMessage
from dramatiq.worker import Worker

from jobs_service import attempt, events, lifecycle
from jobs_service.attempt import Running
from jobs_service.batch import Batch
from jobs_service.broker import RETRY_DELAY_OPTION, JobBroker, message_of
from jobs_service.company import Company
from jobs_service.database import Database
from jobs_service.dead_letters import DeadLetterList
from jobs_service.errors import DatabaseUnavailable, InvalidRequest, JobsError, Rejected
from jobs_service.events import Event
from jobs_service.lifecycle import Ask, Claim, DeadReason, Failure
from jobs_service.logs import get_logger

log = get_logger(__name__)

#: Seconds a job of a type that this worker does not know stays pending, for a newer worker to come.
UNKNOWN_TYPE_GRACE_SECONDS = 600

#: Bounds of what a failed attempt leaves on the row, in characters.
MESSAGE_KEPT = 1_000
TRACEBACK_KEPT = 4_000

DATABASE_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Complete:
    """The verdict on an attempt that returned."""

    result: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The verdict on an attempt that failed and is not the last."""

    failure: Failure
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Bury:
    """The verdict on an attempt that failed and is the last."""

    failure: Failure
    reason: DeadReason


Verdict = Complete | Retry | Bury

T = TypeVar("T")


def decide(running: Running, message: MessageProxy, exception: BaseException | None) -> Verdict:
    """Say what becomes of an attempt, after `Retries` has left its decision on the message. Pure."""
    if exception is None:
        return Complete(running.result)
    failure = failure_of(exception, running.seconds)
    if isinstance(exception, Rejected):
        return Bury(failure, DeadReason.REJECTED)
    if isinstance(exception, InvalidRequest):
        return Bury(failure, DeadReason.INVALID_PAYLOAD)
    if message.failed:
        return Bury(failure, DeadReason.ATTEMPTS_EXHAUSTED)
    return Retry(failure, message.options.get(RETRY_DELAY_OPTION, 0) / 1000)


class NotClaimable(JobsError):
    """There is nothing to do for this message."""


class LifecycleSync(Middleware):
    """Claims the row before the actor runs and writes the verdict after `Retries` has decided.

    It fails closed. Dramatiq swallows what a hook raises and then runs the actor all the same, so everything that
    goes wrong before the claim becomes a `SkipMessage`: the row is still pending and the relay rings again.
    """

    def __init__(self, database: Database, broker: JobBroker, dead_letters: DeadLetterList, worker_id: UUID) -> None:
        self.database = database
        self.broker = broker
        self.dead_letters = dead_letters
        self.worker_id = worker_id
        self.company = Company()
        #: The attempts of this process, by lease token.
        self.running: dict[UUID, Running] = {}
        # The threads of a process that claim or complete at the same time share a statement and its commit.
        self._claim_row = Batch[Ask, Claim | None](lambda asks: lifecycle.claim(database, asks))
        self._complete = Batch[tuple[Claim, str], bool](lambda done: lifecycle.complete(database, done))

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        events.emit(Event.RECEIVED, job_id=message.message_id, type=message.actor_name)
        self.company.join()
        try:
            self._begin(self._claim(message), message)
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
        result: object = None,  # noqa: ARG002 - the actor leaves it on the attempt, as JSON
        exception: BaseException | None = None,
    ) -> None:
        if running := attempt.end():
            self.company.leave()
            self._settle(running, decide(running, message, exception))
            self.running.pop(running.claim.token, None)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        """Handle what never ran: a message for an actor that this worker does not have."""
        if self.broker.knows(message.actor_name):
            return
        job_id = UUID(message.args[0])
        log.warning("No actor for this job type", job_id=message.message_id, type=message.actor_name)
        if lifecycle.bury_unknown(self.database, job_id, grace_seconds=UNKNOWN_TYPE_GRACE_SECONDS):
            self.dead_letters.push(job_id)
            facts = {"job_id": str(job_id), "type": message.actor_name, "queue": message.queue_name}
            events.emit(Event.FAILED, **facts, reason=DeadReason.UNKNOWN_TYPE, attempt=0, seconds=0.0)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        """Give back what is still running when the time to stop is over: the process ends now, the job did not."""
        self.release_running()

    def release_running(self, *, hung: Collection[UUID] = ()) -> None:
        """Give back the attempts of this process, but for the `hung` ones: those count as its crash."""
        for token, running in list(self.running.items()):
            if token not in hung and lifecycle.release(self.database, running.claim):
                events.emit(Event.RELEASED, **_facts(running), seconds=round(running.seconds, 4))

    def _claim(self, message: MessageProxy) -> Claim:
        if self.broker.draining:
            # It waited for a suspect's end, and this process is to end as well.
            self.broker.enqueue(message_of(message))
            raise NotClaimable("this process is stopping")
        claim = self._claim_job(UUID(message.args[0]))
        if not claim.crashes:
            return claim
        # It may be what killed its worker: if it does so again, nobody else shall be there. And it is not held while
        # it waits for its turn, or it would be taken for the killer when another suspect is.
        self._release(claim)
        self.company.be_alone()
        return self._claim_job(claim.job_id)

    def _claim_job(self, job_id: UUID) -> Claim:
        ask = Ask(job_id, self.worker_id)
        claim = self._until_the_database_answers(lambda: self._claim_row(ask), give_up_when_draining=True)
        if claim is None:
            raise NotClaimable("not pending, or not due")
        return claim

    def _release(self, claim: Claim) -> None:
        self._until_the_database_answers(lambda: lifecycle.release(self.database, claim))

    def _begin(self, claim: Claim, message: MessageProxy) -> None:
        running = self.running[claim.token] = attempt.begin(claim)
        actor = self.broker.get_actor(claim.type)
        if actor is not self.broker.get_actor(message.actor_name):
            raise ValueError(f"the message names {message.actor_name!r}, its job is of type {claim.type!r}")
        running.limit_seconds = actor.options.get("time_limit", math.inf) / 1000
        # The row counts attempts and says how many there may be; Retries reads both from the message.
        message.options["retries"] = claim.attempts - 1
        message.options["max_retries"] = claim.max_attempts - 1
        events.emit(Event.PROCESSING, **_facts(running), waited_seconds=round(claim.waited_seconds, 4))

    def _give_up(self, message: MessageProxy, error: Exception) -> None:
        """End what did not begin. A claim that went through is given back."""
        self.company.leave()
        if running := attempt.end():
            self.running.pop(running.claim.token, None)
            self._release(running.claim)
        if isinstance(error, NotClaimable):
            events.emit(Event.NOT_CLAIMED, job_id=message.message_id, type=message.actor_name)
        else:
            log.error("Claim failed; the relay will ring again", job_id=message.message_id, exc_info=error)

    def _settle(self, running: Running, verdict: Verdict) -> None:
        if self._until_the_database_answers(lambda: self._write(running.claim, verdict)):
            self._tell(running, verdict)
        else:
            events.emit(Event.REFUSED, **_facts(running))

    def _write(self, claim: Claim, verdict: Verdict) -> bool:
        match verdict:
            case Complete(result):
                return self._complete((claim, result))
            case Retry(failure, delay_seconds):
                return lifecycle.retry(self.database, claim, failure, delay_seconds=delay_seconds)
            case Bury(failure, reason):
                return lifecycle.bury(self.database, claim, failure, reason=reason)

    def _tell(self, running: Running, verdict: Verdict) -> None:
        facts = _facts(running) | {"seconds": round(running.seconds, 4)}
        match verdict:
            case Complete():
                events.emit(Event.COMPLETED, **facts, age_seconds=round(running.claim.age_seconds, 4))
            case Retry(failure, delay_seconds):
                events.emit(Event.RETRIED, **facts, error=failure.error, delay_seconds=round(delay_seconds, 3))
            case Bury(failure, reason):
                self.dead_letters.push(running.claim.job_id)
                events.emit(Event.FAILED, **facts, error=failure.error, reason=reason)

    def _until_the_database_answers(self, write: Callable[[], T], *, give_up_when_draining: bool = False) -> T:
        """Finished work must not be lost because PostgreSQL blinked: ask again until it answers.

        The lease bounds this: once another worker has the job, the answer is that no row changed.
        """
        tries = 0
        while True:
            try:
                return write()
            except DatabaseUnavailable as error:
                if give_up_when_draining and self.broker.draining:
                    raise
                if tries == 0:
                    log.warning("PostgreSQL does not answer; waiting for it", error=str(error))
                time.sleep(DATABASE_RETRY_SECONDS[min(tries, len(DATABASE_RETRY_SECONDS) - 1)])
                tries += 1


def failure_of(exception: BaseException, seconds: float) -> Failure:
    """Return what is kept of an exception: bounded, and free of what PostgreSQL's text cannot hold."""
    return Failure(
        error=type(exception).__name__,
        message=_storable(_text(exception) or type(exception).__name__, MESSAGE_KEPT),
        traceback=_storable("".join(traceback.format_exception(exception, limit=-10)), TRACEBACK_KEPT),
        seconds=seconds,
    )


def _text(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception:  # noqa: BLE001 - job code's own __str__, which may do anything
        return ""


def _storable(text: str, kept: int) -> str:
    """Keep the end of a traceback and the whole of most messages; NUL and lone surrogates have no place in UTF-8."""
    clean = text.replace("\0", "").encode("utf-8", "replace").decode()
    return clean if len(clean) <= kept else "…" + clean[-kept:]


def _facts(running: Running) -> dict[str, Any]:
    claim = running.claim
    return {
        "job_id": str(claim.job_id),
        "type": claim.type,
        "queue": claim.queue,
        "attempt": claim.attempts,
    }
