"""Calls of several threads that share a statement and its commit."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

from jobs_service.errors import DatabaseUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Calls in one statement at most. More than a process has threads.
MAX_ITEMS = 256


class Batch(Generic[Item, Result]):
    """Carries out the calls of many threads, and together those that wait at the same time.

    A call runs at once and alone when no other is running, so no call waits for others to join. Calls that arrive while
    it runs are carried out together by the first of them. There is no timer and no thread of its own.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        """`run` gets the items and returns their results in the same order. It must be safe to run twice."""
        self._run = run
        self._lock = Lock()
        self._waiting: list[_Call[Item, Result]] = []
        self._busy = False

    def __call__(self, item: Item) -> Result:
        """Return the result for `item`, or raise what `run` raised for it."""
        call = _Call[Item, Result](item)
        with self._lock:
            self._waiting.append(call)
            leads, self._busy = not self._busy, True
        if leads or call.wait():
            self._lead()
        return call.outcome()

    def _lead(self) -> None:
        with self._lock:
            calls, self._waiting = self._waiting[:MAX_ITEMS], self._waiting[MAX_ITEMS:]
        try:
            self._carry_out(calls)
        finally:
            self._hand_over()
            for call in calls:
                call.done()

    def _carry_out(self, calls: "Sequence[_Call[Item, Result]]") -> None:
        try:
            results = self._run([call.item for call in calls])
        except DatabaseUnavailable as error:
            for call in calls:
                call.error = error
        except Exception as error:  # noqa: BLE001 - it belongs to the caller, in whose thread it is raised again
            self._carry_out_singly(calls, error)
        else:
            for call, result in zip(calls, results, strict=True):
                call.results = [result]

    def _carry_out_singly(self, calls: "Sequence[_Call[Item, Result]]", error: Exception) -> None:
        """One bad item must not make the others fail."""
        if len(calls) == 1:
            calls[0].error = error
        else:
            for call in calls:
                self._carry_out([call])

    def _hand_over(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].lead()
            else:
                self._busy = False


class _Call(Generic[Item, Result]):
    """One thread's call. A plain lock is the cheapest object that a thread can wait for once."""

    __slots__ = ("_leads", "_wake", "error", "item", "results")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.results: list[Result] = []
        self.error: Exception | None = None
        self._leads = False
        self._wake = Lock()
        self._wake.acquire()

    def wait(self) -> bool:
        """Wait for the result. True: this thread has to carry out the waiting calls instead."""
        self._wake.acquire()
        return self._leads

    def lead(self) -> None:
        self._leads = True
        self._wake.release()

    def done(self) -> None:
        # The thread that leads is awake already.
        if not self._leads:
            self._wake.release()

    def outcome(self) -> Result:
        if self.error is not None:
            raise self.error
        if not self.results:
            raise DatabaseUnavailable("the thread that carried out this call was interrupted")
        return self.results[0]
