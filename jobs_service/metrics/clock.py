"""Compares PostgreSQL's clock with this process's. PostgreSQL's decides which jobs are due, so steps are reported."""

import time
from collections.abc import Callable

from structlog.stdlib import get_logger

from jobs_service.metrics import catalogue as metrics

log = get_logger(module=__name__)

#: A change of more than this many seconds is reported as a step. Clock adjustment (NTP slewing) changes less.
STEP_SECONDS = 1.0

#: Seconds after PostgreSQL's last known time at which it is asked again.
ASK_AGAIN_SECONDS = 600.0

#: Seconds per second by which two clocks may drift apart: far more than they do.
DRIFT = 0.0001

#: The number of comparisons for which a process that is not the leader remembers a step. The step may cost the leader
#: its lease, and then the next leader reports it.
KEPT_COMPARISONS = 3


def steady_seconds() -> float:
    """Return a monotonic time that, on Linux, also advances while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def measure_offset(
    database_seconds: float, *, asked_at: float, answered_at: float, wall: Callable[[], float] = time.time
) -> None:
    """Set the metric of how far this process's wall clock is ahead of PostgreSQL's.

    `database_seconds` was read between the two times, which are of `steady_seconds`; the answer has just arrived.
    """
    metrics.CLOCK_OFFSET.labels().set(wall() - database_seconds - (answered_at - asked_at) / 2)


class DatabaseTime:
    """Computes PostgreSQL's present time from earlier answers and a steady clock, without a statement.

    An answer takes some time, so each gives a lower and an upper bound of PostgreSQL's offset from the steady clock.
    Several answers narrow the bounds. Thread-safe.
    """

    def __init__(self, ask: Callable[[], float], *, steady: Callable[[], float] = steady_seconds) -> None:
        """`ask` returns PostgreSQL's time. It is called once, and again after `ASK_AGAIN_SECONDS` without an answer."""
        self._ask = ask
        self._steady = steady
        #: The steady time of the last answer, and the bounds of PostgreSQL's offset from the steady clock.
        self._known: tuple[float, float, float] | None = None

    def now(self) -> float:
        """Return Unix seconds. The error is at most half the time of the fastest answer. Raises what `ask` raises."""
        while (seconds := self.estimate()) is None:
            asked_at = self._steady()
            self.learn(self._ask(), asked_at=asked_at, answered_at=self._steady())
        return seconds

    def estimate(self) -> float | None:
        """Return Unix seconds like `now`, but None where PostgreSQL has to be asked."""
        steady = self._steady()
        if self._known is None or steady - self._known[0] > ASK_AGAIN_SECONDS:
            return None
        _, least, most = self._known
        return steady + (least + most) / 2

    def learn(self, database_seconds: float, *, asked_at: float, answered_at: float) -> None:
        """Use PostgreSQL's time, read between two times of the steady clock."""
        least, most = database_seconds - answered_at, database_seconds - asked_at
        if self._known is not None:
            at, low, high = self._known
            drift = abs(answered_at - at) * DRIFT
            narrowed = max(least, low - drift), min(most, high + drift)
            # If the bounds do not overlap, a clock was set or another server answers: use the new ones.
            least, most = narrowed if narrowed[0] <= narrowed[1] else (least, most)
        self._known = answered_at, least, most


class DatabaseClock:
    """Detects steps of PostgreSQL's clock, and measures how far this process's wall clock is ahead of it."""

    def __init__(self, *, leads: Callable[[], bool], wall: Callable[[], float] = time.time) -> None:
        """Only the process for which `leads` returns true reports steps."""
        self._leads = leads
        self._wall = wall
        #: The bounds of PostgreSQL's offset from the steady clock, since an answer takes some time.
        self._ahead: tuple[float, float] | None = None
        self._unreported_seconds = 0.0
        self._comparisons_left = 0

    def compare(self, database_seconds: float, *, asked_at: float, answered_at: float) -> None:
        """Compare PostgreSQL's time, read between two times of `steady_seconds`, with the earlier ones."""
        measure_offset(database_seconds, asked_at=asked_at, answered_at=answered_at, wall=self._wall)
        step = self._step_to(database_seconds - answered_at, database_seconds - asked_at)
        if abs(step) > STEP_SECONDS:
            self._unreported_seconds += step
            self._comparisons_left = KEPT_COMPARISONS
        if self._unreported_seconds and self._leads():
            self._report()
        self._comparisons_left -= 1
        if self._comparisons_left <= 0:
            self._unreported_seconds = 0.0

    def _step_to(self, least: float, most: float) -> float:
        """Return by how many seconds, at least, the clock has stepped since the last comparison."""
        before, self._ahead = self._ahead, (least, most)
        if before is None:
            return 0.0
        return max(0.0, least - before[1]) + min(0.0, most - before[0])

    def _report(self) -> None:
        seconds, self._unreported_seconds = round(self._unreported_seconds, 1), 0.0
        metrics.CLOCK_STEPS.labels().inc()
        log.warning("PostgreSQL's clock was set; it decides which jobs are due, and in which order", seconds=seconds)
