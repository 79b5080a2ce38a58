"""Which workers are silent: their counters of heartbeats have not changed for a lease, by this process's own clock."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Self
from uuid import UUID

from jobs_service.config import Settings

#: How much a single look may add to a silence, as a part of the lease less one heartbeat interval. The rest is the time
#: that live workers have for a heartbeat after an outage or a freeze in which none could beat.
ALLOWANCE = 0.6


@dataclass(frozen=True, slots=True)
class _Seen:
    beats: int | None
    at: float
    silence_seconds: float


class Liveness:
    """How long each counter has not changed. Thread-safe.

    It reads no wall clock: neither PostgreSQL's, which may be set, nor another machine's. A silence grows only from one
    look to the next, by a bounded step: while PostgreSQL is away, or this process is frozen, no worker becomes silent.
    """

    def __init__(
        self, *, lease_seconds: float, heartbeat_interval_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A worker is silent once its counter has not changed for `lease_seconds`."""
        self.lease_seconds = lease_seconds
        self._step_seconds = ALLOWANCE * (lease_seconds - heartbeat_interval_seconds)
        self._clock = clock
        self._seen: dict[UUID | None, _Seen] = {}
        self._lock = Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(lease_seconds=settings.lease_seconds, heartbeat_interval_seconds=settings.heartbeat_interval_seconds)

    def look(self, beats: Mapping[UUID | None, int | None]) -> None:
        """Record the current counters of all workers. Workers that are not among them are forgotten."""
        with self._lock:
            now = self._clock()
            self._seen = {worker_id: self._again(worker_id, count, now) for worker_id, count in beats.items()}

    def silent(self, seconds: float | None = None) -> dict[UUID | None, int | None]:
        """Return the workers that have been silent for so long (default: a lease), with their counters' values."""
        least = self.lease_seconds if seconds is None else seconds
        return {worker_id: seen.beats for worker_id, seen in self._seen.items() if seen.silence_seconds >= least}

    def seconds_to_next(self) -> float:
        """Return the seconds until the next worker becomes silent, unless it beats; infinity if there is none."""
        waits = [self.lease_seconds - seen.silence_seconds for seen in self._seen.values()]
        return min((wait for wait in waits if wait > 0), default=float("inf"))

    def _again(self, worker_id: UUID | None, beats: int | None, now: float) -> _Seen:
        before = self._seen.get(worker_id)
        if before is None or before.beats != beats:
            return _Seen(beats, now, 0.0)
        step = min(now - before.at, self._step_seconds)
        return _Seen(beats, now, before.silence_seconds + step)
