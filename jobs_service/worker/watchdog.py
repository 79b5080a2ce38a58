"""Ends a worker process that can no longer work: a thread died or stands still, or no file can be opened."""

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from threading import Event, Thread
from typing import NoReturn, Protocol
from uuid import UUID

from dramatiq.worker import Worker
from structlog.stdlib import get_logger

from jobs_service import descriptors
from jobs_service.broker.redis import JobBroker
from jobs_service.orphans import is_orphan
from jobs_service.worker.attempt import RunningAttempts
from jobs_service.worker.heartbeat import Heartbeat
from jobs_service.worker.release import Release

log = get_logger(module=__name__)

#: At most so many seconds between two looks.
INTERVAL_SECONDS = 2.0

EXIT_CODE = 70


class Loop(Protocol):
    """A thread that runs a loop."""

    @property
    def last_turn(self) -> float:
        """When it last began a pass of its loop, by the monotonic clock."""

    def is_alive(self) -> bool: ...


class Watchdog:
    """Checks the threads of this process and the attempts they make. The supervisor starts a new process."""

    def __init__(
        self,
        broker: JobBroker,
        attempts: RunningAttempts,
        release: Release,
        heartbeat: Heartbeat,
        services: Mapping[str, Loop],
        *,
        hang_grace_seconds: float,
        standstill_seconds: float,
    ) -> None:
        """An attempt may take `hang_grace_seconds` after its time limit to end; after that its thread hangs.

        A process in which no Python code ran for `standstill_seconds` ends at once: code in C holds Python's lock. If
        only the heartbeat or one of the `services`, by name, began no pass of its loop for that long, it stops.
        """
        self.broker = broker
        self.attempts = attempts
        self.release = release
        self.heartbeat = heartbeat
        self.services: dict[str, Loop] = {"heartbeat": heartbeat, **services}
        self.hang_grace_seconds = hang_grace_seconds
        self.standstill_seconds = standstill_seconds
        # More often than a heartbeat, so that one can be written for a dead thread before it is missed.
        self.interval_seconds = min(INTERVAL_SECONDS, heartbeat.heartbeat_interval_seconds)
        #: Since when this thread has run without a long pause: while the process is frozen, no loop runs.
        self._awake_since = self._looked_at = time.monotonic()
        self._stopping = Event()
        self._ended = Event()
        self._reserve: descriptors.Reserve | None = None

    def start(self, worker: Worker) -> None:
        self._reserve = descriptors.Reserve()
        Thread(target=self._run, args=(worker,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """From now on only write late heartbeats: the threads are about to end."""
        self._stopping.set()
        self._release_reserve()

    def end(self) -> None:
        self._ended.set()

    def _run(self, worker: Worker) -> None:
        self._restart_timer()
        while not self._stopping.wait(self.interval_seconds):
            self._restart_timer()
            if reasons := list(self.reasons_to_stop(worker)):
                self._stop_process(reasons)
                break
            if hung := self.hung():
                self._end_hung(hung)
            self._beat_if_late()
            self._end_as_orphan()
        # The stop that follows may take longer, and lets the jobs that run finish: this process holds them until then.
        faulthandler.cancel_dump_traceback_later()
        while not self._ended.wait(self.interval_seconds):
            self._beat_if_late()

    def _restart_timer(self) -> None:
        """Have the process end if this loop does not come round in time, by a thread in C that needs no Python lock."""
        # Only frames are printed, no values.
        faulthandler.dump_traceback_later(self.standstill_seconds, exit=True, file=sys.__stderr__ or sys.stderr)

    def reasons_to_stop(self, worker: Worker) -> Iterator[str]:
        """Yield each reason why this process has to be replaced."""
        dead = [name for name, service in self.services.items() if not service.is_alive()]
        yield from (f"the thread has died: {name}" for name in [*dead_threads(worker), *dead])
        yield from (f"the thread stands still: {name}" for name in self._standing_still())
        # A claim that found the same has set `draining`, so that no further message is handed out.
        if self.broker.draining or descriptors.are_exhausted():
            yield "no further file can be opened"

    def _standing_still(self) -> list[str]:
        now = time.monotonic()
        if now - self._looked_at > self.standstill_seconds / 4:
            self._awake_since = now
        self._looked_at = now
        return [
            name
            for name, each in self.services.items()
            if now - max(each.last_turn, self._awake_since) > self.standstill_seconds
        ]

    def _stop_process(self, reasons: list[str]) -> None:
        # A stop that has begun meanwhile is enough: Dramatiq takes a second signal as an order to end now.
        if self._stopping.is_set():
            return
        log.error("This process stops and is replaced", reasons=reasons)
        self.broker.draining = True
        self._release_reserve()
        os.kill(os.getpid(), signal.SIGTERM)

    def _beat_if_late(self) -> None:
        """Write a heartbeat if its thread has died or is late: the jobs of this process must not run twice."""
        is_late = time.monotonic() - self.heartbeat.last_turn > 2 * self.heartbeat.heartbeat_interval_seconds
        if is_late or not self.heartbeat.is_alive():
            try:
                self.heartbeat.beat()
            except Exception as error:  # noqa: BLE001 - the next one may be written
                log.warning("Heartbeat not written", error=str(error).strip())

    def _release_reserve(self) -> None:
        if self._reserve is not None:
            self._reserve.release()

    def hung(self) -> list[UUID]:
        """Return the lease tokens of attempts that their time limit could not end: blocked outside of Python."""
        return [
            running.claim.token
            for running in self.attempts
            # What has returned waits for PostgreSQL with its verdict, however long that takes.
            if not running.has_returned and running.seconds > running.limit_seconds + self.hang_grace_seconds
        ]

    def _end_as_orphan(self) -> None:
        """End a process whose dramatiq command was killed, if it has not begun to stop by itself.

        The kernel has sent it SIGTERM. But a process that was just starting waits for ever to report to its parent
        that it has begun (see `boot`).
        """
        if is_orphan() and not self._stopping.wait(INTERVAL_SECONDS):
            log.error("The dramatiq command is gone; this process ends")
            self._end()

    def _end_hung(self, hung: list[UUID]) -> None:
        """End the process at once: nothing else ends a thread that is blocked in C. Other attempts are given back."""
        log.error("Attempts hang; this process ends and is replaced", attempts=len(hung))
        self._end(hung)

    def _end(self, hung: Collection[UUID] = ()) -> NoReturn:
        try:
            self._release_reserve()
            self.release.at_once(hung=hung)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process has to end
            log.warning("Attempts not given back; the rescuer will take them", error=str(error))
        finally:
            os._exit(EXIT_CODE)


def dead_threads(worker: Worker) -> list[str]:
    threads = [*worker.workers, *worker.consumers.values()]
    # While the worker boots, some exist and are not started yet.
    return [thread.name for thread in threads if thread.ident is not None and not thread.is_alive()]
