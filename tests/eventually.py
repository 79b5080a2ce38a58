"""Waiting for a condition: tests never sleep for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Long, because it only counts when something is broken, or the machine is very busy.
PATIENCE_SECONDS = 30.0

_GLANCE_SECONDS = 0.02


def eventually(check: Callable[[], T], *, seconds: float = PATIENCE_SECONDS, what: str = "the condition") -> T:
    """Return the first true answer of `check`; an `AssertionError` in it counts as "not yet"."""
    deadline = time.monotonic() + seconds
    while True:
        seen: object
        try:
            seen = answer = check()
        except AssertionError as error:
            seen = error
        else:
            if answer:
                return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about in {seconds:g} s; last seen: {seen!r}")
        time.sleep(_GLANCE_SECONDS)
