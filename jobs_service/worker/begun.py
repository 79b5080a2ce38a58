"""Notes which attempts have begun, in a file that outlives a killed process: the next one gives the others back.

A claimed job that no thread had begun with cannot have killed the process, so it must not become a suspect. Only the
process knows which have begun, and PostgreSQL would need a commit for each. So their leases are written to a file that
is mapped into memory: what is written there survives the process, and costs no system call.
"""

import fcntl
import mmap
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO
from uuid import UUID

#: Names the file. The supervisor gives each of its worker processes one; without it nothing is noted.
PATH_VARIABLE = "JOBS_BEGUN_FILE"

#: More attempts than a process has at a time.
PLACES = 1_024

_UUID_BYTES = 16
_NOTHING = bytes(_UUID_BYTES)


@dataclass(frozen=True, slots=True)
class LostProcess:
    """A former process that ended without giving its jobs back."""

    worker_id: UUID
    #: The leases of the attempts that had begun.
    begun: frozenset[UUID]


class BegunAttempts:
    """The attempts of this process that have begun and are not settled. Thread-safe."""

    def __init__(self, file: IO[bytes] | None = None, *, lost_process: LostProcess | None = None) -> None:
        """Without a file nothing is noted. Its first place has the id of the process, the others have leases."""
        #: The process whose place this one takes, if it was lost.
        self.lost_process = lost_process
        self._file = file
        self._map: mmap.mmap | None = None
        if file is not None:
            size = PLACES * _UUID_BYTES
            os.ftruncate(file.fileno(), size)
            self._map = mmap.mmap(file.fileno(), size)
        self._free = deque(range(1, PLACES))
        self._places: dict[UUID, int] = {}

    def open(self, worker_id: UUID) -> None:
        """Note that from now on this process may hold jobs."""
        self._write(0, worker_id.bytes)

    def close(self) -> None:
        """Note that this process holds no job any more."""
        self._write(0, _NOTHING)

    def add(self, lease: UUID) -> None:
        """Note that the attempt with this lease begins."""
        place = self._places[lease] = self._free.popleft()
        self._write(place, lease.bytes)

    def discard(self, lease: UUID) -> None:
        """Note that it is settled."""
        place = self._places.pop(lease, None)
        if place is not None:
            self._write(place, _NOTHING)
            self._free.append(place)

    def _write(self, place: int, value: bytes) -> None:
        if self._map is not None:
            self._map[place * _UUID_BYTES : (place + 1) * _UUID_BYTES] = value


def take_over(path: str | None) -> BegunAttempts:
    """Return the notes of this process, with those that the process before it left if it was lost.

    A file that another process has locked is not used: that process is alive, and ends in order.
    """
    file = None if path is None else _locked(path)
    if file is None:
        return BegunAttempts()
    lost = _read(file.read())
    os.ftruncate(file.fileno(), 0)
    return BegunAttempts(file, lost_process=lost)


def _locked(path: str) -> IO[bytes] | None:
    try:
        # It stays open, and locked, for as long as this process runs.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    return file


def _read(notes: bytes) -> LostProcess | None:
    ids = list(_ids(notes))
    if not ids or ids[0] is None:
        return None
    return LostProcess(ids[0], frozenset(lease for lease in ids[1:] if lease))


def _ids(notes: bytes) -> Iterator[UUID | None]:
    """Yield the id in each place, None for an empty place."""
    for start in range(0, len(notes), _UUID_BYTES):
        value = notes[start : start + _UUID_BYTES]
        yield None if value == _NOTHING or len(value) < _UUID_BYTES else UUID(bytes=value)
