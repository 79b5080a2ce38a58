"""The custom middleware of the brief: attempts and dead letters go to PostgreSQL, whatever Dramatiq decides."""

import math
import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware, Shutdown, SkipMessage
from dramatiq.middleware.threading import Interrupt
from dramatiq.worker import Worker

from jobs_service import descriptors, events
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.redis import RETRY_DELAY_OPTION, JobBroker, due_ms_of, message_of
from jobs_service.database.connection import Database
from jobs_service.database.group_commit import Batch
from jobs_service.errors import (
    BrokerUnavailable,
    DatabaseUnavailable,
    InvalidRequest,
    JobsError,
    KnownUnavailable,
    LeaseLost,
    OutcomeUnknown,
    Rejected,
    SchemaUnavailable,
    Snoozed,
    Unavailable,
)
from jobs_service.events import Event
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.failures import MESSAGE_KEPT, ProcessBroken, ProcessLost, failure_of, storable
from jobs_service.jobs.lifecycle import (
    UNKNOWN_TYPE_GRACE_SECONDS,
    WORKER_LOST,
    Claim,
    ClaimRequest,
    Deferred,
    EndReason,
    Failure,
    LostReply,
    OnAmbiguous,
    Rescued,
)
from jobs_service.metrics import catalogue as metrics
from jobs_service.metrics import observations
from jobs_service.observability import logs
from jobs_service.observability.logs import get_logger
from jobs_service.worker import attempt
from jobs_service.worker.attempt import Cancelled, RunningAttempt
from jobs_service.worker.middleware.time_limit import ISOLATED_OPTION

log = get_logger(__name__)

#: Somebody restores or migrates, which passes. What lasts longer is a process whose code does not fit the schema.
SCHEMA_PATIENCE_SECONDS = 600.0

#: A job cannot be put off for longer at a time.
MAX_SNOOZE_SECONDS = 366 * 86_400.0

DATABASE_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)

#: A process that cannot go on, and is not told to stop, ends after this, whether PostgreSQL has answered or not.
GIVE_BACK_SECONDS = 5.0

#: How often a stop looks whether the verdicts that it waits for are written.
_GLANCE_SECONDS = 0.05


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
class Fail:
    """The verdict on an attempt that failed and is the last."""

    failure: Failure
    reason: EndReason


@dataclass(frozen=True, slots=True)
class Snooze:
    """The verdict on an attempt that is put off and does not count."""

    message: str
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Defer:
    """The verdict on an attempt that found a server away, or was not to ask it. It does not count."""

    failure: Failure
    server: str | None
    is_tried: bool
    retry_after_seconds: float | None


@dataclass(frozen=True, slots=True)
class Crash:
    """The verdict on an attempt that killed the process it had to itself."""

    message: str
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Abandon:
    """The verdict on an attempt whose process is broken, by whatever ran in it."""

    message: str


Verdict = Complete | Retry | Fail | Snooze | Defer | Crash | Abandon

T = TypeVar("T")


def decide(running: RunningAttempt, exception: BaseException | None, *, retry_seconds: float | None) -> Verdict:
    """Say what becomes of an attempt. `retry_seconds` is the backoff, or None if this was the last one. Pure."""
    if exception is None:
        return Complete(running.result)
    if isinstance(exception, ProcessLost):
        return Crash(str(exception), retry_seconds or 0.0)
    if uncounted := _uncounted(running, exception):
        return uncounted
    failure = failure_of(exception, running.seconds, is_ambiguous=_is_ambiguous(running, exception))
    if reason := _reason_to_fail(running, exception, failure, is_last=retry_seconds is None):
        return Fail(failure, reason)
    return Retry(failure, retry_seconds or 0.0)


def _uncounted(running: RunningAttempt, exception: BaseException) -> Verdict | None:
    """Return the verdict on an attempt that uses none of the job's, or None if it does."""
    match exception:
        case Snoozed():
            return Snooze(storable(str(exception), MESSAGE_KEPT), _possible_delay(exception.delay_seconds))
        case Unavailable():
            return _deferral(running, exception)
        case ProcessBroken():
            return Abandon(storable(str(exception), MESSAGE_KEPT))
    return None


def _deferral(running: RunningAttempt, exception: Unavailable) -> Defer:
    wish = exception.retry_after_seconds
    return Defer(
        failure_of(exception, running.seconds),
        server=exception.server,
        is_tried=not isinstance(exception, KnownUnavailable),
        retry_after_seconds=None if wish is None else _possible_delay(wish),
    )


def _possible_delay(seconds: float) -> float:
    """Return the delay within what PostgreSQL's dates can hold, and then some. A job's code says any number."""
    return min(max(seconds, 0.0), MAX_SNOOZE_SECONDS) if math.isfinite(seconds) else MAX_SNOOZE_SECONDS


def _reason_to_fail(
    running: RunningAttempt, exception: BaseException, failure: Failure, *, is_last: bool
) -> EndReason | None:
    if failure.is_ambiguous and running.claim.on_ambiguous == OnAmbiguous.HOLD:
        return EndReason.AMBIGUOUS
    if isinstance(exception, Rejected):
        return EndReason.REJECTED
    if isinstance(exception, InvalidRequest):
        return EndReason.INVALID_PAYLOAD
    return EndReason.ATTEMPTS_EXHAUSTED if is_last else None


def _is_ambiguous(running: RunningAttempt, exception: BaseException) -> bool:
    """Tell whether the effect may have happened: the code says so, or it was interrupted after its effect began."""
    return isinstance(exception, OutcomeUnknown) or (running.effect_begun and isinstance(exception, Interrupt))


class NotClaimable(JobsError):
    """There is nothing to do for this message."""


class NotHere(JobsError):
    """The job is for another process: this one is to be replaced."""


class LifecycleSync(Middleware):
    """Claims the row before the actor runs and writes the verdict after `Retries` has decided.

    It fails closed. Dramatiq swallows what a hook raises and then runs the actor all the same, so everything that
    goes wrong before the claim becomes a `SkipMessage`: the row is still pending and the relay publishes it again.
    """

    def __init__(
        self,
        database: Database,
        broker: JobBroker,
        dead_letters: DeadLetterList,
        worker_id: UUID,
        *,
        give_back_seconds: float,
        deferral: Deferral = Deferral(),  # noqa: B008 - it cannot be changed
    ) -> None:
        """A stop gives back jobs and writes verdicts for up to `give_back_seconds` after it began."""
        self.database = database
        self.broker = broker
        self.dead_letters = dead_letters
        self.worker_id = worker_id
        #: The attempts of this process, by lease token.
        self.running: dict[UUID, RunningAttempt] = {}
        self.give_back_seconds = give_back_seconds
        self.deferral = deferral
        #: The tokens of claims that were given up without an answer.
        self._unanswered: set[UUID] = set()
        # The threads of a process that claim or complete at the same time share a statement and its commit.
        self._claim_row = Batch[ClaimRequest, Claim | None](lambda asks: lifecycle.claim(database, asks))
        self._complete = Batch[tuple[Claim, str], bool](lambda done: lifecycle.complete(database, done))

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        events.emit(Event.RECEIVED, job_id=message.message_id, type=message.actor_name)
        try:
            self._begin(self._claim(UUID(message.args[0])), message)
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
            running.has_returned = True
            retry_seconds = None if message.failed else message.options.get(RETRY_DELAY_OPTION, 0) / 1000
            try:
                self._settle_somehow(running, exception, retry_seconds)
            finally:
                self.running.pop(running.claim.token, None)

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        """Handle what never ran: a message for an actor that this worker does not have."""
        if self.broker.knows(message.actor_name):
            return
        job_id = UUID(message.args[0])
        log.warning("No actor for this job type", job_id=message.message_id, type=message.actor_name)
        lost_reply = LostReply()
        for job in self._until_the_database_answers(
            "fail_unknown",
            lambda: lifecycle.fail_unknown(
                self.database,
                [job_id],
                job_type=message.actor_name,
                grace_seconds=UNKNOWN_TYPE_GRACE_SECONDS,
                lost_reply=lost_reply,
            ),
            give_up_when_draining=True,
        ):
            self.dead_letters.push(job_id)
            events.emit(Event.FAILED, **job.facts, error="UnknownType", reason=EndReason.UNKNOWN_TYPE)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        """Give back what is still running when the time to stop is over: the process ends now, the job did not.

        What has returned waits for PostgreSQL with its verdict, and gets what is left of the time.
        """
        until = (self.broker.draining_since or time.monotonic()) + self.give_back_seconds
        self._give_back(until)
        self._give_back_unknown(until)
        self._wait_for_verdicts(until)

    def release_running(self, *, hung: Collection[UUID] = ()) -> None:
        """Give back the attempts of this process, but for the `hung` ones: those count as its crash."""
        until = time.monotonic() + GIVE_BACK_SECONDS
        self._give_back(until, hung)
        self._wait_for_verdicts(until)

    def _give_back(self, until: float, hung: Collection[UUID] = ()) -> None:
        """Release what runs; what has begun its effect gets a verdict. No error keeps the others from theirs."""
        # A lease that is gone because its release lost its reply is not one that a person took away.
        attempt.leave_alone()
        try:
            kept = self._until_the_database_answers("release", lambda: self._release_running(hung), until=until)
        except Exception as error:  # noqa: BLE001 - the process has to end, and others wait for their verdicts
            log.warning("Attempts not given back; the rescuer will take them", error=str(error).strip())
            return
        for running in kept:
            try:
                self._interrupt(running, until)
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("Interrupted attempt not settled", **_facts(running), error=str(error).strip())

    def _release_running(self, hung: Collection[UUID]) -> list[RunningAttempt]:
        """Release all that runs by one statement, and return what was not released.

        What has returned is left alone: its work is done, and is not to be begun again.
        """
        attempts = [
            running for token, running in list(self.running.items()) if token not in hung and not running.has_returned
        ]
        released = lifecycle.release(self.database, [running.claim for running in attempts]) if attempts else []
        for running, is_released in zip(attempts, released, strict=True):
            if is_released:
                self._tell_given_back(running)
        return [running for running, is_released in zip(attempts, released, strict=True) if not is_released]

    def _tell_given_back(self, running: RunningAttempt) -> None:
        # Not in the attempt's own thread, so nothing of it is bound here.
        with logs.bound(worker_id=str(self.worker_id), **running.claim.origin.fields):
            events.emit(Event.RELEASED, **_facts(running), seconds=round(running.seconds, 4))

    def _interrupt(self, running: RunningAttempt, until: float) -> None:
        """Settle what has begun its effect: what has perhaps been done cannot be taken for not begun."""
        claim = running.claim
        if running.has_returned:
            return
        running.effect_begun = True
        retry_seconds = 0.0 if claim.attempts < claim.max_attempts else None
        verdict = decide(running, Shutdown("the worker stopped"), retry_seconds=retry_seconds)
        operation = type(verdict).__name__.lower()
        if isinstance(verdict, Retry | Fail) and self._until_the_database_answers(
            operation, lambda: self._write(claim, verdict), until=until
        ):
            with logs.bound(worker_id=str(self.worker_id), **claim.origin.fields):
                self._tell(running, verdict)

    def _give_back_unknown(self, until: float) -> None:
        """Give back claims whose answers were lost: nobody else knows of them."""
        lost_reply = LostReply()
        try:
            jobs = self._until_the_database_answers(
                "release",
                lambda: lifecycle.release_worker(
                    self.database, self.worker_id, known=list(self.running), lost_reply=lost_reply
                ),
                # A stop does not wait for PostgreSQL to hear that there is nothing to give back.
                until=until if self._unanswered else 0.0,
            )
        except Exception as error:  # noqa: BLE001 - the process has to end
            log.warning("Claims without an answer not given back; the rescuer will take them", error=str(error).strip())
            return
        for job in jobs:
            facts = job.facts | job.origin.fields | {"worker_id": str(self.worker_id)}
            events.emit(Event.RELEASED, **facts, seconds=0.0)

    def _wait_for_verdicts(self, until: float) -> None:
        while any(running.has_returned for running in list(self.running.values())) and time.monotonic() < until:
            time.sleep(_GLANCE_SECONDS)

    def _claim(self, job_id: UUID) -> Claim:
        if descriptors.are_exhausted():
            # The watchdog sees it too, and has the process stop.
            self.broker.draining = True
            raise NotHere("this process can open no further file")
        ask = ClaimRequest(job_id, self.worker_id)
        self._unanswered.add(ask.token)
        claim = self._until_the_database_answers("claim", lambda: self._claim_row(ask), give_up_when_draining=True)
        self._unanswered.discard(ask.token)
        if claim is None:
            raise NotClaimable("not pending, or not due")
        return claim

    def _release(self, claim: Claim) -> None:
        self._until_the_database_answers("release", lambda: lifecycle.release(self.database, [claim]))

    def _begin(self, claim: Claim, message: MessageProxy) -> None:
        failpoint("worker.after_claim")
        running = self.running[claim.token] = attempt.begin(claim)
        actor = self.broker.get_actor(claim.type)
        if actor is not self.broker.get_actor(message.actor_name):
            raise ValueError(f"the message names {message.actor_name!r}, its job is of type {claim.type!r}")
        running.begin_effect = lambda: self._begin_effect(running)
        running.limit_seconds = actor.options.get("time_limit", math.inf) / 1000
        message.options[ISOLATED_OPTION] = running.is_suspect
        # The row counts attempts and says how many there may be; Retries reads both from the message.
        message.options["retries"] = claim.attempts - 1
        message.options["max_retries"] = claim.max_attempts - 1
        events.emit(Event.PROCESSING, **_facts(running), waited_seconds=round(claim.waited_seconds, 4))

    def _begin_effect(self, running: RunningAttempt) -> None:
        if not self._until_the_database_answers(
            "begin_effect", lambda: lifecycle.begin_effect(self.database, running.claim)
        ):
            raise LeaseLost("the job is not this attempt's any more")
        running.effect_begun = True

    def _give_up(self, message: MessageProxy, error: Exception) -> None:
        """End what did not begin. A claim that went through is given back."""
        if running := attempt.end():
            self.running.pop(running.claim.token, None)
            self._release(running.claim)
        if isinstance(error, NotClaimable):
            events.emit(Event.NOT_CLAIMED, job_id=message.message_id, type=message.actor_name)
        elif isinstance(error, NotHere):
            log.warning("Not claimed; another process will", job_id=message.message_id, error=str(error))
            with suppress(BrokerUnavailable):
                self.broker.publish(message.queue_name, [(message_of(message), due_ms_of(message))])
        else:
            log.error("Claim failed; the relay will publish them again", job_id=message.message_id, exc_info=error)

    def _settle_somehow(
        self, running: RunningAttempt, exception: BaseException | None, retry_seconds: float | None
    ) -> None:
        """Write the verdict, or if that is what cannot be written, that it cannot. Else the process has to end.

        A row must not stay with a living worker that has forgotten it: no sweep would ever take it back. One that was
        interrupted because its lease was gone has no verdict.
        """
        if isinstance(exception, Cancelled):
            events.emit(Event.INTERRUPTED, **_facts(running), seconds=round(running.seconds, 4))
            return
        try:
            self._settle(running, decide(running, exception, retry_seconds=retry_seconds))
        except SchemaUnavailable:
            # Nor could anything else be written.
            log.exception("Verdict not written; this process stops, and its job is taken back", **_facts(running))
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            log.exception("Verdict not written; the attempt counts as failed", **_facts(running))
            try:
                self._settle(running, decide(running, error, retry_seconds=retry_seconds))
            except Exception:
                log.exception("Nor that; this process stops, and its jobs are taken back", **_facts(running))
                os.kill(os.getpid(), signal.SIGTERM)

    def _settle(self, running: RunningAttempt, verdict: Verdict) -> None:
        operation = type(verdict).__name__.lower()
        failpoint("worker.after_effect")
        if isinstance(verdict, Crash | Abandon):
            self._crashed(running, verdict)
        elif isinstance(verdict, Defer):
            self._deferred(running, verdict)
        elif self._until_the_database_answers(operation, lambda: self._write(running.claim, verdict)):
            failpoint("worker.after_verdict")
            self._tell(running, verdict)
        else:
            events.emit(Event.REFUSED, **_facts(running))

    def _deferred(self, running: RunningAttempt, verdict: Defer) -> None:
        """Put the job off: only the row knows for how long it may still wait."""
        deferred = self._until_the_database_answers("defer", lambda: self._write_deferral(running.claim, verdict))
        failpoint("worker.after_verdict")
        if deferred is None:
            events.emit(Event.REFUSED, **_facts(running))
            return
        facts = _facts(running) | {"seconds": round(running.seconds, 4), "error": verdict.failure.error}
        if deferred.is_over:
            self.dead_letters.push(running.claim.job_id)
            ended = {"reason": EndReason.UNAVAILABLE, "age_seconds": _age_seconds(running)}
            events.emit(Event.FAILED, **facts, **ended)
        else:
            waits = {"server": verdict.server, "delay_seconds": round(deferred.delay_seconds, 3)}
            events.emit(Event.DEFERRED, **facts, **waits)

    def _write_deferral(self, claim: Claim, verdict: Defer) -> Deferred | None:
        return lifecycle.defer(
            self.database,
            claim,
            verdict.failure,
            deferral=self.deferral,
            server=verdict.server,
            is_tried=verdict.is_tried,
            retry_after_seconds=verdict.retry_after_seconds,
        )

    def _crashed(self, running: RunningAttempt, verdict: Crash | Abandon) -> None:
        """Count the crash, as the rescuer would: only the row knows whether it was one too many."""
        operation, seconds = type(verdict).__name__.lower(), round(running.seconds, 4)
        rescued = self._until_the_database_answers(operation, lambda: self._write_crash(running.claim, verdict))
        if rescued is None:
            events.emit(Event.REFUSED, **_facts(running))
            return
        if rescued.on_ambiguous:
            events.emit(Event.AMBIGUOUS, **rescued.facts, policy=str(rescued.on_ambiguous))
        if rescued.end_reason:
            self.dead_letters.push(rescued.job_id)
            ended = {"reason": rescued.end_reason, "age_seconds": _age_seconds(running)}
            events.emit(Event.FAILED, **rescued.facts, seconds=seconds, error=WORKER_LOST, **ended)
        else:
            delay_seconds = round(verdict.delay_seconds, 3) if isinstance(verdict, Crash) else 0.0
            events.emit(Event.RETRIED, **rescued.facts, seconds=seconds, error=WORKER_LOST, delay_seconds=delay_seconds)

    def _write_crash(self, claim: Claim, verdict: Crash | Abandon) -> Rescued | None:
        match verdict:
            case Crash(message, delay_seconds):
                return lifecycle.crash(self.database, claim, message, delay_seconds=delay_seconds)
            case Abandon(message):
                return lifecycle.abandon(self.database, claim, message)

    def _write(self, claim: Claim, verdict: Complete | Retry | Fail | Snooze) -> bool:
        match verdict:
            case Complete() if self.broker.get_actor(claim.type).options["is_canary"]:
                return lifecycle.complete_canary(self.database, claim)
            case Complete(result):
                return self._complete((claim, result))
            case Retry(failure, delay_seconds):
                return lifecycle.retry(self.database, claim, failure, delay_seconds=delay_seconds)
            case Fail(failure, reason):
                return lifecycle.fail(self.database, claim, failure, reason=reason)
            case Snooze(message, delay_seconds):
                return lifecycle.snooze(self.database, claim, message, delay_seconds=delay_seconds)

    def _tell(self, running: RunningAttempt, verdict: Complete | Retry | Fail | Snooze) -> None:
        facts = _facts(running) | {"seconds": round(running.seconds, 4)}
        if isinstance(verdict, Retry | Fail) and verdict.failure.is_ambiguous:
            events.emit(Event.AMBIGUOUS, **_facts(running), policy=str(running.claim.on_ambiguous))
        match verdict:
            case Complete():
                events.emit(Event.COMPLETED, **facts, age_seconds=_age_seconds(running))
            case Retry(failure, delay_seconds):
                events.emit(Event.RETRIED, **facts, error=failure.error, delay_seconds=round(delay_seconds, 3))
            case Fail(failure, reason):
                failpoint("fail.before_push")
                self.dead_letters.push(running.claim.job_id)
                age_seconds = _age_seconds(running)
                events.emit(Event.FAILED, **facts, error=failure.error, reason=reason, age_seconds=age_seconds)
            case Snooze(delay_seconds=delay_seconds):
                events.emit(Event.SNOOZED, **facts, delay_seconds=round(delay_seconds, 3))

    def _until_the_database_answers(
        self, operation: str, write: Callable[[], T], *, until: float = math.inf, give_up_when_draining: bool = False
    ) -> T:
        """Finished work must not be lost because PostgreSQL blinked: ask again until it answers.

        The lease bounds this: once another worker has the job, the answer is that no row changed. And so does `until`,
        by the monotonic clock.
        """
        tries, started = 0, time.perf_counter()
        while True:
            try:
                answer = write()
            except DatabaseUnavailable as error:
                metrics.STATE_SYNC_ERRORS.labels(operation).inc()
                is_over = time.monotonic() >= until or _is_hopeless(error, started)
                if is_over or (give_up_when_draining and self.broker.draining):
                    raise
                if tries == 0:
                    log.warning("PostgreSQL does not answer; waiting for it", error=str(error).strip())
                time.sleep(DATABASE_RETRY_SECONDS[min(tries, len(DATABASE_RETRY_SECONDS) - 1)])
                tries += 1
            else:
                observations.add(metrics.STATE_SYNC_DURATION.labels(operation), time.perf_counter() - started)
                return answer


def _is_hopeless(error: DatabaseUnavailable, started: float) -> bool:
    return isinstance(error, SchemaUnavailable) and time.perf_counter() - started > SCHEMA_PATIENCE_SECONDS


def _age_seconds(running: RunningAttempt) -> float:
    """Return the time since the job was accepted; the claim knows how long that was when the attempt began."""
    return round(running.claim.age_seconds + running.seconds, 4)


def _facts(running: RunningAttempt) -> dict[str, Any]:
    claim = running.claim
    return {
        "job_id": str(claim.job_id),
        "type": claim.type,
        "queue": claim.queue,
        "attempt": claim.attempts,
    }
