"""Writes the verdict on an attempt to PostgreSQL in the attempt's thread, until it answers, and announces it once."""

import math
import os
import signal
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from structlog.stdlib import get_logger

from jobs_service import events
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.redis import JobBroker
from jobs_service.database.connection import Database
from jobs_service.errors import LeaseLost, SchemaUnavailable
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle
from jobs_service.jobs.deferral import Deferral
from jobs_service.worker.attempt import Cancelled, RunningAttempt
from jobs_service.worker.database_wait import DatabaseWait
from jobs_service.worker.verdict import Abandon, Complete, Crash, Defer, Fail, Retry, Snooze, Verdict, decide

log = get_logger(module=__name__)

T = TypeVar("T")


class Settler:
    """Settles the attempts of one worker process that failed, were put off or began an effect.

    The others are left to `Completions`.
    """

    def __init__(
        self,
        database: Database,
        broker: JobBroker,
        dead_letters: DeadLetterList,
        wait: DatabaseWait,
        *,
        deferral: Deferral,
    ) -> None:
        self.database = database
        self.broker = broker
        self.dead_letters = dead_letters
        self.wait = wait
        self.deferral = deferral

    def settle(self, running: RunningAttempt, exception: BaseException | None, retry_seconds: float | None) -> None:
        """Write the verdict; if it cannot be written, a failure that says so; if that cannot either, stop the process.

        A row must not stay with a living worker that has forgotten it: no sweep would ever take it back. An attempt
        that was interrupted because its lease was gone has no verdict.
        """
        if isinstance(exception, Cancelled) or (running.is_cancelled and isinstance(exception, LeaseLost)):
            events.emit(events.AttemptInterrupted(**running.end_facts))
            return
        try:
            self._settle(running, decide(running, exception, retry_seconds=retry_seconds))
        except SchemaUnavailable:
            # Nothing else could be written either.
            log.exception("Verdict not written; this process stops, and its job is taken back", **running.facts)
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            log.exception("Verdict not written; the attempt counts as failed", **running.facts)
            try:
                self._settle(running, decide(running, error, retry_seconds=retry_seconds))
            except Exception:
                log.exception(
                    "Failure not written either; this process stops, and its jobs are taken back", **running.facts
                )
                os.kill(os.getpid(), signal.SIGTERM)

    def _settle(self, running: RunningAttempt, verdict: Verdict) -> None:
        failpoint("worker.after_effect")
        if not self.write(running, verdict):
            announce_refused(running)

    def write(self, running: RunningAttempt, verdict: Verdict, *, until: float = math.inf) -> bool:
        """Write a verdict and announce it. False: the lease is gone, so nothing was written.

        Raises `DatabaseUnavailable` if PostgreSQL has not answered by `until`, by the monotonic clock.
        """
        match verdict:
            case Complete():
                is_written = self._complete(running, verdict, until)
            case Retry():
                is_written = self._retry(running, verdict, until)
            case Fail():
                is_written = self._fail(running, verdict, until)
            case Snooze():
                is_written = self._snooze(running, verdict, until)
            case Defer():
                is_written = self._defer(running, verdict, until)
            case Crash():
                is_written = self._crash(running, verdict, until)
            case Abandon():
                is_written = self._abandon(running, verdict, until)
        return is_written

    def fail_unknown(self, job_id: UUID, job_type: str) -> None:
        """Make a job of a type that no actor here handles a dead letter, once newer workers have had time to come."""
        lost_reply = lifecycle.LostReply()
        for job in self.wait.until_answered(
            "fail_unknown",
            lambda: lifecycle.fail_unknown(
                self.database,
                [job_id],
                job_type=job_type,
                grace_seconds=lifecycle.UNKNOWN_TYPE_GRACE_SECONDS,
                lost_reply=lost_reply,
            ),
            give_up_when_draining=True,
        ):
            self.dead_letters.add(
                events.JobFailed(**job.facts, error="UnknownType", reason=lifecycle.EndReason.UNKNOWN_TYPE)
            )

    def _complete(self, running: RunningAttempt, verdict: Complete, until: float) -> bool:
        claim = running.claim

        def complete() -> bool:
            if self.broker.get_actor(claim.type).options["is_canary"]:
                return lifecycle.complete_canary(self.database, claim)
            return lifecycle.complete(self.database, [(claim, verdict.result)])[0]

        if is_written := self._written(verdict, complete, until):
            announce_completed(running)
        return is_written

    def _retry(self, running: RunningAttempt, verdict: Retry, until: float) -> bool:
        failure, delay_seconds = verdict.failure, verdict.delay_seconds
        is_written = self._written(
            verdict,
            lambda: lifecycle.retry(self.database, running.claim, failure, delay_seconds=delay_seconds),
            until,
        )
        if is_written:
            _announce_ambiguous(running, failure)
            _announce_retried(running, failure.error, delay_seconds)
        return is_written

    def _fail(self, running: RunningAttempt, verdict: Fail, until: float) -> bool:
        failure, reason = verdict.failure, verdict.reason
        is_written = self._written(
            verdict, lambda: lifecycle.fail(self.database, running.claim, failure, reason=reason), until
        )
        if is_written:
            _announce_ambiguous(running, failure)
            self._add_dead_letter(running, error=failure.error, reason=reason)
        return is_written

    def _snooze(self, running: RunningAttempt, verdict: Snooze, until: float) -> bool:
        message, delay_seconds = verdict.message, verdict.delay_seconds
        is_written = self._written(
            verdict,
            lambda: lifecycle.snooze(self.database, running.claim, message, delay_seconds=delay_seconds),
            until,
        )
        if is_written:
            events.emit(events.JobSnoozed(**running.end_facts, delay_seconds=round(delay_seconds, 3)))
        return is_written

    def _defer(self, running: RunningAttempt, verdict: Defer, until: float) -> bool:
        """Put the job off. Only the row knows how long it may still wait, so the answer says whether that is over."""
        deferred = self._written(verdict, lambda: self._write_deferral(running.claim, verdict), until)
        if deferred is None:
            return False
        error = verdict.failure.error
        if deferred.is_over:
            self._add_dead_letter(running, error=error, reason=lifecycle.EndReason.UNAVAILABLE)
        else:
            server, delay_seconds = verdict.server, round(deferred.delay_seconds, 3)
            events.emit(
                events.JobDeferred(**running.end_facts, error=error, server=server, delay_seconds=delay_seconds)
            )
        return True

    def _write_deferral(self, claim: lifecycle.Claim, verdict: Defer) -> lifecycle.Deferred | None:
        return lifecycle.defer(
            self.database,
            claim,
            verdict.failure,
            deferral=self.deferral,
            server=verdict.server,
            is_tried=verdict.is_tried,
            retry_after_seconds=verdict.retry_after_seconds,
        )

    def _crash(self, running: RunningAttempt, verdict: Crash, until: float) -> bool:
        message, delay_seconds = verdict.message, verdict.delay_seconds
        rescued = self._written(
            verdict,
            lambda: lifecycle.crash(self.database, running.claim, message, delay_seconds=delay_seconds),
            until,
        )
        return self._announce_rescued(running, rescued, delay_seconds)

    def _abandon(self, running: RunningAttempt, verdict: Abandon, until: float) -> bool:
        rescued = self._written(
            verdict, lambda: lifecycle.abandon(self.database, running.claim, verdict.message), until
        )
        return self._announce_rescued(running, rescued, 0.0)

    def _announce_rescued(
        self, running: RunningAttempt, rescued: lifecycle.Rescued | None, delay_seconds: float
    ) -> bool:
        """Announce a crash as the rescuer would. Only the row knows whether the job has had one too many."""
        if rescued is None:
            return False
        if rescued.on_ambiguous:
            events.emit(events.AttemptAmbiguous(**rescued.facts, policy=str(rescued.on_ambiguous)))
        if rescued.end_reason:
            self._add_dead_letter(running, error=lifecycle.WORKER_LOST, reason=rescued.end_reason)
        else:
            _announce_retried(running, lifecycle.WORKER_LOST, delay_seconds)
        return True

    def _add_dead_letter(self, running: RunningAttempt, *, error: str, reason: lifecycle.EndReason) -> None:
        age_seconds = running.age_seconds
        self.dead_letters.add(
            events.JobFailed(**running.end_facts, error=error, reason=reason, age_seconds=age_seconds)
        )

    def _written(self, verdict: Verdict, transition: Callable[[], T], until: float) -> T:
        """Return PostgreSQL's answer to a transition. Nothing has been announced yet."""
        answer = self.wait.until_answered(verdict.operation, transition, until=until)
        if answer:
            failpoint("worker.after_verdict")
        return answer


def announce_completed(running: RunningAttempt) -> None:
    events.emit(events.JobCompleted(**running.end_facts, age_seconds=running.age_seconds))


def announce_refused(running: RunningAttempt) -> None:
    """Announce that the lease was gone when the verdict was to be written."""
    events.emit(events.VerdictRefused(**running.facts))


def _announce_retried(running: RunningAttempt, error: str, delay_seconds: float) -> None:
    events.emit(events.JobRetried(**running.end_facts, error=error, delay_seconds=round(delay_seconds, 3)))


def _announce_ambiguous(running: RunningAttempt, failure: lifecycle.Failure) -> None:
    if failure.is_ambiguous:
        events.emit(events.AttemptAmbiguous(**running.facts, policy=str(running.claim.on_ambiguous)))
