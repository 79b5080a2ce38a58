"""Connections that the threads of a process share. A thread has one while its statement or transaction runs."""

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread, current_thread

import psycopg2

from jobs_service.database.deadlines import deadlines
from jobs_service.database.driver_errors import is_full
from jobs_service.database.sessions import Connection
from jobs_service.errors import DatabaseUnavailable

#: Seconds between two tries while the server has no connection left. It has no queue in which to wait.
PAUSE_SECONDS = 0.25


class Pool:
    """At most `size` connections, and with a reserve one more for statements that must not wait. Thread-safe."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        size: int,
        has_reserve: bool,
        idle_seconds: float,
        wait_seconds: float,
    ) -> None:
        """Connections unused for `idle_seconds` are closed. A thread waits at most `wait_seconds` for one."""
        self._connect = connect
        self._size = size
        self._has_reserve = has_reserve
        self._idle_seconds = idle_seconds
        self._wait_seconds = wait_seconds
        self._keeps = True
        self._changed = Condition()
        #: Each with the time since when it is idle. The last one used is taken next, so that the others can be closed.
        self._idle: list[tuple[Connection, float]] = []
        #: By thread, so that a thread which was interrupted in here and ended takes no place for ever.
        self._taken: set[Thread] = set()
        #: Counts the losses. Connections that were opened before the last one are not kept.
        self._generation = 0

    def shrink(self, size: int, *, keeps: bool) -> None:
        """Allow `size` connections from now on, and no reserve. Without `keeps`, close each when it is given back."""
        with self._changed:
            self._size, self._has_reserve, self._keeps = min(size, self._size), False, keeps

    def take(self, *, reserved: bool = False) -> Connection:
        """Return a connection for this thread, and wait for one where the server has none left.

        Raises `DatabaseUnavailable` when none is free in time, or what `connect` raises.
        """
        until = time.monotonic() + self._wait_seconds
        while True:
            kept = self._place(until, reserved=reserved)
            try:
                connection = kept or self._new()
            except BaseException as error:
                self.release()
                if not is_full(error) or time.monotonic() >= until:
                    raise
                self._wait(min(PAUSE_SECONDS, until - time.monotonic()))
            else:
                return connection

    def give_back(self, connection: Connection) -> None:
        """Keep the connection for the next thread that needs one."""
        connection.is_kept = True
        with self._changed:
            is_wanted = self._keeps and connection.generation == self._generation
            if is_wanted:
                self._idle.append((connection, time.monotonic()))
                self.release()
            is_only = len(self._idle) == 1
        if not is_wanted:
            # First, so that the server has room for the one that the next thread opens.
            connection.close()
            self.release()
        elif is_only:
            deadlines.begin(self, self._idle_seconds)

    def release(self) -> None:
        """Free this thread's place. Its connection is not kept."""
        with self._changed:
            self._taken.discard(current_thread())
            self._changed.notify()

    def clear(self) -> None:
        """Close the idle connections now, and those in use when they are given back."""
        with self._changed:
            idle, self._idle = self._idle, []
            self._generation += 1
        _close(idle)

    def expire(self) -> None:
        """Close what has been idle for `idle_seconds`. The thread of `deadlines` calls it."""
        oldest = time.monotonic() - self._idle_seconds
        with self._changed:
            gone = [(connection, since) for connection, since in self._idle if since <= oldest]
            self._idle = [(connection, since) for connection, since in self._idle if since > oldest]
            next_seconds = min((since for _, since in self._idle), default=None)
        _close(gone)
        if next_seconds is not None:
            deadlines.begin(self, next_seconds - oldest)

    def _place(self, until: float, *, reserved: bool) -> Connection | None:
        """Wait until this thread may have a connection. Return an idle one, None where it has to open one."""
        with self._changed:
            self._taken.discard(current_thread())
            while len(self._taken) >= self._size + (reserved and self._has_reserve):
                if time.monotonic() >= until:
                    raise DatabaseUnavailable(
                        "all database connections of this process are busy; see DATABASE_CONNECTIONS"
                    )
                self._changed.wait(until - time.monotonic())
                self._taken = {thread for thread in self._taken if thread.is_alive()}
            self._taken.add(current_thread())
            return self._idle.pop()[0] if self._idle else None

    def _new(self) -> Connection:
        generation = self._generation
        connection = self._connect()
        connection.generation = generation
        return connection

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)


def _close(idle: list[tuple[Connection, float]]) -> None:
    for connection, _ in idle:
        with suppress(psycopg2.Error):
            connection.close()
