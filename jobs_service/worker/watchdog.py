"""Replaces a worker process that looks alive and is not: a thread died or stands still, or no file can be opened."""

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

from jobs_service import descriptors
from jobs_service.broker.redis import JobBroker
from jobs_service.descriptors import Reserve
from jobs_service.observability.logs import get_logger
from jobs_service.orphans import is_orphan
from jobs_service.worker.heartbeat import Presence
from jobs_service.worker.release import Release
from jobs_service.worker.running import RunningAttempts

log = get_logger(__name__)

#: At most so many seconds between two looks.
INTERVAL_SECONDS = 2.0

EXIT_CODE = 70


class Turning(Protocol):
    """A thread that does the same again and again."""

    #: When it last began anew, by the monotonic clock.
    last_turn: float

    def is_alive(self) -> bool: ...


class Watchdog:
    """Looks at the threads of this process and at the attempts they make; the supervisor starts a new process."""

    def __init__(
        self,
        broker: JobBroker,
        attempts: RunningAttempts,
        release: Release,
        presence: Presence,
        services: Mapping[str, Turning],
        *,
        hang_grace_seconds: float,
        standstill_seconds: float,
    ) -> None:
        """An attempt may be on its way out for `hang_grace_seconds` after its time limit; then its thread hangs.

        A process in which no Python ran for `standstill_seconds` ends: some code in C holds Python's lock. Where only
        one of the `services`, by name, or the heartbeat has made no turn for so long, the process stops.
        """
        self.broker = broker
        self.attempts = attempts
        self.release = release
        self.presence = presence
        self.services: dict[str, Turning] = {"heartbeat": presence, **services}
        self.hang_grace_seconds = hang_grace_seconds
        self.standstill_seconds = standstill_seconds
        # More often than a heartbeat, so that a dead one is stood in for before it is missed.
        self.interval_seconds = min(INTERVAL_SECONDS, presence.heartbeat_interval_seconds)
        #: Since when this thread has looked without a long pause: while the process is frozen, nothing turns.
        self._awake_since = self._looked_at = time.monotonic()
        self._stopping = Event()
        self._ended = Event()
        self._reserve: Reserve | None = None

    def start(self, worker: Worker) -> None:
        self._reserve = Reserve()
        Thread(target=self._run, args=(worker,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Only see to the heartbeat from now on: the threads are about to end."""
        self._stopping.set()
        self._release_reserve()

    def end(self) -> None:
        self._ended.set()

    def _run(self, worker: Worker) -> None:
        self._expect_another_turn()
        while not self._stopping.wait(self.interval_seconds):
            self._expect_another_turn()
            if reasons := list(self.reasons_to_stop(worker)):
                self._stop_process(reasons)
                break
            if hung := self.hung():
                self._abandon(hung)
            self._stand_in()
            self._end_as_orphan()
        # The stop that follows may take longer, and lets the jobs that run finish: they are this process's until then.
        faulthandler.cancel_dump_traceback_later()
        while not self._ended.wait(self.interval_seconds):
            self._stand_in()

    def _expect_another_turn(self) -> None:
        """Have the process end if there is none in time, by a thread of C's that needs no lock of Python's."""
        # Only frames are printed, no values.
        faulthandler.dump_traceback_later(self.standstill_seconds, exit=True, file=sys.__stderr__ or sys.stderr)

    def reasons_to_stop(self, worker: Worker) -> Iterator[str]:
        """Yield what is wrong with this process, so that it has to be replaced."""
        dead = [name for name, service in self.services.items() if not service.is_alive()]
        yield from (f"the thread has died: {name}" for name in [*dead_threads(worker), *dead])
        yield from (f"the thread stands still: {name}" for name in self._standing_still())
        # A claim that found the same lets nothing more be handed out.
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

    def _stand_in(self) -> None:
        """Beat in place of a heartbeat that has died or is late: the jobs of this process are not to be done twice."""
        is_late = time.monotonic() - self.presence.last_turn > 2 * self.presence.heartbeat_interval_seconds
        if is_late or not self.presence.is_alive():
            try:
                self.presence.beat()
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
            self._release_reserve()
            self.release.at_once(hung=hung)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process has to end
            log.warning("Attempts not given back; the rescuer will take them", error=str(error))
        finally:
            os._exit(EXIT_CODE)


def dead_threads(worker: Worker) -> list[str]:
    threads = [*worker.workers, *worker.consumers.values()]
    # While the worker boots, some are there and not started yet.
    return [thread.name for thread in threads if thread.ident is not None and not thread.is_alive()]
