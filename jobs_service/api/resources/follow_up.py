"""Finds out what came of a call whose reply from PostgreSQL was lost. Its client has been told 503 and has left."""

import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from threading import Lock, Thread
from typing import TypeVar

from jobs_service.errors import DatabaseUnavailable
from jobs_service.jobs.lifecycle import Unheard
from jobs_service.observability.logs import get_logger

log = get_logger(__name__)

#: A call is asked again for so long. The client was told 503: carried out later than that, it would be a surprise.
FOLLOW_UP_SECONDS = 60.0

_PAUSE_SECONDS = 0.5

T = TypeVar("T")


class FollowUp:
    """Asks again in a thread, there only while there is something to ask: the transition is told of, and only once."""

    def __init__(self) -> None:
        #: What is to be asked, and until when.
        self._calls: deque[tuple[Callable[[], object], float]] = deque()
        self._lock = Lock()
        self._asks = False

    def call(self, ask: Callable[[], T], unheard: Unheard) -> T:
        """Return what `ask` returns. Where it leaves something `unheard`, it is asked once more on another connection.

        If that is not heard of either, this raises `DatabaseUnavailable`, and goes on to ask.
        """
        try:
            return ask()
        except DatabaseUnavailable:
            if unheard.names is None:
                raise
        try:
            return ask()
        except DatabaseUnavailable:
            # What it will have to say belongs to this request.
            context = copy_context()
            self._follow(lambda: context.run(ask))
            raise

    def _follow(self, ask: Callable[[], object]) -> None:
        with self._lock:
            self._calls.append((ask, time.monotonic() + FOLLOW_UP_SECONDS))
            is_first, self._asks = not self._asks, True
        if is_first:
            Thread(target=self._run, name="follow-up", daemon=True).start()

    def _run(self) -> None:
        while call := self._next():
            self._ask_again(*call)

    def _next(self) -> tuple[Callable[[], object], float] | None:
        with self._lock:
            self._asks = bool(self._calls)
            return self._calls.popleft() if self._calls else None

    def _ask_again(self, ask: Callable[[], object], until: float) -> None:
        try:
            ask()
        except DatabaseUnavailable as error:
            if time.monotonic() < until:
                time.sleep(_PAUSE_SECONDS)
                self._calls.append((ask, until))
            else:
                log.warning("Outcome of a call unknown; look at the job", error=str(error))
        except Exception:
            log.exception("Call not followed up")
