"""Dramatiq's `TimeLimit`, without the moment in which its exception can hit something other than the actor."""

from time import monotonic
from typing import Any

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import TimeLimit, TimeLimitExceeded
from dramatiq.middleware.threading import raise_thread_exception

from jobs_service.worker.attempt import withdraw_exception

#: Set on the message of an attempt that runs in a process of its own.
ISOLATED_OPTION = "isolated"


class StrictTimeLimit(TimeLimit):
    """Interrupts the actor, never a hook.

    Upstream collects the overdue threads under its lock and raises in them after releasing it. An actor that ends in
    between is hit later, in a hook: that loses the verdict and can end the worker thread (dramatiq 2.2.1).
    """

    def __init__(self, *, time_limit: float, interval: int = 1000) -> None:
        super().__init__(time_limit=time_limit, interval=interval)
        #: When upstream's thread last looked at the deadlines, by the monotonic clock.
        self.last_turn = monotonic()
        manager: Any = self.manager
        manager.name = "time limits"
        manager._handle_deadlines = self._look  # noqa: SLF001 - upstream's own thread calls it

    def is_alive(self) -> bool:
        manager: Any = self.manager
        return bool(manager.is_alive())

    def _look(self) -> None:
        self.last_turn = monotonic()
        _interrupt_overdue(self.manager)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        # A suspect's time limit begins once its process is ready (isolation/parent.py).
        if not message.options.get(ISOLATED_OPTION):
            super().before_process_message(broker, message)

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: object = None, exception: BaseException | None = None
    ) -> None:
        # Behind the lock, the exception has either been raised in this thread or never will be.
        try:
            super().after_process_message(broker, message, result=result, exception=exception)
            withdraw_exception()
        except TimeLimitExceeded:
            # The actor had just ended: its own outcome counts.
            withdraw_exception()

    after_skip_message = after_process_message


def _interrupt_overdue(manager: Any) -> None:  # noqa: ANN401 - upstream's manager has no public type
    now = monotonic()
    with manager.mu:
        for thread_id, deadline in manager.deadlines.items():
            if deadline and now >= deadline:
                manager.deadlines[thread_id] = None
                raise_thread_exception(thread_id, TimeLimitExceeded)
