"""Bounds the wait for a server's answer from outside of the thread that waits.

psycopg2 waits in C, where no exception of Python's reaches the thread, and PostgreSQL's own timeouts do not help where
it is frozen or unreachable. What psycopg2 offers against it, a wait callback, is one for all connections of a process,
those of job code too, and makes COPY impossible. So a thread shuts the socket down, and the one that waits is told that
the connection is closed.
"""

import math
import os
import socket
import time
from contextlib import suppress
from threading import Condition, Lock, Thread
from typing import Protocol


class Overdue(Protocol):
    """What can be cut when its time is over."""

    def cut(self) -> None:
        """Must not wait, nor raise."""


class Line:
    """The socket of a connection, under a descriptor of our own: its number cannot come to mean another file."""

    def __init__(self, descriptor: int) -> None:
        """Raises `OSError` when the process can open no further file."""
        self._closing = Lock()
        self._descriptor = os.dup(descriptor)

    def cut(self) -> None:
        """End the conversation, in both directions."""
        with self._closing:
            if self._descriptor < 0:
                return
            connection = socket.socket(fileno=self._descriptor)
            try:
                with suppress(OSError):  # the server was faster
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()

    def close(self) -> None:
        """Give the descriptor back. The connection itself is its owner's to close."""
        with self._closing:
            self._close()

    def __del__(self) -> None:
        # Without the lock: nothing else knows this object any more, and in a forked child the lock may never open.
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = getattr(self, "_descriptor", -1), -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)


class Deadlines:
    """The answers that are waited for, and a thread that cuts the lines of those that are overdue.

    The thread starts with the first wait and sleeps while there is none. Waits are mostly equally long, so it has to be
    woken only when it sleeps, or for one that is shorter.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked child, where there is no thread, and where the lines are those of the parent."""
        self._due: dict[Overdue, float] = {}
        self._changed = Condition()
        #: When the thread looks next; infinity while it sleeps, or while it is about to say so.
        self._looks_at = math.inf
        self._thread: Thread | None = None

    def begin(self, line: Overdue, seconds: float) -> None:
        """Cut the line in so many seconds, unless `end` is called before."""
        self._due[line] = due = time.monotonic() + seconds
        if due < self._looks_at:
            with self._changed:
                self._wake()

    def end(self, line: Overdue) -> None:
        self._due.pop(line, None)

    def has_cut(self, line: Overdue) -> bool:
        """Tell whether the line was cut since `begin`. Only before `end`."""
        return line not in self._due

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="deadlines", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        try:
            with self._changed:
                while True:
                    self._changed.wait(self._cut_overdue())
        finally:
            # However it ended, the next wait has to start another.
            self._thread, self._looks_at = None, math.inf

    def _cut_overdue(self) -> float | None:
        """Return the seconds until the next look, or None to sleep until woken."""
        # First, so that a wait that begins while this one counts wakes the thread instead of being missed.
        self._looks_at = math.inf
        now = time.monotonic()
        for line, due in list(self._due.items()):
            if due <= now and self._due.pop(line, None) is not None:
                line.cut()
        self._looks_at = min(list(self._due.values()), default=math.inf)
        return None if self._looks_at == math.inf else max(0.0, self._looks_at - now)


#: Those of this process.
deadlines = Deadlines()

os.register_at_fork(after_in_child=deadlines.forget)
