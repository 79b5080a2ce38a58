"""Completes attempts that have returned: those that wait at the same time share a statement and its commit."""

import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

from structlog.stdlib import get_logger

from jobs_service.database.connection import Database
from jobs_service.errors import SchemaUnavailable
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle
from jobs_service.observability import logs, tracing
from jobs_service.worker.attempt import RunningAttempt, RunningAttempts
from jobs_service.worker.database_wait import DatabaseWait
from jobs_service.worker.settler import Settler, announce_completed, announce_refused

log = get_logger(module=__name__)

#: Seconds after which the thread looks by itself: one that waits for ever could not be told to end.
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Returned:
    """An attempt that has returned, with the context of its thread: its log lines and its span."""

    running: RunningAttempt
    context: Context

    def announce(self, *, is_written: bool) -> None:
        """Announce that it is completed, or that its lease was gone, in its own context."""
        self.context.run(announce_completed if is_written else announce_refused, self.running)

    def settle(self, settler: Settler) -> None:
        """Settle it by itself, in its own context. If its result cannot be stored, that is a failure as any other."""
        claim = self.running.claim
        retry_seconds = 0.0 if claim.attempts < claim.max_attempts else None
        self.context.run(settler.settle, self.running, None, retry_seconds)

    def end(self) -> None:
        """End its span."""
        self.context.run(tracing.end_copied_attempt)


class Completions:
    """A thread that completes the attempts of one worker process which returned and began no effect.

    The thread that ran the job goes on at once, unless as many attempts wait here as the process has threads.
    """

    def __init__(
        self, database: Database, wait: DatabaseWait, attempts: RunningAttempts, settler: Settler, *, most: int
    ) -> None:
        """At most `most` attempts wait."""
        self.database = database
        self.wait = wait
        self.attempts = attempts
        self.settler = settler
        self.most = most
        #: An attempt leaves it when it is settled, so that another thread can take over from one that has died.
        self._returned: deque[Returned] = deque()
        #: Wakes the thread. A deque alone has nothing to wait for.
        self._added: SimpleQueue[None] = SimpleQueue()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the thread, or another in the place of one that has died."""
        if not self.is_alive():
            self._thread = Thread(target=self._run, name="settler", daemon=True)
            self._thread.start()

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def last_turn(self) -> float:
        """For the watchdog: the thread may wait for attempts, and for PostgreSQL, as long as it takes."""
        return time.monotonic()

    def add(self, running: RunningAttempt) -> bool:
        """Have the attempt of this thread completed, and leave its span to that. False: too many wait already."""
        if len(self._returned) >= self.most:
            return False
        self._returned.append(Returned(running, copy_context()))
        tracing.leave_attempt()
        self._added.put(None)
        return True

    def _run(self) -> None:
        while True:
            while batch := list(self._returned):
                self._complete(batch)
                for _ in batch:
                    self._returned.popleft()
            with suppress(Empty):
                self._added.get(timeout=LOOK_SECONDS)

    def _complete(self, batch: Sequence[Returned]) -> None:
        try:
            self._settle(batch)
        finally:
            for returned in batch:
                returned.end()
                self.attempts.remove(returned.running)

    def _settle(self, batch: Sequence[Returned]) -> None:
        try:
            written = self._write(batch)
        except SchemaUnavailable:
            # No verdict on one of them could be written either.
            log.exception("Verdicts not written; this process stops, and its jobs are taken back", jobs=len(batch))
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:  # noqa: BLE001 - one result that cannot be stored must not be that of the others
            log.warning("Attempts not completed together; they are settled one by one", error=str(error).strip())
            for returned in batch:
                returned.settle(self.settler)
        else:
            with logs.batched():
                for returned, is_written in zip(batch, written, strict=True):
                    returned.announce(is_written=is_written)

    def _write(self, batch: Sequence[Returned]) -> list[bool]:
        done = [(returned.running.claim, returned.running.result) for returned in batch]
        failpoint("worker.after_effect")
        # A statement shared by several attempts is in the trace of the first.
        written = batch[0].context.run(
            self.wait.until_answered, "complete", lambda: lifecycle.complete(self.database, done)
        )
        failpoint("worker.after_verdict")
        return written
