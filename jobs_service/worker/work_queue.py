"""The queue between Dramatiq's consumers and its threads, at which an idle thread sleeps until there is a message.

At Dramatiq's own queue each idle thread wakes up once a second to see whether the worker stops: sixteen threads in each
process do so for nothing. Here a stop wakes them.
"""

from queue import Empty, PriorityQueue
from typing import Any


class WorkQueue(PriorityQueue[Any]):
    """Like `queue.PriorityQueue`, unbounded."""

    def __init__(self) -> None:
        super().__init__()
        self._is_closed = False

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ANN401, ARG002 - as in the base class
        """Return the first message, and wait for it if `block`, however long that takes.

        Raises `Empty` if there is none: when the queue is closed, and sometimes before. Dramatiq's threads then ask
        again unless they are to end.
        """
        with self.not_empty:
            if block and not self._qsize() and not self._is_closed:
                self.not_empty.wait()
            if not self._qsize():
                raise Empty
            return self._get()

    def close(self) -> None:
        """Wake all threads that wait, and let none wait from now on. They must have been told to end."""
        with self.not_empty:
            self._is_closed = True
            self.not_empty.notify_all()
