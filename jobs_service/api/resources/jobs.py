"""/jobs, /jobs/{id}, and what can be done with one."""

import base64
import binascii
import re
from collections.abc import Iterable
from uuid import UUID

import falcon
import msgspec

from jobs_service import events
from jobs_service.api import request_body
from jobs_service.api.resources.follow_up import FollowUp
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest
from jobs_service.events import AttemptAmbiguous, JobCancelled, JobRedriven
from jobs_service.jobs import lifecycle, queries
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.lifecycle import Status, TransitionedJob, Unheard
from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import PAYLOAD_BYTES
from jobs_service.submission.submit import Submission, Submitter

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
#: A page with so much in it takes no further job.
PAGE_BYTES = 8 * 2**20

_FILTERS = {"status", "type", "limit", "cursor"}


class JobCollection:
    """/jobs."""

    def __init__(self, submitter: Submitter, registry: Registry, *, max_body_bytes: int) -> None:
        self.submitter = submitter
        self.registry = registry
        self.max_body_bytes = max_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        submission = request_body.read(req, Submission, max_bytes=self.max_body_bytes)
        job = self.submitter.submit(submission, req.context.origin)
        observations.add(PAYLOAD_BYTES.labels(), len(job.payload.encode()))
        resp.status = falcon.HTTP_CREATED
        resp.set_header("Location", f"{req.root_path}/jobs/{job.id}")
        resp.data = b'{"job_id":"%b","status":"pending"}' % str(job.id).encode()

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        _check_parameters(req)
        limit = _limit(req)
        found = queries.newest_jobs(
            status=_status(req),
            job_type=self._type(req),
            before=_cursor(req),
            limit=limit + 1,
            hidden=[job_type.name for job_type in self.registry.canaries],
        )
        page, next_cursor = _fill_page(found, limit)
        if next_cursor:
            resp.append_link(_next_page(req, next_cursor), "next")
        resp.data = msgspec.json.encode({"jobs": page, "next_cursor": next_cursor})

    on_head = on_get

    def _type(self, req: falcon.Request) -> str | None:
        name = req.get_param("type")
        if name is None:
            return None
        try:
            return self.registry.get(name).name
        except InvalidRequest as error:
            raise InvalidRequest(error.detail, pointer="type") from None


class JobItem:
    """/jobs/{job_id}."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:  # noqa: ARG002
        job = queries.find_job(parse_id(job_id))
        if job is None:
            raise _not_found(job_id)
        resp.data = msgspec.json.encode(job.representation())

    on_head = on_get


class JobCancellation:
    """/jobs/{job_id}/cancel."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.follow_up = FollowUp()

    def on_post(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:  # noqa: ARG002
        """End the job: at once if it waits; if it runs, its attempt has lost its lease and is interrupted soon."""
        id_, unheard = parse_id(job_id), Unheard()
        moved = self.follow_up.call(lambda: self._cancel(id_, unheard), unheard)
        if moved is None:
            raise _conflict(job_id, "is finished already: there is nothing to cancel")
        resp.data = _answer(moved, Status.CANCELLED)

    def _cancel(self, job_id: UUID, unheard: Unheard) -> TransitionedJob | None:
        if cancelled := lifecycle.cancel(self.database, job_id, unheard=unheard):
            if cancelled.on_ambiguous:
                events.emit(AttemptAmbiguous(**cancelled.facts, policy=str(cancelled.on_ambiguous)))
            events.emit(JobCancelled(**cancelled.facts))
        return cancelled


class JobRetry:
    """/jobs/{job_id}/retry."""

    def __init__(self, database: Database, dead_letters: DeadLetterList) -> None:
        self.database = database
        self.dead_letters = dead_letters
        self.follow_up = FollowUp()

    def on_post(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:  # noqa: ARG002
        """Redrive the job: its attempts start afresh, its history stays. The relay publishes it."""
        id_, unheard = parse_id(job_id), Unheard()
        moved = self.follow_up.call(lambda: self._redrive(id_, unheard), unheard)
        if moved is None:
            raise _conflict(job_id, "is not finished: it runs, or will run, by itself")
        resp.data = _answer(moved, Status.PENDING)

    def _redrive(self, job_id: UUID, unheard: Unheard) -> TransitionedJob | None:
        if moved := lifecycle.redrive(self.database, job_id, unheard=unheard):
            self.dead_letters.remove(job_id)
            events.emit(JobRedriven(**moved.facts))
        return moved


def _fill_page(jobs: Iterable[queries.Job], limit: int) -> tuple[list[msgspec.Raw], str | None]:
    """Return the jobs that fit on a page, as JSON, and the cursor if that was not all of them."""
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
    """Return the id in a path. What is not a UUID is the id of no job: Falcon's 404."""
    try:
        return UUID(text)
    except ValueError:
        raise _not_found(text) from None


def _answer(moved: TransitionedJob, status: Status) -> bytes:
    return msgspec.json.encode({"job_id": str(moved.job_id), "status": status})


def _conflict(job_id: str, why: str) -> falcon.HTTPError:
    """Return the answer for a job whose state does not allow it: 409, or 404 if there is none."""
    job = queries.find_job(parse_id(job_id))
    if job is None:
        return _not_found(job_id)
    return falcon.HTTPConflict(title="wrong_status", description=f"The job has status {job.status}: it {why}.")


def _not_found(job_id: str) -> falcon.HTTPNotFound:
    return falcon.HTTPNotFound(title="job_not_found", description=f"There is no job {job_id[:64]}.")


def _check_parameters(req: falcon.Request) -> None:
    for name in req.params.keys() - _FILTERS:
        raise InvalidRequest(f"unknown parameter; known: {', '.join(sorted(_FILTERS))}", pointer=name[:64])
    for name, value in req.params.items():
        if isinstance(value, list):
            raise InvalidRequest("given more than once", pointer=name)


def _status(req: falcon.Request) -> Status | None:
    name = req.get_param("status")
    if name is None:
        return None
    try:
        return Status(name)
    except ValueError:
        raise InvalidRequest(f"expected one of {', '.join(Status)}", pointer="status") from None


def _limit(req: falcon.Request) -> int:
    text = req.get_param("limit")
    if text is None:
        return DEFAULT_LIMIT
    # int() takes more than digits: underscores, spaces, other scripts.
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise InvalidRequest(f"expected a whole number from 1 to {MAX_LIMIT}", pointer="limit")
    return int(text)


def _cursor(req: falcon.Request) -> UUID | None:
    cursor = req.get_param("cursor")
    if cursor is None:
        return None
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", b"-_", validate=True))
    except (ValueError, binascii.Error):
        raise InvalidRequest("expected the next_cursor of an earlier answer", pointer="cursor") from None


def _encode_cursor(job_id: UUID) -> str:
    return base64.urlsafe_b64encode(job_id.bytes).decode().rstrip("=")


def _next_page(req: falcon.Request, cursor: str) -> str:
    # Not the path as it came: "//jobs" would be a link to a host of that name.
    return f"{req.root_path}{req.uri_template}{falcon.to_query_str({**req.params, 'cursor': cursor})}"
