"""Limits on how many jobs of a type a process holds at a time, so that one slow type does not occupy every thread."""

from threading import Lock


class Limits:
    """The limit of each job type, and how many of its jobs were popped from Redis and are not done.

    A type without a limit is not limited. Thread-safe.
    """

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._in_hand: dict[str, int] = {}
        self._lock = Lock()

    def set(self, job_type: str, limit: int) -> None:
        self._limits[job_type] = limit

    def room(self, job_type: str, most: int) -> int:
        """Return how many more jobs of the type may be taken, at most `most`."""
        limit = self._limits.get(job_type)
        return most if limit is None else max(0, min(most, limit - self._in_hand.get(job_type, 0)))

    def take(self, job_type: str) -> bool:
        """Count one more job of the type. False: the type is at its limit."""
        with self._lock:
            if self.room(job_type, 1) == 0:
                return False
            self._in_hand[job_type] = self._in_hand.get(job_type, 0) + 1
            return True

    def give_back(self, job_type: str) -> None:
        """Count one job less."""
        with self._lock:
            self._in_hand[job_type] -= 1


def default_limit(threads: int) -> int:
    """Return the limit of a type that has none of its own: all threads but one, and at least one."""
    return max(1, threads - 1)
