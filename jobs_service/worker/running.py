"""The attempts that this process is making, and how a thread interrupts the code of another's."""

import ctypes
from collections.abc import Callable, Collection, Iterator
from threading import Lock, get_ident
from typing import TypeVar
from uuid import UUID

from dramatiq.middleware.threading import Interrupt, raise_thread_exception

from jobs_service.worker.attempt import Cancelled, RunningAttempt

T = TypeVar("T")


class RunningAttempts:
    """The attempts of this process by lease token, from the claim until the verdict is written. Thread-safe."""

    def __init__(self) -> None:
        self._by_token: dict[UUID, RunningAttempt] = {}
        #: The attempts whose code runs, by thread. Under the lock, so that no interrupt comes too late, in a hook.
        self._interruptible: dict[int, RunningAttempt] = {}
        self._lock = Lock()

    def __iter__(self) -> Iterator[RunningAttempt]:
        """Iterate over the attempts of this moment, whatever begins or ends meanwhile."""
        return iter(list(self._by_token.values()))

    def add(self, running: RunningAttempt) -> None:
        self._by_token[running.claim.token] = running

    def remove(self, running: RunningAttempt) -> None:
        self._by_token.pop(running.claim.token, None)

    def tokens(self) -> list[UUID]:
        return list(self._by_token)

    def interruptible(self, running: RunningAttempt, function: Callable[[], T]) -> T:
        """Return what `function` returns or raise what it raises; raise `Cancelled` once the lease is known to be gone.

        To be called in the thread that makes the attempt.
        """
        with self._lock:
            self._interruptible[get_ident()] = running
        try:
            return function()
        finally:
            self._leave()

    def returned(self, running: RunningAttempt) -> None:
        """Note that the job's function has ended: interrupt nothing in this thread any more."""
        # It was taken off the list when its function ended, unless an interrupt hit `_leave` before its first line.
        with self._lock:
            self._interruptible.pop(get_ident(), None)
        running.has_returned = True

    def held(self) -> dict[UUID, UUID]:
        """Return the leases under which code runs, each with its job's id."""
        with self._lock:
            return {running.claim.token: running.claim.job_id for running in self._interruptible.values()}

    def leave_alone(self) -> None:
        """Interrupt no attempt any more: this process ends, and releases its leases itself."""
        with self._lock:
            self._interruptible.clear()

    def cancel(self, leases: Collection[UUID]) -> None:
        """Interrupt the attempts that had these leases, each once.

        A suspect is not interrupted: the thread that waits for its process sees `is_cancelled` and ends the process.
        """
        with self._lock:
            for thread_id, running in self._interruptible.items():
                if running.claim.token in leases and not running.is_cancelled:
                    running.is_cancelled = True
                    if not running.is_suspect:
                        raise_thread_exception(thread_id, Cancelled)

    def _leave(self) -> None:
        while True:
            try:
                with self._lock:
                    self._interruptible.pop(get_ident(), None)
                # Behind the lock, the exception has either been raised in this thread or never will be.
                withdraw_exception()
            except Interrupt:
                continue  # the code had just ended: its own outcome counts
            return


def withdraw_exception() -> None:
    """Withdraw an exception that was set for this thread and not yet raised (PyThreadState_SetAsyncExc with NULL)."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(get_ident()), None)
