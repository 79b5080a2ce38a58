"""Makes prometheus-client's value files independent of process ids: they are named after slots.

Import this module before any metric is created. A process takes the lowest slot that no running process holds, and
continues to count in that slot's files. So there are only as many files as there were processes at a time, they need no
clean-up, and counters survive a kill. A slot is a file lock, which the kernel releases however the process ends.
"""

import fcntl
import itertools
import json
import os
from pathlib import Path
from typing import IO

from prometheus_client import multiprocess as prometheus_multiprocess, values
from prometheus_client.mmap_dict import MmapedDict

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

#: Set by `__main__.py` if a separate process already serves the workers' metrics.
SERVED_VARIABLE = "JOBS_METRICS_SERVED"

_LOCKS = "slot-*.lock"


class _Slot:
    """The slot of this process, once it has one. A forked child takes a slot of its own."""

    name = ""
    lock: IO[str] | None = None
    #: False while prometheus-client asks for the first time, before any value exists. A process that only serves
    #: metrics takes no slot.
    wanted = False


def slot() -> str:
    """Return this process's slot, a number as text. Called for every increment."""
    return _Slot.name or (_take() if _Slot.wanted else "")


def clear(directory: Path) -> None:
    """Create the directory and delete the files of an earlier run. Call this before any process writes there."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.db"):
        path.unlink()


def forget_dead(directory: Path) -> None:
    """Delete the gauges of processes that have ended, whose values no longer apply."""
    for path in directory.glob(_LOCKS):
        name = _name(path)
        if any(directory.glob(f"gauge_live*_{name}.db")) and (lock := _locked(path)):
            _forget_gauges(directory, name)
            lock.close()


def labels_kept(metric_name: str, label: str) -> set[str]:
    """Return the values of a counter's label in this slot's file, including those of the slot's earlier processes."""
    path = Path(os.environ.get(VARIABLE, "")) / f"counter_{slot()}.db"
    if VARIABLE not in os.environ or not path.exists():
        return set()
    keys = (json.loads(key) for key, *_ in MmapedDict.read_all_values_from_file(str(path)))
    return {labels[label] for _, name, labels, _ in keys if name == metric_name}


def _take() -> str:
    directory = Path(os.environ[VARIABLE])
    for number in itertools.count(1):
        if lock := _locked(directory / _LOCKS.replace("*", str(number))):
            _forget_gauges(directory, str(number))
            _Slot.name, _Slot.lock = str(number), lock
            break
    return _Slot.name


def _locked(path: Path) -> IO[str] | None:
    """Return the open file, locked until it is closed, or None when another process holds it."""
    lock = path.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _name(path: Path) -> str:
    return path.stem.removeprefix("slot-")


def _forget_gauges(directory: Path, name: str) -> None:
    prometheus_multiprocess.mark_process_dead(name, str(directory))


def _leave_to_the_parent() -> None:
    """Drop the slot that a fork copied. The parent keeps its lock, because its own file stays open."""
    if _Slot.lock:
        _Slot.lock.close()
    _Slot.name, _Slot.lock = "", None


if VARIABLE in os.environ:
    values.ValueClass = values.MultiProcessValue(process_identifier=slot)
    _Slot.wanted = True
    os.register_at_fork(after_in_child=_leave_to_the_parent)
