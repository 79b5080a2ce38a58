"""How long a deferred job waits for an unavailable server: until its next attempt, and in total."""

import random
from dataclasses import dataclass
from typing import Self

from jobs_service.config import Settings

#: Each wait is varied by up to this ratio, so that jobs which failed together do not return together.
_JITTER = 0.2

#: 2 ** 32 seconds is beyond every limit.
_MAX_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Deferral:
    """Durations in seconds, from the settings whose names begin with DEFER_."""

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
        """Return the wait after this number of deferrals in a row. Each wait is about twice the one before."""
        grown = min(self.first_seconds * 2.0 ** min(deferrals, _MAX_DOUBLINGS), self.max_seconds)
        factor: float = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - not a secret
        return grown * factor
