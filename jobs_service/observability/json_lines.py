"""Log lines as JSON: encodes them, and writes the lines of a batch at once.

What a reader of the log can rely on:

1. A line is JSON in ASCII and ends with a newline. Threads and processes that share the stream do not mix their lines:
   whole lines are written by one call, to anything but a file at most `PIPE_BUF` bytes of them. A longer line is one
   call too, but the kernel may mix it with another process's if it has to wait for the reader of a pipe.
2. Nothing raises: what cannot be encoded is described, what cannot be written is kept and written before the next
   lines, up to a limit, and dropped beyond that. A line that was begun is always ended first.
"""

import json
import os
import select
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock, local
from types import NoneType
from typing import TextIO

import msgspec

#: A batch writes its lines when it has so many bytes, although it has not ended.
MAX_BATCH_BYTES = 65_536

#: While so many bytes could not be written, further lines are dropped.
MAX_UNWRITTEN_BYTES = 65_536

#: The types that msgspec encodes as `json` does. It would write the fields of a dataclass or a struct, which may hold
#: a payload, where `json` asks for another form.
_PLAIN = frozenset({str, int, float, bool, NoneType})

_encode_plain = msgspec.json.Encoder().encode


class JsonLines:
    """Writes lines to a stream, which has to have a file descriptor. Thread-safe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = _Stream(stream)
        self._thread = _Thread()

    def write(self, line: bytes) -> None:
        """Write a line, given without its newline: now, or with this thread's batch."""
        batch = self._thread.batch
        if batch is None:
            self._stream.write(line + b"\n")
            return
        batch += line + b"\n"
        if len(batch) >= MAX_BATCH_BYTES:
            self._stream.write(bytes(batch))
            batch.clear()

    #: The names by which structlog calls its logger with what its last processor returned.
    debug = info = warning = error = critical = write

    @contextmanager
    def batched(self) -> Iterator[None]:
        """Write the lines of this thread in a `with` block together, at its end. A block inside another adds to it."""
        if self._thread.batch is not None:
            yield
            return
        batch = self._thread.batch = bytearray()
        try:
            yield
        finally:
            self._thread.batch = None
            self._stream.write(bytes(batch))


class _Thread(local):
    """The lines of this thread's batch; None outside of one."""

    batch: bytearray | None = None


class _Stream:
    """Writes whole lines, past the buffers of the text stream: they would keep half a line when a write fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_file = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
        self._lock = Lock()
        self._unwritten = b""

    def write(self, lines: bytes) -> None:
        with self._lock:
            # Taken first: an exception that another thread raises in this one must not leave what is written already.
            unwritten, self._unwritten = self._unwritten, b""
            lines = unwritten + lines if len(unwritten) < MAX_UNWRITTEN_BYTES else unwritten
            try:
                while lines:
                    lines = lines[os.write(self._stream.fileno(), self._next(lines)) :]
            except (OSError, ValueError):
                self._unwritten = lines

    def _next(self, lines: bytes) -> bytes:
        """Return the lines to write by one call."""
        if self._is_file or len(lines) <= select.PIPE_BUF:
            return lines
        end = lines.rfind(b"\n", 0, select.PIPE_BUF) + 1
        return lines[: end or lines.find(b"\n") + 1]


def encode(fields: Mapping[str, object]) -> bytes:
    """Return the fields as JSON without a newline. Unknown objects are described by `repr`."""
    if _PLAIN.issuperset(map(type, fields.values())):
        try:
            line = _encode_plain(fields)
        except UnicodeEncodeError:  # one half of a surrogate pair, as in the name of a file that is not UTF-8
            return _encode_any(fields)
        # Other text is escaped: it may hold what controls a terminal, or what some readers take for the end of a line.
        if line.isascii():
            return line
    return _encode_any(fields)


def _encode_any(fields: Mapping[str, object]) -> bytes:
    try:
        return _dumps(fields)
    except Exception:  # noqa: BLE001 - a list within itself, a key that is no text: a line must not fail its caller
        return _dumps({name: value if type(value) in _PLAIN else _repr(value) for name, value in fields.items()})


def _dumps(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, default=_describe, separators=(",", ":")).encode()


def _describe(value: object) -> object:
    """Return what structlog's own renderer would write for an object that is not of JSON."""
    return value.__structlog__() if hasattr(value, "__structlog__") else _repr(value)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - as above
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
