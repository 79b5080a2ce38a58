"""Job ids: UUID version 7, so that they sort in the order in which the jobs were submitted."""

import os
import time
from uuid import UUID

#: The difference in time by which two ids surely have different ones: two of the units in an id, because a float of
#: the present time in seconds is precise to one.
STEP_SECONDS = 2 * 0.001 / 4_096


def new_id(unix_seconds: float | None = None) -> UUID:
    """Return a UUIDv7 (RFC 9562, section 5.7) for this time; by default the present time of this process's clock.

    48 bits are Unix milliseconds, 12 are the fraction of the millisecond (section 6.2, method 3), the rest is random.
    The random bits come from the kernel each time: a seeded generator would repeat itself in forked processes.
    """
    nanoseconds = time.time_ns() if unix_seconds is None else int(unix_seconds * 1e9)
    ticks = nanoseconds * 4_096 // 1_000_000
    return UUID(
        int=(ticks >> 12) << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | int.from_bytes(os.urandom(8)) >> 2
    )


def milliseconds_of(job_id: UUID) -> int:
    """Return the Unix milliseconds in a UUIDv7, or 0 for a UUID of any other version, which has none."""
    return job_id.int >> 80 if job_id.version == 7 else 0  # noqa: PLR2004 - the version of `new_id`


def random_ids(count: int) -> list[UUID]:
    """Return so many random ids (UUID version 4) for one system call: each lets other threads in between."""
    random = os.urandom(16 * count)
    return [UUID(bytes=random[start : start + 16], version=4) for start in range(0, len(random), 16)]
