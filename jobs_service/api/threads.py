"""Threads for what would block the event loop: statements, commands of Redis, and long calculations."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from threading import BoundedSemaphore
from typing import ParamSpec, TypeVar

from jobs_service.errors import TooBusy

#: The calls that may wait for a thread. Further ones are refused, instead of being answered when nobody waits any more.
MAX_WAITING = 256

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Threads:
    """A few threads of one process. They start with the first calls."""

    def __init__(self, count: int, *, max_waiting: int = MAX_WAITING) -> None:
        # The threads' name is also that of their connections in pg_stat_activity.
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="request")
        self._places = BoundedSemaphore(count + max_waiting)

    async def run(
        self, call: Callable[Parameters, Result], *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Result:
        """Return what `call` returns, in the context of the caller: its log fields and its span.

        A call goes on when its caller is cancelled. Raises `TooBusy` if too many calls wait.
        """
        if not self._places.acquire(blocking=False):
            raise TooBusy("too many requests wait for a thread")
        future = self._executor.submit(partial(copy_context().run, call, *arguments, **named))
        # Also for a call that is cancelled before it began.
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)
