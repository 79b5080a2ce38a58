"""How many jobs of a type this process has in hand at a time: one slow type is not to take every thread."""

from threading import Lock


class Limits:
    """The limits, by type, and what is in hand: popped from Redis and not done. Without a limit there is none.

    Thread-safe.
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
        """Count one more in hand. False: the type is at its limit."""
        with self._lock:
            if self.room(job_type, 1) == 0:
                return False
            self._in_hand[job_type] = self._in_hand.get(job_type, 0) + 1
            return True

    def give_back(self, job_type: str) -> None:
        """Count one less in hand."""
        with self._lock:
            self._in_hand[job_type] -= 1


def default_limit(threads: int) -> int:
    """Return how many of `threads` one type may take unless something else is said: all but one, if there are two."""
    return max(1, threads - 1)
