"""Limits on how many jobs a process holds at a time: in all, and of each type, so that none occupies every thread."""

import math
from collections.abc import Iterable
from threading import Condition


class Limits:
    """The limit of the process and of each job type, and how many jobs were popped from Redis and are not done.

    All queues share them, so that no job is claimed for which no thread is free. A type without a limit is not limited.
    Thread-safe.
    """

    def __init__(self) -> None:
        #: How many jobs of all types and queues the process may hold: as many as it has threads.
        self.total: float = math.inf
        self._limits: dict[str, int] = {}
        self._held: dict[str | None, int] = {}
        self._held_in_all = 0
        self._changed = Condition()

    def set(self, job_type: str, limit: int) -> None:
        self._limits[job_type] = limit

    def room(self, job_type: str | None, most: int) -> int:
        """Return how many more jobs of the type may be taken, at most `most`. None is for all unknown types."""
        room = min(most, self.total - self._held_in_all)
        if job_type in self._limits:
            room = min(room, self._limits[job_type] - self._held.get(job_type, 0))
        return max(0, int(room))

    def take(self, job_type: str | None) -> bool:
        """Count one more job of the type. False: the type or the process is at its limit."""
        with self._changed:
            if self.room(job_type, 1) == 0:
                return False
            self._held[job_type] = self._held.get(job_type, 0) + 1
            self._held_in_all += 1
            return True

    def give_back(self, job_types: Iterable[str | None]) -> None:
        """Count one job less for each of these types."""
        with self._changed:
            for job_type in job_types:
                self._held[job_type] -= 1
                self._held_in_all -= 1
            self._changed.notify_all()

    def wait_for_room(self, seconds: float) -> int:
        """Wait up to so many seconds until the process may hold a further job. Return how many more it may hold."""
        with self._changed:
            self._changed.wait_for(lambda: self._held_in_all < self.total, seconds)
            return max(0, int(min(self.total - self._held_in_all, 2**31)))


def default_limit(threads: int) -> int:
    """Return the limit of a type that has none of its own: all threads but one, and at least one."""
    return max(1, threads - 1)
