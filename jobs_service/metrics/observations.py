"""Collects histogram observations in memory and writes their sums to the value files once a second.

An observation is two writes behind a lock that all threads of a process share, and each job has seven observations. A
killed process loses those it had not written, at most those of one second. Counters are written at once.
"""

import atexit
import os
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any

INTERVAL_SECONDS = 1.0

#: A limit in case the writing thread gets no CPU time: many seconds of observations at the highest rate.
MAX_PENDING = 200_000

_pending: deque[tuple[Any, float]] = deque(maxlen=MAX_PENDING)
_writing = Lock()
_never = Event()


class _Writer:
    """Whether this process has a writing thread. A fork does not copy threads."""

    has_begun = False


def add(series: Any, value: float) -> None:  # noqa: ANN401 - a histogram of prometheus-client, or a child of one
    """Add an observation. Starts this process's writing thread if it has none yet."""
    _pending.append((series, value))
    if not _Writer.has_begun:
        _start()


def write() -> None:
    """Write the observations added so far. The thread calls this; call it too before a process ends."""
    with _writing:
        noted: defaultdict[Any, list[float]] = defaultdict(list)
        for _ in range(len(_pending)):
            series, value = _pending.popleft()
            noted[series].append(value)
        for series, observed in noted.items():
            _write(series, observed)


def _write(series: Any, observed: list[float]) -> None:  # noqa: ANN401 - as above
    """Do what `observe` does for each value, but with one write for all values in a bucket."""
    series._sum.inc(sum(observed))  # noqa: SLF001 - prometheus-client has no such method
    for bucket, count in Counter(bisect_left(series._upper_bounds, value) for value in observed).items():  # noqa: SLF001
        series._buckets[bucket].inc(count)  # noqa: SLF001


def _start() -> None:
    with _writing:
        if not _Writer.has_begun:
            _Writer.has_begun = True
            Thread(target=_run, name="observations", daemon=True).start()


def _run() -> None:
    while not _never.wait(INTERVAL_SECONDS):
        # If these observations cannot be written, the next ones must be.
        with suppress(Exception):
            write()


def _forget_writer() -> None:
    _Writer.has_begun = False


atexit.register(write)
os.register_at_fork(after_in_child=_forget_writer)
