"""Measures CPU time and memory of process trees."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

#: Group -> the ids of the processes at the roots of its trees.
Groups = Mapping[str, list[int]]


def seconds_by_group(groups: Groups) -> dict[str, float]:
    """Return the user and system time used so far by each group, including children that have ended."""
    return {group: sum(map(_seconds, _trees(roots))) for group, roots in groups.items()}


def mebibytes(roots: list[int]) -> float:
    """Return the memory of the trees. Shared memory is counted once (proportional set size)."""
    return sum(map(_proportional_bytes, _trees(roots))) / 2**20


def _trees(roots: list[int]) -> Iterator[psutil.Process]:
    for pid in roots:
        root = psutil.Process(pid)
        yield root
        yield from root.children(recursive=True)


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
        return _own_seconds(process, times.user + times.system) + times.children_user + times.children_system
    except psutil.NoSuchProcess:  # it ended just now: its time is in its parent's `children_` figures
        return 0


def _own_seconds(process: psutil.Process, rough: float) -> float:
    """Return the sum over the threads, which Linux keeps in nanoseconds, or else `rough`, which is in clock ticks.

    Threads that have ended are not counted. Those of the measured programs run as long as their process.
    """
    nanoseconds = [_first_number(path) for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat")]
    return sum(nanoseconds) / 1e9 or rough


def _first_number(path: Path) -> int:
    try:
        return int(path.read_text().split()[0])
    except OSError:
        return 0


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.NoSuchProcess:
        return 0
    return getattr(memory, "pss", memory.uss)
