"""Binds the registered job types to a Dramatiq broker, one actor a type."""

import math
import os
import re
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.middleware import SkipMessage

from jobs_service import descriptors
from jobs_service.broker.limits import default_limit
from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings, numbers_by_name
from jobs_service.errors import (
    InvalidRequest,
    JobsError,
    NotThisProcess,
    OutcomeUnknown,
    Rejected,
    Snoozed,
    Unavailable,
)
from jobs_service.jobs import jsonb
from jobs_service.jobs.failures import ProcessBroken
from jobs_service.jobs.job_types import JobContext, JobType, Registry, spelling
from jobs_service.jobs.notes import JobLog
from jobs_service.jobs.validation import encoded
from jobs_service.mail.mailer import SmtpMailer
from jobs_service.outputs.contract import OutputStore
from jobs_service.worker.attempt import Cancelled, RunningAttempt, RunningAttempts
from jobs_service.worker.isolation import parent

#: A result is a reference or a small fact, not the output itself.
MAX_RESULT_BYTES = 65_536


#: An escaped NUL; not an escaped backslash and the letters after it.
_NUL = re.compile(r"(?<!\\)(\\\\)*\\u0000")


class ResultNotStorable(JobsError):
    """A job returned something other than a small JSON value."""


def declare(
    broker: JobBroker,
    registry: Registry,
    settings: Settings,
    *,
    attempts: RunningAttempts,
    outputs: OutputStore,
    mailer: SmtpMailer,
) -> None:
    """Declare an actor for each job type on this broker, and say how many of its jobs may run at a time."""
    limits = _limits(registry, settings)
    for job_type in registry:
        broker.limits.set(job_type.name, limits[job_type.name])
        dramatiq.Actor(
            _perform(job_type, attempts, outputs, mailer),
            broker=broker,
            actor_name=job_type.name,
            queue_name=job_type.queue,
            priority=0,
            options=_options(job_type, settings),
        )


def _limits(registry: Registry, settings: Settings) -> dict[str, int]:
    """Return the limit of each type: from the setting, else from its code, else the default."""
    default = default_limit(settings.worker_threads)
    configured = {spelling(name): limit for name, limit in numbers_by_name(settings.max_running).items()}
    return {
        job_type.name: configured.get(spelling(job_type.name)) or job_type.max_running or default
        for job_type in registry
    }


def _perform(
    job_type: JobType, attempts: RunningAttempts, outputs: OutputStore, mailer: SmtpMailer
) -> Callable[..., None]:
    # The message has the first argument, LifecycleSync adds the second: `ATTEMPT_ARGUMENT`.
    def perform(job_id: str, *, running: RunningAttempt) -> None:  # noqa: ARG001 - the claim holds it too
        def run() -> str:
            return parent.run(running) if running.is_suspect else call(job_type, running, outputs, mailer)

        try:
            if running.claim.waits_for:
                running.ask(running.claim.waits_for)
            running.result = attempts.interruptible(running, run)
        except SkipMessage as error:
            # Dramatiq would take the message for one of which no attempt began, and the job would get no verdict.
            raise RuntimeError("a job's code must not raise SkipMessage: raise Snoozed or Rejected") from error
        except Exception as error:
            _raise_if_process_is_broken(error, has_begun=not running.is_suspect)
            raise

    return perform


def _raise_if_process_is_broken(error: Exception, *, has_begun: bool) -> None:
    """Raise another error if its process, which can open no file, made the job fail: one job's leak fails them all."""
    if isinstance(error, JobsError) or not (descriptors.is_exhaustion(error) or descriptors.are_exhausted()):
        return
    if has_begun:
        # This job may be the cause: from now on it runs in a process of its own.
        raise ProcessBroken(f"its worker process can open no further file: {error}") from error
    raise Snoozed("its worker process can open no further file", delay_seconds=0) from error


def call(job_type: JobType, running: RunningAttempt, outputs: OutputStore, mailer: SmtpMailer) -> str:
    """Call the job's function and return its result as JSON text. Raises what it raises.

    If the function forked and returns in both processes, the copy ends here: it must not use claim and connections.
    """
    claim = running.claim
    payload = job_type.decode(claim.payload)
    process = os.getpid()

    def begin_effect() -> None:
        if os.getpid() != process:
            raise NotThisProcess("a forked process cannot begin the effect of its parent's attempt")
        running.begin_effect()

    def stop_if_cancelled() -> None:
        context.stop_if_cancelled()

    context = JobContext(
        claim.job_id,
        claim.attempts,
        outputs.asking(running.ask),
        mailer.asking(running.ask, stop_if_cancelled),
        begin_effect=begin_effect,
        ask=running.ask,
        is_cancelled=lambda: running.is_cancelled,
        progress=running.notes.progress,
        log=JobLog(running.notes.add_line),
    )
    try:
        result = job_type.function(payload, context)
    finally:
        if os.getpid() != process:
            os._exit(1)
    try:
        return _encode(result)
    except Exception as error:
        if running.effect_begun:
            raise OutcomeUnknown(f"the work was done, its result cannot be kept: {error}") from error
        raise


def _encode(result: object) -> str:
    raw = encoded(result)
    if len(raw) > MAX_RESULT_BYTES:
        raise ResultNotStorable(f"the result has {len(raw)} bytes of JSON; at most {MAX_RESULT_BYTES} are kept")
    text = raw.decode()
    if _NUL.search(text):
        raise ResultNotStorable("the result holds a NUL character, which PostgreSQL cannot store")
    try:
        jsonb.check_storable(text)
    except (ValueError, RecursionError) as error:
        raise ResultNotStorable(f"the result cannot be stored: {error}") from None
    return text


def _options(job_type: JobType, settings: Settings) -> dict[str, Any]:
    return {
        "min_backoff": _milliseconds(settings.retry_backoff_seconds),
        "max_backoff": _milliseconds(settings.retry_backoff_max_seconds),
        "time_limit": _milliseconds(job_type.time_limit_seconds or settings.time_limit_seconds),
        # Retries does not delay these: no further attempt can succeed, or the job is put off, or it was cancelled.
        "throws": (Rejected, InvalidRequest, Snoozed, Unavailable, Cancelled),
        "is_canary": job_type.is_canary,
    }


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)
