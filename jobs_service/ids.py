"""Job ids: UUID version 7, so that rows lie in the order in which they were accepted."""

import os
import time
from uuid import UUID


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random bits.

    Randomness comes from the kernel for each id: a generator with a seed would repeat itself in forked processes.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    return UUID(int=milliseconds << 80 | 0x7 << 76 | (random >> 4 & 0xFFF) << 64 | 0b10 << 62 | random >> 18)


def earliest_id(unix_seconds: float) -> UUID:
    """Return an id below every UUIDv7 of this moment or later, and above those of earlier ones."""
    return UUID(int=max(0, int(unix_seconds * 1000)) << 80)


def milliseconds_of(job_id: UUID) -> int:
    """Return the Unix milliseconds in a UUIDv7, and 0 for any other UUID: it has none."""
    return job_id.int >> 80 if job_id.version == 7 else 0  # noqa: PLR2004 - the version of `new_id`
