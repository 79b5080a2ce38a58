"""Finds out the result of a call whose reply from PostgreSQL was lost, after its client was answered with 503."""

import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from threading import Lock, Thread
from typing import TypeVar

from structlog.stdlib import get_logger

from jobs_service.errors import DatabaseUnavailable
from jobs_service.jobs.lifecycle import LostReply

log = get_logger(module=__name__)

#: How long a call is repeated. Its client got 503, and would not expect the call to take effect later than this.
FOLLOW_UP_SECONDS = 60.0

_PAUSE_SECONDS = 0.5

T = TypeVar("T")


class FollowUp:
    """Repeats calls in a thread until they succeed, so that each transition is announced exactly once.

    The thread only runs while there are calls to repeat.
    """

    def __init__(self) -> None:
        #: The calls to repeat, each with the monotonic time at which to give up.
        self._calls: deque[tuple[Callable[[], object], float]] = deque()
        self._lock = Lock()
        self._is_running = False

    def call(self, ask: Callable[[], T], lost_reply: LostReply) -> T:
        """Return what `ask` returns. If its reply was lost (`lost_reply`), call it once more, on another connection.

        If that fails too, raise `DatabaseUnavailable`, and repeat the call in the background.
        """
        try:
            return ask()
        except DatabaseUnavailable:
            if lost_reply.parameters is None:
                raise
        try:
            return ask()
        except DatabaseUnavailable:
            # Its log lines and events belong to this request.
            context = copy_context()
            self._follow(lambda: context.run(ask))
            raise

    def _follow(self, ask: Callable[[], object]) -> None:
        with self._lock:
            self._calls.append((ask, time.monotonic() + FOLLOW_UP_SECONDS))
            is_first, self._is_running = not self._is_running, True
        if is_first:
            Thread(target=self._run, name="follow-up", daemon=True).start()

    def _run(self) -> None:
        while call := self._next():
            self._ask_again(*call)

    def _next(self) -> tuple[Callable[[], object], float] | None:
        with self._lock:
            self._is_running = bool(self._calls)
            return self._calls.popleft() if self._calls else None

    def _ask_again(self, ask: Callable[[], object], until: float) -> None:
        try:
            ask()
        except DatabaseUnavailable as error:
            if time.monotonic() < until:
                time.sleep(_PAUSE_SECONDS)
                self._calls.append((ask, until))
            else:
                log.warning("Result of a call is unknown; look at the job", error=str(error))
        except Exception:
            log.exception("Call could not be repeated")
