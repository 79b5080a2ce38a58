"""The maintenance thread of a worker process: while it holds the lease, it runs the services in turn."""

import random
import time
from collections.abc import Sequence
from threading import Event, Thread

from structlog.stdlib import get_logger

from jobs_service.errors import BrokerUnavailable, DatabaseUnavailable, Unavailable
from jobs_service.maintenance.leadership import Leadership
from jobs_service.maintenance.service import Service, Turn
from jobs_service.metrics import catalogue as metrics

log = get_logger(module=__name__)

#: Seconds between two attempts to become the leader.
ELECTION_SECONDS = 1.0

#: How long a stop waits for the thread, so that a thread that hangs does not hold up the stop.
STOP_SECONDS = 20.0

#: Seconds after which a service leaves the rest to its next run.
RUN_SECONDS = 0.5


class Maintenance:
    """One thread in each process. The one that holds the lease runs the services; the others try to acquire it."""

    def __init__(self, services: Sequence[Service], leadership: Leadership) -> None:
        self.services = services
        self.leadership = leadership
        #: When the thread last began a turn, by the monotonic clock.
        self.last_turn = time.monotonic()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="maintenance", daemon=True)
        #: The token under which the services were last scheduled.
        self._led_under: int | None = None
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
        self.leadership.resign()

    def _turn(self) -> float:
        """Return the seconds until the next turn."""
        self.last_turn = time.monotonic()
        try:
            return self._work() if self._leads() else _jitter(ELECTION_SECONDS)
        except Exception:
            # If the thread ended while it holds the lease, no process would maintain until the lease runs out.
            self.leadership.resign()
            log.exception("Maintenance failed; this process gives up the lease and starts over")
            return ELECTION_SECONDS

    def _leads(self) -> bool:
        leads = self.leadership.ensure()
        if leads and self.leadership.token != self._led_under:
            self._take_over()
        self._led_under = self.leadership.token
        return leads

    def _take_over(self) -> None:
        self._due = {service.name: time.monotonic() for service in self.services}
        log.info("Leading maintenance", services=list(self._due), token=self.leadership.token)

    def _work(self) -> float:
        """Run the one service that can wait the least, if any is due; return the seconds until the next turn.

        One at a time, so that the lease is renewed in between, and services that have become due are seen.
        """
        now = time.monotonic()
        if due := [service for service in self.services if self._due[service.name] <= now]:
            self._run_service(min(due, key=lambda service: self._due[service.name] + service.slack_seconds))
            return 0.0
        return max(0.0, min([*self._due.values(), now + self.leadership.seconds_to_renewal]) - time.monotonic())

    def _run_service(self, service: Service) -> None:
        started = time.monotonic()
        turn = Turn(fence=self.leadership.token, seconds=self._run_seconds, is_cut_short=self._is_cut_short)
        try:
            counts = service.run_once(turn)
        except Exception as error:  # noqa: BLE001 - logged below; the other services go on
            metrics.MAINTENANCE_ERRORS.labels(service.name).inc()
            self._failed(service, error)
        else:
            self._failing.discard(service.name)
            metrics.MAINTENANCE_LAST_RUN.labels(service.name).set(time.time())
            if any(counts.values()):
                seconds = round(time.monotonic() - started, 4)
                log.debug("Maintenance done", maintenance=service.name, seconds=seconds, **counts)
        ended = time.monotonic()
        self._due[service.name] = ended + min(_jitter(service.interval_seconds), turn.next_seconds)
        metrics.MAINTENANCE_DURATION.labels(service.name).observe(ended - started)

    @property
    def _run_seconds(self) -> float:
        # Several runs have to fit between two renewals.
        return min(RUN_SECONDS, self.leadership.lease_seconds / 10)

    def _is_cut_short(self) -> bool:
        return self._stopping.is_set() or not self.leadership.is_held

    def _failed(self, service: Service, error: Exception) -> None:
        """Log the error; the service runs again later. A server that is away is logged once, until a run succeeds."""
        if not isinstance(error, DatabaseUnavailable | BrokerUnavailable | Unavailable):
            log.error("Maintenance failed", maintenance=service.name, exc_info=error)
        elif service.name not in self._failing:
            self._failing.add(service.name)
            log.warning("Maintenance waits for a server", maintenance=service.name, error=str(error))


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - not a secret
