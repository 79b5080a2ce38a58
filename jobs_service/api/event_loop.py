"""What begins and ends with the event loop, and how late the loop is."""

import asyncio
from collections.abc import Callable
from typing import Any

from falcon.asgi import Request, Response

from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import HTTP_LOOP_DELAY
from jobs_service.submission.intake import Intake

#: The time between two measurements. A stall is measured as soon as it is over, however long it was.
INTERVAL_SECONDS = 0.1
#: The same while there are no requests, so that an idle process hardly wakes up.
IDLE_INTERVAL_SECONDS = 1.0

#: How long a stopping process waits for jobs that are being written. Their clients have gone: others were waited for.
CLOSE_SECONDS = 5.0


#: What to call when the process is told to stop, while its connections are still open.
_at_stop: list[Callable[[], None]] = []


def at_stop(call: Callable[[], None]) -> None:
    """Have `call` called in the event loop when the process is told to stop."""
    _at_stop.append(call)


def begin_stop() -> None:
    """End what would keep connections open. Idempotent."""
    for call in _at_stop:
        call()


class Lifespan:
    """Middleware that Falcon calls at the start and the end of the event loop."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        #: Whether a request has come since the last measurement.
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:  # noqa: ARG002
        self.intake.open()
        self._plan(asyncio.get_running_loop())

    async def process_request(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        self._is_busy = True

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:  # noqa: ARG002
        if self._timer:
            self._timer.cancel()
        await self.intake.close(seconds=CLOSE_SECONDS)

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + (INTERVAL_SECONDS if self._is_busy else IDLE_INTERVAL_SECONDS)
        self._is_busy = False
        self._timer = loop.call_at(due, self._measure, loop, due)

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        observations.add(HTTP_LOOP_DELAY.labels(), loop.time() - due)
        self._plan(loop)
