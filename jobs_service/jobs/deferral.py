"""How long a job waits for what is away: until its next attempt, and in all."""

import random
from dataclasses import dataclass
from typing import Self

from jobs_service.config import Settings

#: The waits differ by so much, so that jobs which failed together do not come back together.
_JITTER = 0.2

#: 2 to the power of this is beyond every limit.
_MAX_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Deferral:
    """Durations in seconds. The settings of the same names, beginning with DEFER, say more."""

    first_seconds: float = 4.0
    max_seconds: float = 3_600.0
    limit_seconds: float = 432_000.0
    probe_seconds: float = 300.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            first_seconds=settings.defer_seconds,
            max_seconds=settings.defer_max_seconds,
            limit_seconds=settings.defer_limit_seconds,
            probe_seconds=settings.defer_probe_seconds,
        )

    def delay_seconds(self, deferrals: int) -> float:
        """Return the wait after so many others in a row: each is about twice as long as the one before."""
        grown = min(self.first_seconds * 2.0 ** min(deferrals, _MAX_DOUBLINGS), self.max_seconds)
        factor: float = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - not a secret
        return grown * factor
