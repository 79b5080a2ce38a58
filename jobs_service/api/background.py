"""What the event loop has read again and again in a thread, so that no request waits for it."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

from structlog.stdlib import get_logger

from jobs_service.api.threads import Threads

log = get_logger(module=__name__)


class Refresher:
    """Middleware without a part in requests: calls `refresh` in a thread of its own while the event loop runs."""

    def __init__(self, refresh: Callable[[], None], *, interval_seconds: float) -> None:
        """`interval_seconds` lie between the end of a call and the next one."""
        self.interval_seconds = interval_seconds
        self._refresh = refresh
        self._threads = Threads(1)
        self._call: asyncio.Task[None] | None = None
        self._repeating: asyncio.Task[None] | None = None

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:  # noqa: ARG002
        self._repeating = asyncio.create_task(self._repeat())

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:  # noqa: ARG002
        for task in (self._repeating, self._call):
            if task is not None:
                task.cancel()

    async def finished(self) -> None:
        """Wait for the call that is under way, or else for one that begins now."""
        loop = asyncio.get_running_loop()
        if self._call is None or self._call.done() or self._call.get_loop() is not loop:
            # In no request's context: neither its log fields nor its trace.
            self._call = loop.create_task(self._run(), context=Context())
        # Others wait for the same call.
        await asyncio.shield(self._call)

    async def _repeat(self) -> None:
        while True:
            await self.finished()
            await asyncio.sleep(self.interval_seconds)

    async def _run(self) -> None:
        try:
            await self._threads.run(self._refresh)
        except Exception:
            log.exception("What requests need could not be read again")
