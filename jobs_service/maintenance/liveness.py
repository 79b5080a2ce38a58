"""Which workers are silent: their counters of heartbeats stand still, by this process's own clock."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from uuid import UUID

#: The part of what a lease leaves after one heartbeat that a single look may add to a silence. The rest is the time
#: that the living have to beat, after an outage or a freeze in which nobody could.
ALLOWANCE = 0.6


@dataclass(frozen=True, slots=True)
class _Seen:
    beats: int | None
    at: float
    silence_seconds: float


class Liveness:
    """How long each counter has stood still. Thread-safe.

    No wall clock is asked: neither PostgreSQL's, which may be set, nor another machine's. Silence grows only from one
    look to the next, and by a bounded step: while PostgreSQL is away, or this process is frozen, nobody grows silent.
    """

    def __init__(
        self, *, lease_seconds: float, heartbeat_interval_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A worker is silent once its counter has stood still for `lease_seconds`."""
        self.lease_seconds = lease_seconds
        self._step_seconds = ALLOWANCE * (lease_seconds - heartbeat_interval_seconds)
        self._clock = clock
        self._seen: dict[UUID | None, _Seen] = {}
        self._lock = Lock()

    def look(self, beats: Mapping[UUID | None, int | None]) -> None:
        """Take in the counters of all workers, as they are now; those that are not among them are forgotten."""
        with self._lock:
            now = self._clock()
            self._seen = {worker_id: self._again(worker_id, count, now) for worker_id, count in beats.items()}

    def silent(self, seconds: float | None = None) -> dict[UUID | None, int | None]:
        """Return who has been silent for so long (default: a lease), with the count each counter stands at."""
        least = self.lease_seconds if seconds is None else seconds
        return {worker_id: seen.beats for worker_id, seen in self._seen.items() if seen.silence_seconds >= least}

    def seconds_to_next(self) -> float:
        """Return the seconds until the next worker is silent, if it does not beat; infinity if there is none."""
        waits = [self.lease_seconds - seen.silence_seconds for seen in self._seen.values()]
        return min((wait for wait in waits if wait > 0), default=float("inf"))

    def _again(self, worker_id: UUID | None, beats: int | None, now: float) -> _Seen:
        before = self._seen.get(worker_id)
        if before is None or before.beats != beats:
            return _Seen(beats, now, 0.0)
        step = min(now - before.at, self._step_seconds)
        return _Seen(beats, now, before.silence_seconds + step)
