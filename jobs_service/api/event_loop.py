"""Measures how late the event loop is."""

import asyncio
from typing import Any

from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import HTTP_LOOP_DELAY

#: The time between two measurements. A stall is measured as soon as it is over, however long it was.
INTERVAL_SECONDS = 0.1


class LoopDelay:
    """Measures the event loop from the start of the application. Falcon's middleware is told of the start."""

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:  # noqa: ARG002
        self._measure_again(asyncio.get_running_loop())

    def _measure_again(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + INTERVAL_SECONDS
        loop.call_at(due, self._measure, loop, due)

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        observations.add(HTTP_LOOP_DELAY.labels(), max(loop.time() - due, 0.0))
        self._measure_again(loop)
