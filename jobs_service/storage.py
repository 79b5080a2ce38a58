"""Where jobs put the files they make: the contract, and the local directory."""

import contextlib
import math
import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol
from uuid import UUID

from jobs_service.failpoints import failpoint

#: A plain file name, short enough that the temporary name made from it is one too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TEMPORARY_NAME = re.compile(r".+\.[0-9a-f]{16}\.tmp")

#: Names read between two looks at the clock, which takes about a millisecond.
_PIECE = 1_000

#: Whatever has the name already, a symbolic link too, is never written through.
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o644

#: Far longer than any write takes, so what is older has lost its writer.
STALE_AFTER_SECONDS = 3_600.0


class Search:
    """Looks through all names for the files of some jobs, a piece at a time: a large folder holds up nobody."""

    def __init__(self, names: Iterator[str], job_ids: Iterable[UUID]) -> None:
        self._names = names
        self._wanted = {str(job_id) for job_id in job_ids}
        self._found: defaultdict[str, list[str]] = defaultdict(list)

    def go_on(self, *, seconds: float) -> bool:
        """Go on for about so long. Return whether it is at the end."""
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
    """Keeps whole files under short names. A name that exists is always complete."""

    def write(self, name: str, content: bytes) -> str:
        """Store `content` under `name`, replacing an earlier file, and return its reference ("output/<name>").

        A name that begins with the job's id and a dot is deleted with the job.
        """

    def search(self, job_ids: Iterable[UUID]) -> Search:
        """Begin to look for the files whose names begin with one of these ids and a dot."""

    def remove(self, names: Iterable[str]) -> int:
        """Remove files; return how many there were."""

    def reap(self) -> int:
        """Remove what killed writers left behind; return how many files."""


class LocalOutputs:
    """Files in one directory, made when the first is written.

    1. The content goes to a temporary file in a hidden directory below and is synced to the disk.
    2. The file is renamed to its final name, which is one step for every reader.
    3. The directory is synced, so the name survives a power cut.

    An error, a full disk for one, leaves the final name as it was and no temporary file; a kill leaves at most
    a temporary file, which `reap` removes. Two attempts of one job never share a temporary file.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, name: str, content: bytes) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a plain file name: {name[:64]!r}")
        self._directory.mkdir(parents=True, exist_ok=True)
        with _opened(self._directory) as directory, _opened_incomplete(directory) as incomplete:
            _replace_file(directory, incomplete, name, content)
        return f"output/{name}"

    def search(self, job_ids: Iterable[UUID]) -> Search:
        """Begin to look for the files of these jobs. On the way, remove what writers of earlier versions left."""
        return Search(self._visible_names(), job_ids)

    def remove(self, names: Iterable[str]) -> int:
        """Remove files; return how many there were."""
        try:
            with _opened(self._directory) as directory:
                return sum(_remove(directory, name) for name in names)
        except FileNotFoundError:
            return 0

    def reap(self, *, older_than_seconds: float = STALE_AFTER_SECONDS) -> int:
        """Remove temporary files whose writers were killed; return how many."""
        try:
            with _opened(self._directory) as directory, _opened(_incomplete_name(), directory) as incomplete:
                return sum(_remove_stale(incomplete, name, older_than_seconds) for name in _names(incomplete))
        except FileNotFoundError:
            return 0

    def _visible_names(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError), _opened(self._directory) as directory:
            for name in _names(directory):
                if name.startswith("."):
                    _remove_stale(directory, name, STALE_AFTER_SECONDS)
                else:
                    yield name


@contextlib.contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Iterator[int]:
    """Hold the directory itself, so that no step can end up in another one put in its place."""
    no_link = 0 if parent is None else os.O_NOFOLLOW
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | no_link, dir_fd=parent)
    try:
        yield directory
    finally:
        os.close(directory)


@contextlib.contextmanager
def _opened_incomplete(directory: int) -> Iterator[int]:
    """Hold the directory of temporary files; make it where it is missing. Being below, it is on the same disk."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(_incomplete_name(), dir_fd=directory)
    with _opened(_incomplete_name(), directory) as incomplete:
        yield incomplete


def _incomplete_name() -> str:
    """Return a name for each user: a container's worker and one beside it may share the folder, not what is below."""
    return f".incomplete-{os.geteuid()}"


def _replace_file(directory: int, incomplete: int, name: str, content: bytes) -> None:
    temporary = f"{name}.{secrets.token_hex(8)}.tmp"
    try:
        _write_synced(incomplete, temporary, content)
        failpoint("storage.before_rename")
        os.replace(temporary, name, src_dir_fd=incomplete, dst_dir_fd=directory)
        failpoint("storage.after_rename")
    except BaseException:  # a time limit's interrupt too must leave nothing behind
        _remove(incomplete, temporary)
        raise
    os.fsync(directory)


def _write_synced(directory: int, name: str, content: bytes) -> None:
    with os.fdopen(os.open(name, _NEW_FILE, _MODE, dir_fd=directory), "wb") as file:
        os.fchmod(file.fileno(), _MODE)  # the umask had its say at open; whoever serves the files must read them
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _names(directory: int) -> Iterator[str]:
    """Read the names little by little; what comes or goes meanwhile is among them or is not."""
    with os.scandir(directory) as entries:
        for entry in entries:
            yield entry.name


def _remove_stale(directory: int, name: str, older_than_seconds: float) -> bool:
    """Remove a temporary file that has lost its writer; return whether it was one."""
    is_stale = _TEMPORARY_NAME.fullmatch(name) and _modified_at(directory, name) <= time.time() - older_than_seconds
    return bool(is_stale) and _remove(directory, name)


def _modified_at(directory: int, name: str) -> float:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
    except FileNotFoundError:  # renamed or removed just now
        return math.inf


def _remove(directory: int, name: str) -> bool:
    """Return whether the file was there. Another process may be reaping too."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True
