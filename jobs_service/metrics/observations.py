"""What histograms are to observe: noted in memory, and written to their files once a second, summed up.

An observation is two writes behind a lock that all threads of a process share, and a job is observed seven times. A
killed process loses what it had not written yet, at most a second of observations. Counters are written at once.
"""

import atexit
import os
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any

INTERVAL_SECONDS = 1.0

#: A bound for a process whose thread has no time: many seconds of the highest rate.
MAX_PENDING = 200_000

_pending: deque[tuple[Any, float]] = deque(maxlen=MAX_PENDING)
_writing = Lock()
_never = Event()


class _Writer:
    """The process that has a thread: a fork copies none."""

    pid = 0


def add(series: Any, value: float) -> None:  # noqa: ANN401 - a histogram of prometheus-client, or a child of one
    """Note an observation. Starts this process's thread if it has none yet."""
    _pending.append((series, value))
    if _Writer.pid != os.getpid():
        _start()


def write() -> None:
    """Write what was noted. The thread does; call it before a process ends."""
    with _writing:
        noted: defaultdict[Any, list[float]] = defaultdict(list)
        for _ in range(len(_pending)):
            series, value = _pending.popleft()
            noted[series].append(value)
        for series, observed in noted.items():
            _write(series, observed)


def _write(series: Any, observed: list[float]) -> None:  # noqa: ANN401 - as above
    """Do what `observe` does once for each value, with one write for all that fall into a bucket."""
    series._sum.inc(sum(observed))  # noqa: SLF001 - prometheus-client has no such method
    for bucket, count in Counter(bisect_left(series._upper_bounds, value) for value in observed).items():  # noqa: SLF001
        series._buckets[bucket].inc(count)  # noqa: SLF001


def _start() -> None:
    with _writing:
        if _Writer.pid != os.getpid():
            _Writer.pid = os.getpid()
            Thread(target=_run, name="observations", daemon=True).start()


def _run() -> None:
    while not _never.wait(INTERVAL_SECONDS):
        # Whatever went wrong with these, the next ones are to be written.
        with suppress(Exception):
            write()


atexit.register(write)
