"""Replaces a worker process that looks alive and is not: a thread has died, or hangs where no limit reaches it."""

import faulthandler
import os
import signal
import sys
from collections.abc import Collection
from threading import Event, Thread
from typing import NoReturn
from uuid import UUID

from dramatiq.worker import Worker

from jobs_service.logs import get_logger
from jobs_service.middleware.lifecycle_sync import LifecycleSync
from jobs_service.supervisor import is_orphan

log = get_logger(__name__)

INTERVAL_SECONDS = 2.0

EXIT_CODE = 70


class Watchdog:
    """Looks at Dramatiq's threads and at the attempts they make; the supervisor starts a new process."""

    def __init__(self, lifecycle_sync: LifecycleSync, *, hang_grace_seconds: float, standstill_seconds: float) -> None:
        """An attempt may be on its way out for `hang_grace_seconds` after its time limit; then its thread hangs.

        A process in which no Python ran for `standstill_seconds` ends: some code in C holds Python's lock.
        """
        self.lifecycle_sync = lifecycle_sync
        self.hang_grace_seconds = hang_grace_seconds
        self.standstill_seconds = standstill_seconds
        self._stopping = Event()

    def start(self, worker: Worker) -> None:
        Thread(target=self._run, args=(worker,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self, worker: Worker) -> None:
        self._expect_another_turn()
        while not self._stopping.wait(INTERVAL_SECONDS):
            self._expect_another_turn()
            if dead := dead_threads(worker):
                log.error("Threads have died; this process stops and is replaced", threads=dead)
                os.kill(os.getpid(), signal.SIGTERM)
                break
            if hung := self.hung():
                self._abandon(hung)
            self._end_as_orphan()
        # The stop that follows may take longer, and lets the jobs that run finish.
        faulthandler.cancel_dump_traceback_later()

    def _expect_another_turn(self) -> None:
        """Have the process end if there is none in time, by a thread of C's that needs no lock of Python's."""
        # Only frames are printed, no values.
        faulthandler.dump_traceback_later(self.standstill_seconds, exit=True, file=sys.__stderr__ or sys.stderr)

    def hung(self) -> list[UUID]:
        """Return the lease tokens of attempts that their time limit could not end: blocked outside of Python."""
        return [
            token
            for token, running in list(self.lifecycle_sync.running.items())
            # What has returned waits for PostgreSQL with its verdict, for long perhaps; LifecycleSync knows how long.
            if not running.has_returned and running.seconds > running.limit_seconds + self.hang_grace_seconds
        ]

    def _end_as_orphan(self) -> None:
        """End a process whose dramatiq command was killed, if it has not begun to stop by itself.

        The kernel has told it to. But one that was just starting waits for ever to tell its parent that it has begun
        (`boot` has the rest of it).
        """
        if is_orphan() and not self._stopping.wait(INTERVAL_SECONDS):
            log.error("The dramatiq command is gone; this process ends")
            self._end()

    def _abandon(self, hung: list[UUID]) -> None:
        """End the process at once: a thread blocked in C cannot be ended otherwise. Its neighbours go back in line."""
        log.error("Attempts hang; this process ends and is replaced", attempts=len(hung))
        self._end(hung)

    def _end(self, hung: Collection[UUID] = ()) -> NoReturn:
        try:
            self.lifecycle_sync.release_running(hung=hung)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process has to end
            log.warning("Attempts not given back; the rescuer will take them", error=str(error))
        finally:
            os._exit(EXIT_CODE)


def dead_threads(worker: Worker) -> list[str]:
    threads = [*worker.workers, *worker.consumers.values()]
    # While the worker boots, some are there and not started yet.
    return [thread.name for thread in threads if thread.ident is not None and not thread.is_alive()]
