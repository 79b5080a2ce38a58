"""Orphaned processes: how a process detects that its parent has ended, and how the kernel ends it then."""

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def is_orphan() -> bool:
    """Tell whether the process that started this one with `multiprocessing` has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.pid != os.getppid()


def end_with_parent(signum: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this signal to this process when its parent ends for any reason. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
