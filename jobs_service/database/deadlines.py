"""Limits how long a thread waits for the server, from another thread.

psycopg2 waits in C, where no Python exception reaches the thread, and PostgreSQL's own timeouts do not help while it is
frozen or unreachable. psycopg2's wait callback is no way out: it applies to all connections of a process, those of job
code too, and makes COPY impossible. So another thread shuts the socket down, and psycopg2 finds the connection closed.
"""

import math
import os
import socket
import time
from contextlib import suppress
from threading import Condition, Lock, Thread
from typing import Protocol


class Expiring(Protocol):
    """What has a deadline."""

    def expire(self) -> None:
        """The deadline has passed. Must not wait, nor raise."""


class DuplicateSocket:
    """A connection's socket under a file descriptor of its own, which the kernel gives to no other file meanwhile."""

    def __init__(self, descriptor: int) -> None:
        """Raises `OSError` when the process can open no further file."""
        self._closing = Lock()
        self._descriptor = os.dup(descriptor)

    def expire(self) -> None:
        """Shut the socket down, in both directions."""
        with self._closing:
            if self._descriptor < 0:
                return
            connection = socket.socket(fileno=self._descriptor)
            try:
                with suppress(OSError):  # the server closed it first
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()

    def close(self) -> None:
        """Close the duplicate. The connection itself stays open."""
        with self._closing:
            self._close()

    def __del__(self) -> None:
        # Without the lock: nothing else refers to this object, and in a forked child the lock may be held for ever.
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = getattr(self, "_descriptor", -1), -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)


class Deadlines:
    """The deadlines of a process, and a thread that expires what is overdue.

    The thread starts with the first deadline and sleeps while there is none. Most deadlines are equally far away, so it
    is woken only when it sleeps without one, or for an earlier one.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start empty: in a forked child there is no thread, and the sockets are the parent's."""
        self._due: dict[Expiring, float] = {}
        self._changed = Condition()
        #: When the thread looks next; infinity while it sleeps without a deadline, or is about to.
        self._wakes_at = math.inf
        self._thread: Thread | None = None

    def begin(self, waiting: Expiring, seconds: float) -> None:
        """Expire `waiting` in that many seconds, unless `end` is called before."""
        self._due[waiting] = due = time.monotonic() + seconds
        if due < self._wakes_at:
            with self._changed:
                self._wake()

    def end(self, waiting: Expiring) -> None:
        self._due.pop(waiting, None)

    def has_expired(self, waiting: Expiring) -> bool:
        """Tell whether it has expired since `begin`. To be called before `end`."""
        return waiting not in self._due

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="deadlines", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        try:
            with self._changed:
                while True:
                    self._changed.wait(self._expire_due())
        finally:
            # However it ended, the next deadline has to start another thread.
            self._thread, self._wakes_at = None, math.inf

    def _expire_due(self) -> float | None:
        """Return the seconds until the next deadline, or None to sleep until woken."""
        # First, so that a deadline that begins while this counts wakes the thread instead of being missed.
        self._wakes_at = math.inf
        now = time.monotonic()
        for waiting, due in list(self._due.items()):
            if due <= now and self._due.pop(waiting, None) is not None:
                waiting.expire()
        self._wakes_at = min(list(self._due.values()), default=math.inf)
        return None if self._wakes_at == math.inf else max(0.0, self._wakes_at - now)


#: Those of this process.
deadlines = Deadlines()

os.register_at_fork(after_in_child=deadlines.forget)
