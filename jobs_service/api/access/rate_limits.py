"""How many requests a caller may send: token buckets in memory that the API's processes on a machine share.

A bucket is kept as one number, the time at which it will be full again (GCRA, the generic cell rate algorithm). A full
bucket needs no memory, so the place of a caller who pauses is free for another, and a table of fixed size is enough.
Nothing here waits, neither for a server nor for a lock: of two requests of a caller at the same instant in two
processes, one may be uncounted.
"""

import hashlib
import ipaddress
import math
import mmap
import secrets
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

#: Buckets in the table, 16 bytes each. A caller has one for about as long as its burst takes to refill.
PLACES = 65_536

#: How many places a caller may have its bucket in. Where others use all of them, the caller is not limited.
TRIES = 8

_TAG_BYTES = 8
_PLACE = struct.Struct("=8sd")

#: Whoever knows it could choose addresses that share places. The same in all processes.
_SALT = secrets.token_bytes(16)

#: gunicorn's main process imports this module; the processes that it forks share this memory.
_SHARED = mmap.mmap(-1, PLACES * _PLACE.size)


class Memory(Protocol):
    """Bytes that can be read and written in place."""

    def __getitem__(self, index: slice) -> bytes: ...

    def __setitem__(self, index: slice, value: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a request."""

    is_allowed: bool
    #: Requests that may follow at once.
    remaining: int
    #: Seconds until the bucket is full again.
    reset_seconds: float
    #: Seconds until the next request is allowed; 0 if one is now.
    retry_seconds: float


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests a second, and how many at once after a pause."""

    per_second: int
    burst: int
    #: The `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers): so many requests in so many seconds.
    policy: str

    @classmethod
    def of(cls, per_second: int, burst: int = 0) -> "Rate":
        """Return the rate. A burst of 0 is that of a second."""
        most = burst or per_second
        return cls(per_second, most, f'"default";q={most};w={math.ceil(most / per_second)}')


class RateLimits:
    """The buckets of all callers."""

    def __init__(self, memory: Memory = _SHARED, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is the same in all processes that share the memory, as the monotonic one of a machine is."""
        self._memory = memory
        self._clock = clock

    def take(self, tag: bytes, rate: Rate) -> Decision:
        """Count a request of the caller with this tag, unless its bucket is empty."""
        now = self._clock()
        place, full_at = self._bucket(tag, now)
        each, most = 1 / rate.per_second, rate.burst / rate.per_second
        after = max(full_at, now) + each - now
        # As time is a float, a full bucket may seem to lack the last bits of a request.
        if after > most + each / 1024:
            return Decision(False, 0, full_at - now, after - most)
        if place is not None:
            self._memory[place] = _PLACE.pack(tag, now + after)
        return Decision(True, int((most - after) / each + 1 / 1024), after, 0.0)

    def _bucket(self, tag: bytes, now: float) -> tuple[slice | None, float]:
        """Return the caller's place, and when its bucket will be full. None: there is no place for it."""
        first, free = int.from_bytes(tag, "little"), None
        for step in range(TRIES):
            start = (first + step) % PLACES * _PLACE.size
            place = slice(start, start + _PLACE.size)
            owner, full_at = _PLACE.unpack(self._memory[place])
            if owner == tag:
                return place, full_at
            if free is None and full_at <= now:
                free = place
        return free, now


def tag_of(caller: str) -> bytes:
    """Return the short form of a caller's name by which its requests are counted."""
    return hashlib.blake2b(caller.encode(), digest_size=_TAG_BYTES, key=_SALT).digest()


def tag_of_address(address: str) -> bytes:
    """Return the same for an address. A network of IPv6 that one customer gets, /64, counts as one address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a Unix socket has none
        return tag_of(address)
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or ipaddress.IPv6Address(int(found) >> 64 << 64)
    return tag_of(str(found))
