"""/jobs, /jobs/{id}, and the actions on a job."""

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request, Response

from jobs_service import events
from jobs_service.api import request_body
from jobs_service.api.resources.follow_up import FollowUp
from jobs_service.api.threads import Threads
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable, InvalidRequest
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle, queries
from jobs_service.jobs.job_types import Registry
from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import PAYLOAD_BYTES
from jobs_service.submission.submit import Submission, Submitter

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
#: No further job is added to a page of this size.
PAGE_BYTES = 8 * 2**20

_FILTERS = {"status", "type", "limit", "cursor"}


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class DatabaseResource:
    """A resource whose methods run in threads where they ask PostgreSQL."""

    def __init__(self, database: Database, threads: Threads) -> None:
        self.database = database
        self.threads = threads

    async def run(
        self, call: Callable[Parameters, Result], *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Result:
        """Return what `call` returns in a thread. While PostgreSQL is known not to answer, refuse it at once."""
        if reason := self.database.refusal():
            raise DatabaseUnavailable(reason)
        return await self.threads.run(call, *arguments, **named)


class JobCollection(DatabaseResource):
    """/jobs."""

    def __init__(
        self,
        database: Database,
        threads: Threads,
        submitter: Submitter,
        registry: Registry,
        body_reader: request_body.BodyReader,
    ) -> None:
        super().__init__(database, threads)
        self.submitter = submitter
        self.registry = registry
        self.body_reader = body_reader

    async def on_post(self, req: Request, resp: Response) -> None:
        submission = await self.body_reader.read(req, Submission)
        failpoint("api.in_event_loop")
        job = await self.submitter.submit(submission, req.context.origin)
        observations.add(PAYLOAD_BYTES.labels(), len(job.payload.encode()))
        resp.status = falcon.HTTP_CREATED
        resp.set_header("Location", f"{req.root_path}/jobs/{job.id}")
        resp.data = b'{"job_id":"%b","status":"pending"}' % str(job.id).encode()

    async def on_get(self, req: Request, resp: Response) -> None:
        _check_parameters(req)
        resp.data, next_cursor = await self.run(
            self._page, status=_status(req), job_type=self._type(req), before=_cursor(req), limit=_limit(req)
        )
        if next_cursor:
            resp.append_link(_next_page(req, next_cursor), "next")

    on_head = on_get

    def _page(
        self, *, status: lifecycle.Status | None, job_type: str | None, before: UUID | None, limit: int
    ) -> tuple[bytes, str | None]:
        """Return a page as JSON, and the cursor of the next one."""
        found = queries.newest_jobs(
            self.database,
            status=status,
            job_type=job_type,
            before=before,
            limit=limit + 1,
            hidden=[job_type.name for job_type in self.registry.canaries],
        )
        page, next_cursor = _fill_page(found, limit)
        return msgspec.json.encode({"jobs": page, "next_cursor": next_cursor}), next_cursor

    def _type(self, req: Request) -> str | None:
        name = req.get_param("type")
        if name is None:
            return None
        try:
            return self.registry.get(name).name
        except InvalidRequest as error:
            raise InvalidRequest(error.detail, pointer="type") from None


class JobItem(DatabaseResource):
    """/jobs/{job_id}."""

    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:  # noqa: ARG002
        resp.data = await self.run(self._shown, parse_id(job_id), job_id)

    on_head = on_get

    def _shown(self, id_: UUID, job_id: str) -> bytes:
        job = queries.find_job(self.database, id_)
        if job is None:
            raise _not_found(job_id)
        return msgspec.json.encode(job.representation())


class JobCancellation(DatabaseResource):
    """/jobs/{job_id}/cancel."""

    def __init__(self, database: Database, threads: Threads) -> None:
        super().__init__(database, threads)
        self.follow_up = FollowUp()

    async def on_post(self, req: Request, resp: Response, job_id: str) -> None:  # noqa: ARG002
        """Cancel the job. A running attempt loses its lease at once, and is interrupted with the next heartbeat."""
        resp.data = await self.run(self._answer, parse_id(job_id), job_id)

    def _answer(self, id_: UUID, job_id: str) -> bytes:
        lost_reply = lifecycle.LostReply()
        moved = self.follow_up.call(lambda: self._cancel(id_, lost_reply), lost_reply)
        if moved is None:
            raise _conflict(self.database, job_id, "Only a job that is pending or processing can be cancelled.")
        return _answer(moved, lifecycle.Status.CANCELLED)

    def _cancel(self, job_id: UUID, lost_reply: lifecycle.LostReply) -> lifecycle.TransitionedJob | None:
        if cancelled := lifecycle.cancel(self.database, job_id, lost_reply=lost_reply):
            if cancelled.on_ambiguous:
                events.emit(events.AttemptAmbiguous(**cancelled.facts, policy=str(cancelled.on_ambiguous)))
            events.emit(events.JobCancelled(**cancelled.facts))
        return cancelled


class JobRetry(DatabaseResource):
    """/jobs/{job_id}/retry."""

    def __init__(self, database: Database, threads: Threads, dead_letters: DeadLetterList) -> None:
        super().__init__(database, threads)
        self.dead_letters = dead_letters
        self.follow_up = FollowUp()

    async def on_post(self, req: Request, resp: Response, job_id: str) -> None:  # noqa: ARG002
        """Redrive the job: its attempts start at 0, its history stays. The relay publishes it."""
        resp.data = await self.run(self._answer, parse_id(job_id), job_id)

    def _answer(self, id_: UUID, job_id: str) -> bytes:
        lost_reply = lifecycle.LostReply()
        moved = self.follow_up.call(lambda: self._redrive(id_, lost_reply), lost_reply)
        if moved is None:
            raise _conflict(
                self.database,
                job_id,
                "Only a finished job can be run again. This one is running, or will run by itself.",
            )
        return _answer(moved, lifecycle.Status.PENDING)

    def _redrive(self, job_id: UUID, lost_reply: lifecycle.LostReply) -> lifecycle.TransitionedJob | None:
        if moved := lifecycle.redrive(self.database, job_id, lost_reply=lost_reply):
            self.dead_letters.remove(job_id)
            events.emit(events.JobRedriven(**moved.facts))
        return moved


def _fill_page(jobs: Iterable[queries.Job], limit: int) -> tuple[list[msgspec.Raw], str | None]:
    """Return the jobs that fit on a page, as JSON, and a cursor if there are more."""
    page: list[msgspec.Raw] = []
    size, cursor = 0, None
    for job in jobs:
        if len(page) == limit or size >= PAGE_BYTES:
            return page, cursor
        shown = msgspec.json.encode(job.representation())
        page.append(msgspec.Raw(shown))
        size += len(shown)
        cursor = _encode_cursor(job.id)
    return page, None


def parse_id(text: str) -> UUID:
    """Return the id in a path. Raises 404 for a text that is not a UUID, because no job has such an id."""
    try:
        return UUID(text)
    except ValueError:
        raise _not_found(text) from None


def _answer(moved: lifecycle.TransitionedJob, status: lifecycle.Status) -> bytes:
    return msgspec.json.encode({"job_id": str(moved.job_id), "status": status})


def _conflict(database: Database, job_id: str, rule: str) -> falcon.HTTPError:
    """Return the error for a job whose status does not allow an action: 409, or 404 if there is no such job."""
    job = queries.find_job(database, parse_id(job_id))
    if job is None:
        return _not_found(job_id)
    return falcon.HTTPConflict(title="wrong_status", description=f"The job has status {job.status}. {rule}")


def _not_found(job_id: str) -> falcon.HTTPNotFound:
    return falcon.HTTPNotFound(title="job_not_found", description=f"There is no job {job_id[:64]}.")


def _check_parameters(req: Request) -> None:
    for name in req.params.keys() - _FILTERS:
        raise InvalidRequest(
            f"unknown query parameter; expected one of {', '.join(sorted(_FILTERS))}", pointer=name[:64]
        )
    for name, value in req.params.items():
        if isinstance(value, list):
            raise InvalidRequest(f"send {name} only once", pointer=name)


def _status(req: Request) -> lifecycle.Status | None:
    name = req.get_param("status")
    if name is None:
        return None
    try:
        return lifecycle.Status(name)
    except ValueError:
        raise InvalidRequest(f"expected one of {', '.join(lifecycle.Status)}", pointer="status") from None


def _limit(req: Request) -> int:
    text = req.get_param("limit")
    if text is None:
        return DEFAULT_LIMIT
    # int() accepts more than ASCII digits: underscores, spaces, digits of other scripts.
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise InvalidRequest(f"expected a whole number from 1 to {MAX_LIMIT}", pointer="limit")
    return int(text)


def _cursor(req: Request) -> UUID | None:
    cursor = req.get_param("cursor")
    if cursor is None:
        return None
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", b"-_", validate=True))
    except (ValueError, binascii.Error):
        raise InvalidRequest("expected the next_cursor of an earlier response", pointer="cursor") from None


def _encode_cursor(job_id: UUID) -> str:
    return base64.urlsafe_b64encode(job_id.bytes).decode().rstrip("=")


def _next_page(req: Request, cursor: str) -> str:
    # Not the path as it was sent: "//jobs" would be a link to a host named jobs.
    return f"{req.root_path}{req.uri_template}{falcon.to_query_str({**req.params, 'cursor': cursor})}"
