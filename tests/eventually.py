"""Waiting for a condition: tests never sleep for a time."""

import http.client
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg2
import redis

T = TypeVar("T")

#: Long, because it only counts when something is broken, or the machine is very busy.
PATIENCE_SECONDS = 60.0

_GLANCE_SECONDS = 0.02

#: What a look may raise as long as something is not there: a server that does not answer, a file, a key, a series.
_NOT_YET = (
    AssertionError,
    LookupError,
    OSError,
    http.client.HTTPException,
    psycopg2.OperationalError,
    redis.RedisError,
)


def eventually(check: Callable[[], T], *, seconds: float = PATIENCE_SECONDS, what: str = "the condition") -> T:
    """Return the first true answer of `check`. What it raises of `_NOT_YET` counts as "not yet".

    Raises `AssertionError` after `seconds`, with what was seen last.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen: object
        try:
            seen = answer = check()
        except _NOT_YET as error:
            seen = error
        else:
            if answer:
                return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about in {seconds:g} s; last seen: {seen!r}")
        time.sleep(_GLANCE_SECONDS)
