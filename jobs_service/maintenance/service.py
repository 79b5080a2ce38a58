"""What a maintenance service is: a piece of work, and how often it is done."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable


class Turn:
    """The time a service has for one run, and the lease under which it writes."""

    def __init__(
        self,
        *,
        fence: int | None = None,
        seconds: float = math.inf,
        is_cut_short: Callable[[], bool] = lambda: False,
    ) -> None:
        """`fence` is the leader's token; `is_cut_short` returns whether the process stops or has lost the lease."""
        self.fence = fence
        self._ends_at = time.monotonic() + seconds
        self._is_cut_short = is_cut_short
        #: Seconds until the next run, if that is sooner than the service's interval.
        self.next_seconds = math.inf

    @property
    def is_over(self) -> bool:
        """Whether to leave the rest to the next run. Services check it between two batches."""
        return time.monotonic() >= self._ends_at or self._is_cut_short()

    def again(self, seconds: float = 0.0) -> None:
        """Have the next run after so many seconds. By default at once, behind the other services that are due."""
        self.next_seconds = min(self.next_seconds, seconds)


class Service(ABC):
    """One task of maintenance. `leader.Maintenance` calls `run_once` in the leader, about every `interval_seconds`."""

    name: str
    interval_seconds: float

    @property
    def slack_seconds(self) -> float:
        """How long a run that is due may wait for others. The service that can wait the least runs first."""
        return self.interval_seconds

    @abstractmethod
    def run_once(self, turn: Turn) -> dict[str, int]:
        """Do the work that is due and return what was done, as counts by name. Idempotent.

        Returns soon after the turn is over, and calls `turn.again` if work is left. Each write names the turn's fence.
        Raises `DatabaseUnavailable`, `BrokerUnavailable` or, for the store of files, `Unavailable`; the next run tries
        again.
        """
