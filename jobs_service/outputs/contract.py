"""What a store of files offers to jobs, to the API and to maintenance, whatever it is made of."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Protocol, Self
from uuid import UUID

from jobs_service.errors import JobsError

#: A plain file name, short enough that the temporary name derived from it is valid too.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

#: Names read between two checks of the clock. Reading them from a folder takes about a millisecond.
_PIECE = 1_000


class OutputChanged(JobsError):
    """The file was replaced or removed since it was found."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file as it was found."""

    name: str
    #: In bytes.
    size: int
    #: Its entity tag, with the quotes: another one for each content (RFC 9110, section 8.8.3).
    etag: str
    modified: datetime


class Search:
    """Searches all file names for those of some jobs, in pieces, so that a large store blocks no one."""

    def __init__(self, names: Iterator[str], job_ids: Iterable[UUID]) -> None:
        self._names = names
        self._wanted = {str(job_id) for job_id in job_ids}
        self._found: defaultdict[str, list[str]] = defaultdict(list)

    def go_on(self, *, seconds: float) -> bool:
        """Continue for about this long. Return whether the search is complete."""
        ends_at = time.monotonic() + seconds
        while True:
            piece = list(islice(self._names, _PIECE))
            for name in piece:
                if (owner := name.partition(".")[0]) in self._wanted:
                    self._found[owner].append(name)
            if len(piece) < _PIECE:
                return True
            if time.monotonic() >= ends_at:
                return False

    def files_of(self, job_ids: Iterable[UUID]) -> list[str]:
        return [name for job_id in job_ids for name in self._found.get(str(job_id), ())]


class OutputStore(Protocol):
    """Stores whole files under short names. A file that exists under its name is always complete.

    Each method may raise `Unavailable` when the store does not answer, or cannot be used until an operator has fixed
    something; the message says what.
    """

    def asking(self, ask: Callable[[str], None]) -> Self:
        """Return a store that calls `ask` with its server's name before each request, if it has a server.

        `ask` raises `Unavailable` while that server is known to be away.
        """

    def write(self, name: str, content: bytes) -> str:
        """Store `content` under `name`, replacing an earlier file, and return its reference ("output/<name>").

        A name that begins with the job's id and a dot is deleted with the job.
        """

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """Return the content of the file. Raises `FileNotFoundError`, or `Rejected` if it has more than `max_bytes`."""

    def find(self, name: str) -> Output | None:
        """Return what is known of a file without reading it; None if it does not exist."""

    def read_piece(self, output: Output, start: int, length: int) -> bytes:
        """Return up to `length` bytes of a file, from `start` on. Raises `OutputChanged` if it is another file now.

        Nothing stays open between two pieces, however slowly they are used.
        """

    def search(self, job_ids: Iterable[UUID]) -> Search:
        """Begin a search for the files whose names begin with one of these ids and a dot."""

    def remove(self, names: Iterable[str]) -> int:
        """Remove files; return how many there were, as far as the store says."""

    def reap(self) -> int:
        """Remove the temporary files of killed writers; return how many."""

    def check(self) -> None:
        """Raise `Unavailable`, which says what to do, if the store cannot be read."""


def check_name(name: str) -> None:
    """Raise `ValueError` for anything but a plain file name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:64]!r} is not a plain file name: use letters, digits and . _ - only")
