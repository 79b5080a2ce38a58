"""The maintenance thread of a worker process: elected by an advisory lock, it runs the services in turn."""

import random
import time
from collections.abc import Sequence
from threading import Event, Thread
from typing import Any

from jobs_service.database import Database
from jobs_service.errors import BrokerUnavailable, DatabaseUnavailable
from jobs_service.logs import get_logger
from jobs_service.maintenance.service import Service
from jobs_service.metrics import definitions as metrics

log = get_logger(__name__)

#: Any number nobody else uses. PostgreSQL gives the lock up when the leader's connection ends, however it ends.
LOCK = 0x4A4F4253_02

#: How long a stop waits for the thread: one that stands still is not to hold it up.
STOP_SECONDS = 20.0

#: Seconds between two attempts to become the leader.
ELECTION_SECONDS = 1.0


class Maintenance:
    """One thread a process; the one that holds the lock works, the others ask for it now and then.

    The lock belongs to the thread's own connection, on which the services' statements run as well: when that
    connection breaks, or stays silent, leadership ends with it.
    """

    def __init__(self, database: Database, services: Sequence[Service], *, silence_seconds: float) -> None:
        """A leader that has sent nothing for `silence_seconds` loses its lock."""
        self.database = database
        self.silence_seconds = silence_seconds
        self.services = services
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="maintenance", daemon=True)
        #: When the thread last began a turn or a service, by the monotonic clock.
        self.last_turn = time.monotonic()
        #: The connection that holds the lock.
        self._elected_on: Any = None
        self._due: dict[str, float] = {}
        self._failing: set[str] = set()

    def start(self) -> None:
        metrics.MAINTENANCE_LEADER.labels().set(0)
        for service in self.services:
            for row in (metrics.MAINTENANCE_LAST_RUN, metrics.MAINTENANCE_DURATION, metrics.MAINTENANCE_ERRORS):
                row.labels(service.name)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._turn())
        self._resign()

    def _turn(self) -> float:
        """Return the seconds until the next turn."""
        self.last_turn = time.monotonic()
        try:
            return self._work() if self._is_leader() else _jitter(ELECTION_SECONDS)
        except Exception:
            # A leader that ends without giving up its lock would leave the fleet without maintenance.
            self._resign()
            log.exception("Maintenance starts over")
            return ELECTION_SECONDS

    def _resign(self) -> None:
        self._elected_on = None
        metrics.MAINTENANCE_LEADER.labels().set(0)
        self.database.discard()

    def _is_leader(self) -> bool:
        try:
            if self._elected_on is not None and self._elected_on is self.database.connection():
                return True
            self._elected_on = None
            metrics.MAINTENANCE_LEADER.labels().set(0)
            (elected,) = self.database.row("SELECT pg_try_advisory_lock(%s)", (LOCK,)) or (False,)
        except Exception as error:  # noqa: BLE001 - whatever the driver raises, the answer is no, and we ask again
            log.debug("No election", error=str(error))
            return False
        if elected:
            self._take_over()
        return bool(elected)

    def _take_over(self) -> None:
        # The kernel answers for a frozen process: only PostgreSQL can notice that its leader says nothing any more.
        self.database.rows(f"SET idle_session_timeout = '{int(self.silence_seconds * 1000)}ms'")
        self._elected_on = self.database.connection()
        metrics.MAINTENANCE_LEADER.labels().set(1)
        for service in self.services:
            service.begin()
        now = time.monotonic()
        self._due = {service.name: now + service.delay_seconds for service in self.services}
        log.info("Leading maintenance", services=[service.name for service in self.services])

    def _work(self) -> float:
        """Run what is due and return the seconds until something is due again."""
        for service in self.services:
            if time.monotonic() >= self._due[service.name] and not self._stopping.is_set():
                self._run_service(service)
                self._due[service.name] = time.monotonic() + _jitter(service.interval_seconds)
        return max(0.0, min(self._due.values()) - time.monotonic())

    def _run_service(self, service: Service) -> None:
        self.last_turn = started = time.monotonic()
        try:
            counts = service.run_once()
        except Exception as error:  # noqa: BLE001 - logged below; the other services go on
            metrics.MAINTENANCE_ERRORS.labels(service.name).inc()
            self._failed(service, error)
        else:
            self._failing.discard(service.name)
            metrics.MAINTENANCE_LAST_RUN.labels(service.name).set(time.time())
            if any(counts.values()):
                seconds = round(time.monotonic() - started, 4)
                log.debug("Maintenance done", maintenance=service.name, seconds=seconds, **counts)
        metrics.MAINTENANCE_DURATION.labels(service.name).observe(time.monotonic() - started)

    def _failed(self, service: Service, error: Exception) -> None:
        """One service's error must not end the others; a bug is loud, and it is tried again."""
        if not isinstance(error, DatabaseUnavailable | BrokerUnavailable):
            log.error("Maintenance failed", maintenance=service.name, exc_info=error)
        elif service.name not in self._failing:
            self._failing.add(service.name)
            log.warning("Maintenance waits for a server", maintenance=service.name, error=str(error))


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - not a secret
