"""A circuit breaker: after some failures in a row a server is left alone for a while, then asked once."""

import time
from threading import Lock

from jobs_service import events
from jobs_service.events import Event


class Breaker:
    """Closed while the server answers. Open: nobody asks. When the pause is over one caller does, for all. Thread-safe.

    Each further failure doubles the pause, up to `MAX_PAUSES` of the first.
    """

    MAX_PAUSES = 8

    def __init__(self, name: str, *, failures: int, pause_seconds: float) -> None:
        self.name = name
        self.failures = failures
        self.pause_seconds = pause_seconds
        self._lock = Lock()
        self._failed = 0
        self._pause = pause_seconds
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        return self._failed >= self.failures

    def wait_seconds(self) -> float:
        """Return 0 for a caller that may ask the server, else the seconds until it is worth trying."""
        with self._lock:
            if not self.is_open:
                return 0.0
            if (left := self._open_until - time.monotonic()) > 0:
                return left
            # This caller asks. The others wait as long as it may take to learn the answer.
            self._open_until = time.monotonic() + self.pause_seconds
            return 0.0

    def failed(self) -> float:
        """Note that the server did not answer. Return the seconds to leave it alone, 0 while the breaker is closed."""
        with self._lock:
            self._failed += 1
            if not self.is_open:
                return 0.0
            first = self._failed == self.failures
            self._pause = self.pause_seconds if first else min(self._pause * 2, self.pause_seconds * self.MAX_PAUSES)
            self._open_until = time.monotonic() + self._pause
        if first:
            events.emit(Event.BREAKER_OPENED, breaker=self.name, failures=self.failures)
        return self._pause

    def answered(self) -> None:
        """Note that the server answered, whatever it said."""
        with self._lock:
            was_open, self._failed = self.is_open, 0
        if was_open:
            events.emit(Event.BREAKER_CLOSED, breaker=self.name)
