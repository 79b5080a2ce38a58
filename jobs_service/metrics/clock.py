"""PostgreSQL's clock, compared with this process's own: it decides what is due, so a step of it is told."""

import time
from collections.abc import Callable

from jobs_service.metrics import catalogue as metrics
from jobs_service.observability.logs import get_logger

log = get_logger(__name__)

#: A step is told from this many seconds on: less is what adjusting a clock looks like.
STEP_SECONDS = 1.0

#: Seconds without an answer after which PostgreSQL is asked for its time again.
ASK_AGAIN_SECONDS = 600.0

#: Seconds a second by which two clocks may drift apart: far more than they do.
DRIFT = 0.0001

#: For so many comparisons a process that does not lead keeps a step in mind: a step may cost the leader its lease, and
#: whoever follows is to tell of it.
KEPT_COMPARISONS = 3


def steady_seconds() -> float:
    """Return a clock that nobody sets and that goes on while the machine sleeps, where there is one (Linux)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def measure_offset(
    database_seconds: float, *, asked_at: float, answered_at: float, wall: Callable[[], float] = time.time
) -> None:
    """Note how far this process's wall clock is off PostgreSQL's, which was read between two moments.

    The moments are of `steady_seconds`; the answer has just come.
    """
    metrics.CLOCK_OFFSET.labels().set(wall() - database_seconds - (answered_at - asked_at) / 2)


class DatabaseTime:
    """What time it is in PostgreSQL, without asking: from what its answers said, by a steady clock since then.

    An answer takes its time, so each leaves a least and a most that PostgreSQL may be ahead of the steady clock; the
    answers together leave less. Thread-safe.
    """

    def __init__(self, ask: Callable[[], float], *, steady: Callable[[], float] = steady_seconds) -> None:
        """`ask` returns what PostgreSQL's clock says now. It is asked once, and again after a time without answers."""
        self._ask = ask
        self._steady = steady
        #: When it was learnt, by the steady clock; the least and the most that PostgreSQL's clock is ahead of it.
        self._known: tuple[float, float, float] | None = None

    def now(self) -> float:
        """Return Unix seconds, off by half the time of the quickest answer at most. Raises what `ask` raises."""
        if self._known is None or self._steady() - self._known[0] > ASK_AGAIN_SECONDS:
            asked_at = self._steady()
            self.learn(self._ask(), asked_at=asked_at, answered_at=self._steady())
        _, least, most = self._known or (0.0, 0.0, 0.0)
        return self._steady() + (least + most) / 2

    def learn(self, database_seconds: float, *, asked_at: float, answered_at: float) -> None:
        """Take in what PostgreSQL's clock said between two moments of the steady clock."""
        least, most = database_seconds - answered_at, database_seconds - asked_at
        if self._known is not None:
            at, low, high = self._known
            drift = abs(answered_at - at) * DRIFT
            narrowed = max(least, low - drift), min(most, high + drift)
            # Where the two have nothing in common, a clock was set or another server answers: the new one counts.
            least, most = narrowed if narrowed[0] <= narrowed[1] else (least, most)
        self._known = answered_at, least, most


class DatabaseClock:
    """Notices steps of PostgreSQL's clock, and measures how far this process's wall clock is off it."""

    def __init__(self, *, leads: Callable[[], bool], wall: Callable[[], float] = time.time) -> None:
        """The one process for which `leads` is true tells of steps."""
        self._leads = leads
        self._wall = wall
        #: The least and the most that PostgreSQL's clock may be ahead of the steady one: an answer takes its time.
        self._ahead: tuple[float, float] | None = None
        self._untold_seconds = 0.0
        self._comparisons_left = 0

    def compare(self, database_seconds: float, *, asked_at: float, answered_at: float) -> None:
        """Take in what PostgreSQL's clock said between two moments of `steady_seconds`."""
        measure_offset(database_seconds, asked_at=asked_at, answered_at=answered_at, wall=self._wall)
        step = self._step_to(database_seconds - answered_at, database_seconds - asked_at)
        if abs(step) > STEP_SECONDS:
            self._untold_seconds += step
            self._comparisons_left = KEPT_COMPARISONS
        if self._untold_seconds and self._leads():
            self._tell()
        self._comparisons_left -= 1
        if self._comparisons_left <= 0:
            self._untold_seconds = 0.0

    def _step_to(self, least: float, most: float) -> float:
        """Return the seconds by which the clock has certainly stepped since the last comparison."""
        before, self._ahead = self._ahead, (least, most)
        if before is None:
            return 0.0
        return max(0.0, least - before[1]) + min(0.0, most - before[0])

    def _tell(self) -> None:
        seconds, self._untold_seconds = round(self._untold_seconds, 1), 0.0
        metrics.CLOCK_STEPS.labels().inc()
        log.warning("PostgreSQL's clock was set: what is due, and in which order, goes by it", seconds=seconds)
