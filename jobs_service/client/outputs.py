"""The file of a job: as a stream, or written to a path, also over several connections."""

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from jobs_service.client.errors import ApiError
from jobs_service.client.requests import Request

#: RFC 6266, as the API sends it: with the name in quotes.
_NAME = re.compile(r'filename="([^"]+)"')


class OutputFacts:
    """What the headers of an answer say of a file."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        found = _NAME.search(headers.get("content-disposition", ""))
        #: Its name, without any folder.
        self.name = Path(found[1]).name if found else "output"
        self.media_type = headers.get("content-type", "application/octet-stream")
        length = headers.get("content-length")
        #: In bytes; None where the server does not say.
        self.size = int(length) if length else None


class Download:
    """A file on its way to a path. The path has the whole file, or what it had before."""

    def __init__(self, request: Request, path: Path) -> None:
        self._request = request
        self._path = path
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        self._file: IO[bytes] = os.fdopen(descriptor, "wb")
        self._temporary = Path(name)
        self._etag = ""
        self._received = 0

    @property
    def request(self) -> Request:
        """The request for the part that is missing."""
        if not self._received:
            return self._request
        headers = {"Range": f"bytes={self._received}-", "If-Range": self._etag}
        return Request("GET", self._request.path, headers=headers, job_id=self._request.job_id)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the head of an answer. Raises `ApiError` if it begins elsewhere than was asked for."""
        self._etag = headers.get("etag", "")
        if status == 206:  # noqa: PLR2004 - RFC 9110, section 15.3.7
            if not headers.get("content-range", "").startswith(f"bytes {self._received}-"):
                raise ApiError("the API has sent another part of the file than was asked for")
        else:
            # The file was written anew, or its server knows no parts.
            self._file.seek(0)
            self._file.truncate()
            self._received = 0

    def take(self, data: bytes) -> None:
        """Write the next bytes."""
        self._file.write(data)
        # Without a tag it cannot be said later whether the rest belongs to this part.
        self._received += len(data) if self._etag else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Delete what was received, unless it is at its path."""
        self._file.close()
        with suppress(FileNotFoundError):
            self._temporary.unlink()

    def finish(self) -> Path:
        """Put the file at its path, and return that."""
        self._file.close()
        self._temporary.replace(self._path)
        return self._path


def target_of(to: str | os.PathLike[str], facts: OutputFacts) -> Path:
    """Return the path of the file: `to`, or its name in that folder."""
    path = Path(to)
    return path / facts.name if path.is_dir() else path


class Pieces:
    """Bytes that come in pieces, to be read in any sizes."""

    def __init__(self) -> None:
        self._left = bytearray()

    def add(self, piece: bytes) -> None:
        self._left += piece

    def has(self, size: int) -> bool:
        """Tell whether a `read` of this size can be answered. A negative one takes all there is."""
        return 0 <= size <= len(self._left)

    def take(self, size: int) -> bytes:
        data = bytes(self._left if size < 0 else self._left[:size])
        del self._left[: len(data)]
        return data
