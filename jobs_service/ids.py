"""Job ids: UUID version 7, so that rows lie in the order in which they were accepted."""

import os
import time
from uuid import UUID


def new_id(unix_seconds: float | None = None) -> UUID:
    """Return a UUIDv7 (RFC 9562, section 5.7) of this moment; by default of this process's own clock's.

    48 bits are Unix milliseconds, 12 the fraction of the millisecond (section 6.2, method 3), the others random.
    Randomness comes from the kernel for each id: a generator with a seed would repeat itself in forked processes.
    """
    nanoseconds = time.time_ns() if unix_seconds is None else int(unix_seconds * 1e9)
    ticks = nanoseconds * 4_096 // 1_000_000
    return UUID(
        int=(ticks >> 12) << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | int.from_bytes(os.urandom(8)) >> 2
    )


def milliseconds_of(job_id: UUID) -> int:
    """Return the Unix milliseconds in a UUIDv7, and 0 for any other UUID: it has none."""
    return job_id.int >> 80 if job_id.version == 7 else 0  # noqa: PLR2004 - the version of `new_id`
