"""File descriptors: whether this process can open another file, and a reserve for its end.

A process in which one job has leaked them all fails the jobs of the others, whatever they do. It cannot be mended, only
replaced; and what it does at its end, such as giving jobs back, needs connections.
"""

import errno
import os
from contextlib import suppress

#: Of this process, and of the whole machine.
_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})

#: A connection to each server, twice over, and what looking up their names takes.
RESERVE = 8


class Reserve:
    """Descriptors that are held to be given back when they are needed."""

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


def lacked(error: BaseException | None) -> bool:
    """Tell whether the lack of one is why this was raised, or the cause of it, or of that."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _NONE_LEFT:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
