"""File descriptors: whether this process can open another file, and a reserve for its shutdown.

Once one job has leaked all descriptors, every other job in the process fails too. Only a new process helps, and the old
one needs a few connections to shut down, for example to give its jobs back.
"""

import errno
import math
import os
import resource
from contextlib import suppress

#: The limit of this process, and that of the whole machine.
_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})

#: Enough for two connections to each server and for resolving their names.
RESERVE = 8


class Reserve:
    """Descriptors kept open so that they can be released when the process needs some."""

    def __init__(self, count: int = RESERVE) -> None:
        self._held: list[int] = []
        with suppress(OSError):
            while len(self._held) < count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def release(self) -> None:
        while self._held:
            os.close(self._held.pop())


def are_exhausted() -> bool:
    """Tell whether this process can open no file. Two system calls."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in _NONE_LEFT
    return False


def is_exhaustion(error: BaseException | None) -> bool:
    """Tell whether this error, or any error in its chain of causes, is a lack of descriptors."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _NONE_LEFT:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def allow(count: int) -> None:
    """Let this process open so many files, as far as the system allows.

    Many systems allow 1,024, and more to a process that asks for it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def allowed() -> float:
    """Return how many files this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft
