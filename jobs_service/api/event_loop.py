"""What begins and ends with the event loop, and how late the loop is."""

import asyncio
from contextlib import suppress
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
        self._measuring: asyncio.Task[None] | None = None

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:  # noqa: ARG002
        self.intake.open()
        self._measuring = asyncio.create_task(_measure())

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:  # noqa: ARG002
        if self._measuring:
            self._measuring.cancel()
            with suppress(asyncio.CancelledError):
                await self._measuring
        await self.intake.close(seconds=CLOSE_SECONDS)


async def _measure() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_SECONDS
        await asyncio.sleep(INTERVAL_SECONDS)
        observations.add(HTTP_LOOP_DELAY.labels(), loop.time() - due)
