"""CPU and memory of process trees."""

from collections.abc import Iterator, Mapping

import psutil

#: group -> the ids of the processes at the roots of its trees
Groups = Mapping[str, list[int]]


def seconds_by_group(groups: Groups) -> dict[str, float]:
    """Return the user and system time used so far by each group, children that have ended included."""
    return {group: sum(map(_seconds, _trees(roots))) for group, roots in groups.items()}


def mebibytes(roots: list[int]) -> float:
    """Return the memory of the trees; what processes share counts once (proportional set size)."""
    return sum(map(_proportional_bytes, _trees(roots))) / 2**20


def _trees(roots: list[int]) -> Iterator[psutil.Process]:
    for pid in roots:
        root = psutil.Process(pid)
        yield root
        yield from root.children(recursive=True)


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # it ended just now: its time is in its parent's `children_` figures
        return 0
    return times.user + times.system + times.children_user + times.children_system


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.NoSuchProcess:
        return 0
