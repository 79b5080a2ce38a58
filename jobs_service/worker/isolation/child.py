"""The process in which a suspect runs: `parent.py` starts it with two file descriptors and the id of its process."""

import math
import os
import sys
import time
from threading import Lock
from typing import IO

import msgspec

from jobs_service import events
from jobs_service.config import Settings
from jobs_service.errors import (
    InvalidRequest,
    KnownUnavailable,
    LeaseLost,
    OutcomeUnknown,
    Rejected,
    Snoozed,
    Unavailable,
)
from jobs_service.jobs.failures import MESSAGE_KEPT, failure_of, storable
from jobs_service.jobs.job_types import load
from jobs_service.jobs.lifecycle import Claim
from jobs_service.jobs.notes import AttemptNotes
from jobs_service.mail.mailer import SmtpMailer
from jobs_service.observability import logs
from jobs_service.orphans import end_with_parent
from jobs_service.outputs.assembly import open_outputs
from jobs_service.worker.actors import call
from jobs_service.worker.attempt import RunningAttempt
from jobs_service.worker.isolation.parent import GO, ChildMessage

#: Seconds between two messages about what the job's code says.
NOTES_SECONDS = 0.25


def main(claim: int, pipe: int, parent: int) -> int:
    """Read the claim, make the attempt, send its outcome."""
    end_with_parent()
    if os.getppid() != parent:
        return 1  # the parent ended before `end_with_parent` took effect
    os.set_inheritable(pipe, False)  # a process that the job starts must not keep it open
    with open(pipe, "wb", buffering=0) as sending:
        notes = _Notes(sending)
        outcome = _outcome(Settings.from_env(os.environ), claim, sending, notes)
        notes.send()
        _send(sending, outcome)
    return 0


def _outcome(settings: Settings, claim: int, sending: IO[bytes], notes: "_Notes") -> ChildMessage:
    try:
        return ChildMessage("completed", result=_run(settings, claim, sending, notes))
    except Snoozed as error:
        return ChildMessage("snoozed", message=storable(str(error), MESSAGE_KEPT), delay_seconds=error.delay_seconds)
    except Unavailable as error:
        return ChildMessage(
            "known_unavailable" if isinstance(error, KnownUnavailable) else "unavailable",
            message=storable(str(error), MESSAGE_KEPT),
            server=error.server,
            retry_after_seconds=error.retry_after_seconds,
        )
    except LeaseLost as error:
        return ChildMessage("lease_lost", message=str(error))
    except BaseException as error:  # noqa: BLE001 - whatever the job's code raised is its outcome
        return ChildMessage(_kind(error), failure=failure_of(error, 0.0))


def _run(settings: Settings, file: int, sending: IO[bytes], notes: "_Notes") -> str:
    logs.configure(form=settings.log_format, level=settings.log_level, service="worker")
    events.subscribe("logs", logs.log_event)
    job_type_of = load(settings.actor_modules).get
    with open(file, "rb") as claimed:
        claim = msgspec.json.decode(claimed.read(), type=Claim)
    logs.bind(job_id=str(claim.job_id), worker_id=str(claim.worker_id))
    running = RunningAttempt(claim)
    running.begin()
    running.begin_effect = lambda: _begin_effect(running, sending)
    running.notes.on_change = notes.change
    outputs = open_outputs(settings)
    mailer = SmtpMailer.from_settings(settings)
    _send(sending, ChildMessage("ready"))
    return call(job_type_of(claim.type), running, outputs, mailer)


def _begin_effect(running: RunningAttempt, sending: IO[bytes]) -> None:
    """Ask the worker, which has the lease, whether the effect may begin. Raises `LeaseLost` unless it says so."""
    _send(sending, ChildMessage("effect"))
    if sys.stdin.buffer.readline() != GO:
        raise LeaseLost("the job is not this attempt's any more")
    running.effect_begun = True


class _Notes:
    """Sends what the job's code says to the worker, which has the database: not each word, and the last one surely."""

    def __init__(self, sending: IO[bytes]) -> None:
        self._sending = sending
        self._notes: AttemptNotes | None = None
        self._sent_at = -math.inf

    def change(self, notes: AttemptNotes) -> None:
        self._notes = notes
        if time.monotonic() >= self._sent_at + NOTES_SECONDS:
            self._sent_at = time.monotonic()
            self.send()

    def send(self) -> None:
        if self._notes is not None and self._notes.written is not self._notes.state:
            self._notes.written = state = self._notes.state
            _send(self._sending, ChildMessage("notes", notes=state))


#: A job's code may have threads that say something.
_writing = Lock()


def _send(sending: IO[bytes], message: ChildMessage) -> None:
    with _writing:
        sending.write(msgspec.json.encode(message) + b"\n")


def _kind(error: BaseException) -> str:
    kinds = {Rejected: "rejected", InvalidRequest: "refused", OutcomeUnknown: "ambiguous"}
    return next((kind for raised, kind in kinds.items() if isinstance(error, raised)), "failed")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
