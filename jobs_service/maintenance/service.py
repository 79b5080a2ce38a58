"""What a maintenance service is: something to do once, and how often."""

from abc import ABC, abstractmethod


class Service(ABC):
    """One chore. `leader.Maintenance` calls `run_once` in the leader, about every `interval_seconds`."""

    name: str
    interval_seconds: float
    #: Seconds after an election before the first run.
    delay_seconds: float = 0

    def begin(self) -> None:  # noqa: B027 - most services keep nothing from an earlier time as leader
        """Be told that this process has just become the leader."""

    @abstractmethod
    def run_once(self) -> dict[str, int]:
        """Do what is to be done now and return what was done, as counts. Idempotent, and bounded in time.

        Raises `DatabaseUnavailable` or `BrokerUnavailable`; the next run tries again.
        """
