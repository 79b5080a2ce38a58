"""/jobs/{job_id}/output."""

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta
from structlog.stdlib import get_logger

from jobs_service.api.callers import Scope
from jobs_service.api.http_protocol import IS_OPEN
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.preconditions import Preconditions
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.jobs import not_found, parse_id
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.errors import TooBusy, Unavailable
from jobs_service.jobs import queries, representation
from jobs_service.jobs.lifecycle import Status
from jobs_service.outputs.contract import NAME, Output, OutputChanged, OutputStore
from jobs_service.outputs.media_types import ANYTHING, media_type_of

log = get_logger(module=__name__)

#: The memory that the pieces of all downloads of a process may use together, about, and the limits of one piece. The
#: least one, times the connections of a process, is what answers that are not read may use together.
PIECES_BYTES = 67_108_864
LEAST_PIECE_BYTES = 131_072
MOST_PIECE_BYTES = 1_048_576

_UNFINISHED = (Status.PENDING, Status.PROCESSING)


class OutputQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which file."""

    name: Annotated[
        # $ alone would allow a line break behind the name.
        Annotated[str, Meta(pattern=r"^(output/)?[A-Za-z0-9][A-Za-z0-9._-]{0,199}(?!\n)$")] | None,
        Meta(
            description="One of several files of the job, by its name or its reference in `result`. "
            "By default the first that `result` names."
        ),
    ] = None


_EXAMPLE_NAME = f"{representation.EXAMPLE['job_id']}.csv"
_EXAMPLE_TAG = '"5eb63bbbe01eeed093cb22bb"'
_EXAMPLE_DATE = "Thu, 26 Nov 2026 09:30:00 GMT"
_VALIDATORS = (
    Header("ETag", "Another one for each content of the file.", example=_EXAMPLE_TAG),
    Header("Last-Modified", "When the file was written.", example=_EXAMPLE_DATE),
    Header("Accept-Ranges", "`bytes`: parts of the file can be asked for.", example="bytes"),
)
_OF_A_FILE = (
    *_VALIDATORS,
    Header("Content-Disposition", "The file's name.", example=f'attachment; filename="{_EXAMPLE_NAME}"'),
    Header("X-Content-Type-Options", "`nosniff`: the file is what `Content-Type` says.", example="nosniff"),
)
_CONTENT_RANGE = Header("Content-Range", "Which bytes these are, and of how many.", example="bytes 0-99/1234")
_BINARY = Annotated[str, Meta(extra_json_schema={"format": "binary"})]
_MEDIA_TYPES = (ANYTHING, "text/csv", "*/*")
_CONDITIONS = (
    Header("Range", "One range of bytes; the answer to several is the whole file.", example="bytes=0-99"),
    Header("If-Range", "Send a part only if the file still has this tag or date.", example=_EXAMPLE_TAG),
    Header("If-None-Match", "Send nothing if the file has one of these tags.", example=_EXAMPLE_TAG),
    Header("If-Modified-Since", "Send nothing if the file is not newer.", example=_EXAMPLE_DATE),
    Header("If-Match", "Refuse if the file has none of these tags.", example=_EXAMPLE_TAG),
    Header("If-Unmodified-Since", "Refuse if the file is newer.", example=_EXAMPLE_DATE),
)


class JobOutput(DatabaseResource):
    """/jobs/{job_id}/output: the file that a job wrote, in pieces.

    Each piece is read by a thread and sent before the next one is read. So a slow reader holds no thread and no open
    file, and the pieces of all readers stay within a limit.
    """

    def __init__(self, database: Database, threads: Threads, outputs: OutputStore, reading: Threads) -> None:
        """`reading` are the threads that wait for the store, so that nothing else waits for it."""
        super().__init__(database, threads)
        self.outputs = outputs
        self.reading = reading
        self._downloads = 0

    @operation(
        id="get_job_output",
        summary="Download a file that a job wrote",
        description="Supports ranges and conditional requests (RFC 9110), so a download can be resumed.",
        tag="jobs",
        scope=Scope.JOBS_READ,
        query=OutputQuery,
        headers=_CONDITIONS,
        answers={
            HTTPStatus.OK: Answer(
                "The file, with the media type that its name stands for.",
                _BINARY,
                media_types=_MEDIA_TYPES,
                headers=_OF_A_FILE,
                example="key,value\nname,Alice\nscore,95\n",
            ),
            HTTPStatus.PARTIAL_CONTENT: Answer(
                "The part that `Range` asks for.",
                _BINARY,
                media_types=_MEDIA_TYPES,
                headers=(*_OF_A_FILE, _CONTENT_RANGE),
                example="name,Alice\n",
            ),
            HTTPStatus.NOT_MODIFIED: Answer("The client has this content.", headers=_VALIDATORS),
        },
        problems=(
            *PROBLEMS,
            "job_not_found",
            "output_not_found",
            "not_finished",
            "output_gone",
            "precondition_failed",
            "range_not_satisfiable",
            "output_store_unavailable",
        ),
    )
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        query: OutputQuery = req.context.query
        name = await self.run(self._name, parse_id(job_id), job_id, query.name)
        output = await self.reading.run(self._find, name)
        modified = output.modified if output.modified <= datetime.now(UTC) else None
        preconditions = Preconditions(req.get_header, etag=output.etag, modified=modified)
        _show_validators(resp, output, modified)
        if preconditions.is_failed:
            raise falcon.HTTPPreconditionFailed(
                title="precondition_failed", description="The file is not the one that the request is about."
            )
        if preconditions.is_unchanged:
            resp.status = falcon.HTTP_NOT_MODIFIED
            return
        # Only GET has ranges (RFC 9110, section 14.2).
        wanted = preconditions.wanted(output.size) if req.method == "GET" else None
        _show_content(resp, output, wanted)
        if req.method == "GET" and output.size:
            pieces = self._pieces(output, wanted or range(output.size), req.scope.get(IS_OPEN, _always))
            resp.set_stream(pieces, len(wanted or range(output.size)))

    on_head = on_get

    def _name(self, id_: UUID, job_id: str, asked: str | None) -> "_Name":
        """Return the name of the file. Raises what says that there is none, or not yet."""
        job = queries.find_result(self.database, id_)
        if job is None:
            raise not_found(job_id)
        if job.status in _UNFINISHED:
            raise falcon.HTTPConflict(
                title="not_finished",
                description=f"The job has status {job.status}. It has an output when it is completed.",
            )
        named = named_files(bytes(job.result or b""), id_) if job.status == Status.COMPLETED else []
        if asked is None and named:
            return _Name(named[0], is_named=True)
        name = (asked or "").removeprefix("output/")
        if job.status != Status.COMPLETED or not name.startswith(f"{id_}."):
            raise _no_output(job.status)
        return _Name(name, is_named=name in named)

    def _find(self, name: "_Name") -> Output:
        output = self.outputs.find(name.text)
        if output is None and name.is_named:
            raise falcon.HTTPGone(
                title="output_gone", description="The job wrote this file, and it was deleted since. Run the job again."
            )
        if output is None:
            raise _no_output(Status.COMPLETED)
        return output

    async def _pieces(self, output: Output, wanted: range, is_open: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Yield the content, as long as the client takes it. An error ends it early, and so the connection."""
        self._downloads += 1
        start = wanted.start
        try:
            while start < wanted.stop and is_open():
                length = min(self._piece_bytes(), wanted.stop - start)
                piece = await self.reading.run(self.outputs.read_piece, output, start, length)
                yield piece
                start += len(piece)
        except (OutputChanged, Unavailable, TooBusy) as error:
            # The status was sent. A body that is shorter than its Content-Length tells the client.
            log.warning("A download ended early", output=output.name, sent=start - wanted.start, error=str(error))
        finally:
            self._downloads -= 1

    def _piece_bytes(self) -> int:
        return min(MOST_PIECE_BYTES, max(LEAST_PIECE_BYTES, PIECES_BYTES // self._downloads))


class _Name(msgspec.Struct, frozen=True):
    """The name of a file of a job, and whether the job's result names it."""

    text: str
    is_named: bool


def named_files(result: bytes, job_id: UUID) -> list[str]:
    """Return the files of this job that its result, a JSON text, names. Names of another job's files are left out."""
    found = re.findall(rf'"output/({re.escape(str(job_id))}\.[A-Za-z0-9._-]+)"', result.decode())
    return [name for name in found if NAME.fullmatch(name)]


def _no_output(status: str) -> falcon.HTTPNotFound:
    reason = (
        "The job has no file of this name." if status == Status.COMPLETED else f"A job that is {status} has no output."
    )
    return falcon.HTTPNotFound(title="output_not_found", description=f"{reason} Read its `result` and `error`.")


def _show_validators(resp: Response, output: Output, modified: datetime | None) -> None:
    resp.set_header("ETag", output.etag)
    resp.set_header("Accept-Ranges", "bytes")
    if modified is not None:  # a date in the future must not be sent (RFC 9110, section 8.8.2.1)
        resp.last_modified = modified


def _show_content(resp: Response, output: Output, wanted: range | None) -> None:
    resp.content_type = media_type_of(output.name)
    # The name is ASCII without quotes, so that both forms are the same (RFC 6266, RFC 8187).
    resp.set_header("Content-Disposition", f"attachment; filename=\"{output.name}\"; filename*=UTF-8''{output.name}")
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.content_length = output.size
    if wanted is not None:
        resp.status = falcon.HTTP_PARTIAL_CONTENT
        resp.set_header("Content-Range", f"bytes {wanted.start}-{wanted.stop - 1}/{output.size}")


def _always() -> bool:
    return True
