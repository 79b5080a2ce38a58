"""Collects the bytes of a client's next request, and detects when the request is complete."""

import re
import sys

#: The maximum size of a request line with its headers. gunicorn's own limits would allow 800 KB.
MAX_HEAD_BYTES = 65_536
#: The bytes that chunked transfer coding may add to a body.
_CHUNKING_BYTES = 65_536

#: A length with more digits exceeds every limit, and is not worth computing.
_DIGITS = 18

_HEAD_ENDS = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked", re.IGNORECASE)
_EXPECTATION = re.compile(rb"\r\n(expect):[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
#: Replaces the name of the header once it was answered. It has the same length, so that no other byte moves.
_MET = b"x-told"


class Incoming:
    """The bytes received of one request, and perhaps of the next.

    This finds the end of the request and checks only its size. A malformed request counts as complete, so that the
    parser can refuse it at once.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.data = bytearray()
        self._max_body_bytes = max_body_bytes
        #: The offset at which the body begins; 0 until the whole head has arrived.
        self._body_at = 0
        self._length = 0
        self._is_chunked = False
        #: The offset at which the next chunk begins.
        self._chunk_at = 0

    def add(self, piece: bytes) -> None:
        self.data += piece
        if not self._body_at and (end := self.data.find(_HEAD_ENDS)) >= 0:
            self._read_head(end + len(_HEAD_ENDS))

    @property
    def head_is_too_large(self) -> bool:
        return not self._body_at and len(self.data) > MAX_HEAD_BYTES

    @property
    def body_is_too_large(self) -> bool:
        if self._is_chunked:
            return len(self.data) > self._body_at + self._max_body_bytes + _CHUNKING_BYTES
        return self._length > self._max_body_bytes

    def is_whole(self) -> bool:
        if not self._body_at:
            return False
        return self._last_chunk_is_here() if self._is_chunked else len(self.data) >= self._body_at + self._length

    def meet_expectation(self) -> bool:
        """Tell whether the client waits for 100 Continue before it sends its body. True at most once per request."""
        expectation = _EXPECTATION.search(self.data, 0, self._body_at)
        if expectation:
            self.data[slice(*expectation.span(1))] = _MET
        return expectation is not None

    def _read_head(self, end: int) -> None:
        self._body_at = self._chunk_at = end
        head = bytes(self.data[:end])
        self._is_chunked = bool(_CHUNKED.search(head))
        if length := _LENGTH.search(head):
            digits = length[1].lstrip(b"0")
            self._length = int(digits or b"0") if len(digits) <= _DIGITS else sys.maxsize

    def _last_chunk_is_here(self) -> bool:
        while (line_ends := self.data.find(b"\r\n", self._chunk_at)) >= 0:
            size = _size(self.data[self._chunk_at : line_ends])
            if size <= 0:
                return size < 0 or self.data.find(_HEAD_ENDS, line_ends) >= 0
            self._chunk_at = line_ends + size + 4
        return False


def _size(line: bytearray) -> int:
    """Return the size in a chunk's first line, or -1 if there is none."""
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        return -1
