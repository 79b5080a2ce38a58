"""Storage for the files that jobs write, in a local directory."""

import contextlib
import errno
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import NamedTuple, Self
from uuid import UUID

import structlog

from jobs_service.errors import Rejected, Unavailable
from jobs_service.failpoints import failpoint
from jobs_service.outputs.contract import Output, OutputChanged, Search, check_name

log = structlog.get_logger(__name__)

#: For the names of temporary files. They begin at random, so that processes do not meet, also those of other machines.
_numbers = count(secrets.randbits(64))
_TEMPORARY_NAME = re.compile(r".+\.[0-9a-f]{16}\.tmp")

#: Never write to an existing file or through a symbolic link.
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o644
#: Never read through a symbolic link, and never block on a pipe.
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

#: The errors for a name that does not exist, for a symbolic link, and for a socket.
_NO_FILE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO})

#: The errors with which network and desktop shares refuse operations that they do not support.
_CANNOT_SYNC_A_FOLDER = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})
_CANNOT_SET_A_MODE = frozenset({errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS})

#: Far longer than any write takes: the writer of an older temporary file must have been killed.
STALE_AFTER_SECONDS = 3_600.0


class LocalOutputs:
    """Stores files in one directory, which is created with the first file.

    1. The content is written to a temporary file in a hidden subdirectory and synced to the disk.
    2. The file is renamed to its final name, which is atomic for every reader.
    3. The directory is synced, so that the name survives a power failure.

    On a file system that cannot set a mode or sync a directory, that step is skipped and logged once per process.

    After an error, such as a full disk, the final name is unchanged and no temporary file remains. A kill leaves at
    most a temporary file, which `reap` removes. Two attempts of one job never share a temporary file.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._shortcomings = _Shortcomings()

    def asking(self, ask: Callable[[str], None]) -> Self:  # noqa: ARG002 - there is no server to ask for
        return self

    def write(self, name: str, content: bytes) -> str:
        check_name(name)
        try:
            with _opened_folders(self._directory) as folders:
                _replace_file(folders, name, content, self._shortcomings)
        except FileNotFoundError:
            self._directory.mkdir(parents=True, exist_ok=True)
            with _opened(self._directory) as directory, contextlib.suppress(FileExistsError):
                os.mkdir(_incomplete_name(), dir_fd=directory)
            with _opened_folders(self._directory) as folders:
                _replace_file(folders, name, content, self._shortcomings)
        return f"output/{name}"

    def search(self, job_ids: Iterable[UUID]) -> Search:
        """Begin a search for the files of these jobs, which also removes temporary files of earlier versions."""
        return Search(self._visible_names(), job_ids)

    def read(self, name: str, *, max_bytes: int) -> bytes:
        check_name(name)
        try:
            with _opened(self._directory) as directory:
                return _read_file(directory, name, max_bytes)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"output/{name} does not exist: it is not yet written, or was deleted with its job"
            ) from None

    def find(self, name: str) -> Output | None:
        check_name(name)
        try:
            with self._opened_file(name) as file:
                return None if file is None else _output(name, os.fstat(file))
        except OSError as error:
            raise _unreadable(error) from error

    def read_piece(self, output: Output, start: int, length: int) -> bytes:
        try:
            with self._opened_file(output.name) as file:
                if file is None or _output(output.name, os.fstat(file)) != output:
                    raise OutputChanged(f"output/{output.name} was replaced or removed")
                return os.pread(file, length, start)
        except OSError as error:
            raise _unreadable(error) from error

    def check(self) -> None:
        try:
            with contextlib.suppress(FileNotFoundError), _opened(self._directory):
                pass
        except OSError as error:
            raise _unreadable(error) from error

    @contextlib.contextmanager
    def _opened_file(self, name: str) -> Iterator[int | None]:
        """Open a file; None where there is none, or something else: a link, a folder, a pipe."""
        try:
            with _opened(self._directory) as directory:
                file = os.open(name, _READ_FILE, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            yield None
            return
        try:
            yield file if stat.S_ISREG(os.fstat(file).st_mode) else None
        finally:
            os.close(file)

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


class _Folders(NamedTuple):
    """The directory of the files and that of the temporary files, as open descriptors.

    So every step of a write uses these, even if others are put in their places meanwhile.
    """

    directory: int
    incomplete: int


@contextlib.contextmanager
def _opened_folders(path: Path) -> Iterator[_Folders]:
    """Open both for one write: a worker must not keep a file system from being unmounted.

    That of the temporary files is in the other, on the same disk. Raises `FileNotFoundError` where one is missing.
    """
    with _opened(path) as directory, _opened(_incomplete_name(), directory) as incomplete:
        yield _Folders(directory, incomplete)


class _Shortcomings:
    """Steps that a file system may not support and that a file can do without. Each is logged once."""

    def __init__(self) -> None:
        self._unlogged = {"set a mode", "sync a folder"}

    def set_mode(self, file: int) -> None:
        """Set the file's mode whatever the umask is, because another user may serve the files."""
        try:
            os.fchmod(file, _MODE)
        except OSError as error:
            if error.errno not in _CANNOT_SET_A_MODE:
                raise
            self._log_once(error, "set a mode", "who can read the files depends on the mount options")

    def sync_folder(self, directory: int) -> None:
        try:
            os.fsync(directory)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC_A_FOLDER:
                raise
            self._log_once(error, "sync a folder", "a power failure may lose the newest files")

    def _log_once(self, error: OSError, step: str, consequence: str) -> None:
        with contextlib.suppress(KeyError):  # logged already, perhaps just now by another thread
            self._unlogged.remove(step)
            log.warning(
                "OUTPUT_DIR's file system does not support an operation",
                cannot=step,
                consequence=consequence,
                error=os.strerror(error.errno or 0),
            )


@contextlib.contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Iterator[int]:
    """Open the directory, so that every step uses this one even if another is put in its place."""
    no_link = 0 if parent is None else os.O_NOFOLLOW
    directory = os.open(path, _FOLDER | no_link, dir_fd=parent)
    try:
        yield directory
    finally:
        os.close(directory)


def _incomplete_name() -> str:
    """Return a name for each user: workers of different users may share OUTPUT_DIR, but not this directory."""
    return f".incomplete-{os.geteuid()}"


def _output(name: str, status: os.stat_result) -> Output:
    # Each write makes a new file, so these are never those of another content. A digest, because the number of an
    # inode is nobody's business.
    identity = f"{status.st_ino}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_size}"
    etag = blake2b(identity.encode(), digest_size=12).hexdigest()
    return Output(name, status.st_size, f'"{etag}"', datetime.fromtimestamp(status.st_mtime_ns / 1e9, UTC))


def _unreadable(error: OSError) -> Unavailable:
    return Unavailable(f"OUTPUT_DIR cannot be read: {os.strerror(error.errno or 0)}; correct it or its permissions")


def _read_file(directory: int, name: str, max_bytes: int) -> bytes:
    with os.fdopen(os.open(name, _READ_FILE, dir_fd=directory), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise Rejected(f"output/{name} has {size} bytes, more than the limit of {max_bytes}")
        return file.read()


def _replace_file(folders: _Folders, name: str, content: bytes, shortcomings: _Shortcomings) -> None:
    temporary = f"{name}.{next(_numbers) & 0xFFFF_FFFF_FFFF_FFFF:016x}.tmp"
    try:
        _write_synced(folders.incomplete, temporary, content, shortcomings)
        failpoint("storage.before_rename")
        os.replace(temporary, name, src_dir_fd=folders.incomplete, dst_dir_fd=folders.directory)
        failpoint("storage.after_rename")
    except BaseException:  # an interrupt by the time limit must not leave a file behind either
        _remove(folders.incomplete, temporary)
        raise
    shortcomings.sync_folder(folders.directory)


def _write_synced(directory: int, name: str, content: bytes, shortcomings: _Shortcomings) -> None:
    file = os.open(name, _NEW_FILE, _MODE, dir_fd=directory)
    try:
        shortcomings.set_mode(file)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)


def _names(directory: int) -> Iterator[str]:
    """Yield the names in a directory as they are read. Files added or removed meanwhile may or may not be included."""
    with os.scandir(directory) as entries:
        for entry in entries:
            yield entry.name


def _remove_stale(directory: int, name: str, older_than_seconds: float) -> bool:
    """Remove the file if it is a temporary file whose writer was killed; return whether it was removed."""
    is_stale = _TEMPORARY_NAME.fullmatch(name) and _modified_at(directory, name) <= time.time() - older_than_seconds
    return bool(is_stale) and _remove(directory, name)


def _modified_at(directory: int, name: str) -> float:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
    except FileNotFoundError:  # renamed or removed just now
        return math.inf


def _remove(directory: int, name: str) -> bool:
    """Remove the file; return whether it existed. Another process may be removing it too."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True
