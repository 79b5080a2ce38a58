"""What begins and ends with the event loop, and how late the loop is."""

import asyncio
from typing import Any

from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import HTTP_LOOP_DELAY
from jobs_service.submission.intake import Intake

#: The time between two measurements. A stall is measured as soon as it is over, however long it was.
INTERVAL_SECONDS = 0.1

#: How long a stopping process waits for jobs that are being written. Their clients have gone: others were waited for.
CLOSE_SECONDS = 5.0


class Lifespan:
    """Middleware that Falcon tells of the start and the end of the event loop."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:  # noqa: ARG002
        _measure_again(asyncio.get_running_loop())

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:  # noqa: ARG002
        await self.intake.close(seconds=CLOSE_SECONDS)


def _measure_again(loop: asyncio.AbstractEventLoop) -> None:
    due = loop.time() + INTERVAL_SECONDS
    loop.call_at(due, _measure, loop, due)


def _measure(loop: asyncio.AbstractEventLoop, due: float) -> None:
    observations.add(HTTP_LOOP_DELAY.labels(), max(loop.time() - due, 0.0))
    _measure_again(loop)
