"""A read that costs the same for every caller, shared by those who ask at the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")

#: A result is kept for so many times as long as it took, if it took longer than so many seconds. So however often it is
#: asked for, the reads take little of PostgreSQL's time. It is kept for at most so many seconds. For as long again,
#: callers get it while it is read anew: only the first ones, and those after a long pause, wait for a slow read.
KEPT_TIMES = 20
QUICK_SECONDS = 0.05
MAX_KEPT_SECONDS = 10.0


class SharedRead(Generic[Result]):
    """Calls `read` for all who wait at the same time, and keeps the result of a slow one for a while."""

    def __init__(self, read: Callable[[], Awaitable[Result]]) -> None:
        self._read = read
        self._task: asyncio.Task[Result] | None = None
        self._last: tuple[Result] | None = None
        self._kept_until = 0.0
        self._shown_until = 0.0

    async def get(self) -> Result:
        """Return the result. No caller's end interrupts the read for the others."""
        now = time.monotonic()
        if self._task is None or (self._task.done() and now >= self._kept_until):
            self._task = asyncio.create_task(self._timed())
            # An error is told to those who wait. If nobody does, it is told to the next one who asks.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        if self._last is not None and now < self._shown_until and not self._task.done():
            return self._last[0]
        return await asyncio.shield(self._task)

    async def _timed(self) -> Result:
        began = time.monotonic()
        try:
            result = await self._read()
        except Exception:
            self._last = None
            raise
        now = time.monotonic()
        seconds = now - began
        kept = min(KEPT_TIMES * seconds, MAX_KEPT_SECONDS) if seconds > QUICK_SECONDS else 0.0
        self._last, self._kept_until, self._shown_until = (result,), now + kept, now + 2 * kept
        return result
