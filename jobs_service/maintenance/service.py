"""What a maintenance service is: something to do once, and how often."""

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
        """`fence` is the leader's token; `is_cut_short` tells that the process stops, or leads no more."""
        self.fence = fence
        self._ends_at = time.monotonic() + seconds
        self._is_cut_short = is_cut_short
        #: The next run is to be so soon, or after the service's interval if that is sooner.
        self.next_seconds = math.inf

    @property
    def is_over(self) -> bool:
        """Whether to leave the rest to the next run. To be asked between two batches."""
        return time.monotonic() >= self._ends_at or self._is_cut_short()

    def again(self, seconds: float = 0.0) -> None:
        """Ask for the next run so soon. By default at once, which is after all others that are due."""
        self.next_seconds = min(self.next_seconds, seconds)


class Service(ABC):
    """One chore. `leader.Maintenance` calls `run_once` in the leader, about every `interval_seconds`."""

    name: str
    interval_seconds: float

    @property
    def slack_seconds(self) -> float:
        """How long a run that is due may wait for others. The one that can wait the least comes first."""
        return self.interval_seconds

    @abstractmethod
    def run_once(self, turn: Turn) -> dict[str, int]:
        """Do what is to be done now and return what was done, as counts. Idempotent.

        Ends soon after the turn is over, and asks for another one if something is left. Each write carries its fence.
        Raises `DatabaseUnavailable` or `BrokerUnavailable`; the next run tries again.
        """
