"""prometheus-client across processes: files named after stable slots, not after process ids.

Import this before any metric is made. With slots there are as many files as there are processes at a time, and a
process that replaces another goes on counting in its files: no growth, no clean-up, and counters survive a kill.
"""

import multiprocessing
import os
import re
from pathlib import Path

from prometheus_client import multiprocess as prometheus_multiprocess
from prometheus_client import values

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

#: Names the slot of a process whose parent gives it one; `supervisor.py` does.
SLOT_VARIABLE = "JOBS_METRICS_SLOT"

_slot: dict[int, str] = {}


def set_slot(slot: str) -> None:
    """Name this process's files. For gunicorn, whose workers have no stable names of their own."""
    _slot[os.getpid()] = slot


def slot() -> str:
    """Return this process's slot. Dramatiq's processes are called Process-1 to Process-N, also after a restart."""
    pid = os.getpid()
    if pid not in _slot:
        number = re.search(r"-(\d+)$", multiprocessing.current_process().name)
        _slot[pid] = os.environ.get(SLOT_VARIABLE) or (f"w{number[1]}" if number else "main")
    return _slot[pid]


def clear(directory: Path) -> None:
    """Make the directory and forget an earlier run. Only before any process writes there."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.db"):
        path.unlink()


if VARIABLE in os.environ:
    values.ValueClass = values.MultiProcessValue(process_identifier=slot)
    if SLOT_VARIABLE in os.environ:
        # A process that was killed left its gauges as they were: its successor in the slot starts at zero.
        prometheus_multiprocess.mark_process_dead(slot())
