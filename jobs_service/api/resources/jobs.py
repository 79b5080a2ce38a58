"""/jobs, /jobs/{id}, and the actions on a job."""

import base64
import binascii
from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service import events
from jobs_service.api import etags, request_body
from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.follow_up import FollowUp
from jobs_service.api.resources.job_changes import PATCH_MEDIA_TYPES, JobChanger, JobPatch, parse
from jobs_service.api.threads import Threads
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle, queries, representation
from jobs_service.jobs.job_types import Registry
from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import PAYLOAD_BYTES
from jobs_service.submission.submit import Submission, Submitter

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
#: No further job is added to a page of this size.
PAGE_BYTES = 8 * 2**20


class JobsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The filters of `GET /jobs`, and the place in the list."""

    status: lifecycle.Status | None = None
    type: Annotated[str | None, Meta(description="A job type, in any spelling.")] = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="How many jobs a page has at most.")] = DEFAULT_LIMIT
    cursor: Annotated[str | None, Meta(description="The `next_cursor` of the previous page.")] = None


class Cancellation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a cancel."""

    reason: Annotated[str, Meta(min_length=1, max_length=1_000, description="Kept on the job.")] | None = None


#: The fields of a submission that an edited retry takes over from the finished job unless its body has them.
_INHERITED = ("payload", "queue", "priority", "max_attempts", "on_ambiguous", "timeout_seconds", "tags")

#: The body of an edited retry, as the OpenAPI document shows it: each field of a submission but the type, all optional.
EditedRetry = msgspec.defstruct(
    "EditedRetry",
    [(item.name, item.type | None, None) for item in msgspec.structs.fields(Submission) if item.name != "type"],
    namespace={"__doc__": "What is different in the new job. Other fields are those of the finished one."},
    frozen=True,
    forbid_unknown_fields=True,
)


class SubmittedJob(msgspec.Struct, frozen=True):
    """The answer about a job that was just submitted, cancelled or redriven."""

    job_id: UUID
    status: lifecycle.Status


class JobPage(msgspec.Struct, frozen=True):
    """A page of a list of jobs."""

    jobs: list[representation.Job]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


_LOCATION = Header("Location", "The path of the job.", example=f"/jobs/{representation.EXAMPLE['job_id']}")
_ETAG = Header("ETag", "The tag of this representation, for `If-Match`.")
_LINK = Header("Link", "The next page, with `rel=next`; absent on the last one.")


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

    @operation(
        id="submit_job",
        summary="Submit a job",
        description="When the answer arrives, the job is committed: it is not lost.",
        tag="jobs",
        scope=Scope.JOBS_WRITE,
        body=Submission,
        body_examples={"csv-generation": {"type": "csv-generation", "payload": {"name": "Alice", "score": 95}}},
        answers={
            HTTPStatus.CREATED: Answer(
                "The job is committed.",
                SubmittedJob,
                headers=(_LOCATION,),
                example={"job_id": representation.EXAMPLE["job_id"], "status": "pending"},
            )
        },
        problems=PROBLEMS,
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        submission = await self.body_reader.read(req, Submission)
        failpoint("api.in_event_loop")
        answer_submitted(req, resp, await self.submitter.submit(submission, req.context.origin))

    @operation(
        id="list_jobs",
        summary="List jobs, newest first",
        tag="jobs",
        scope=Scope.JOBS_READ,
        query=JobsQuery,
        answers={
            HTTPStatus.OK: Answer(
                "A page of jobs.",
                JobPage,
                headers=(_LINK,),
                example={"jobs": [representation.EXAMPLE], "next_cursor": None},
            )
        },
        problems=PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        query: JobsQuery = req.context.query
        resp.data, next_cursor = await self.run(
            self._page,
            status=query.status,
            job_type=self._type(query.type),
            before=_decode_cursor(query.cursor),
            limit=query.limit,
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

    def _type(self, name: str | None) -> str | None:
        if name is None:
            return None
        try:
            return self.registry.get(name).name
        except InvalidRequest as error:
            raise InvalidRequest(error.detail, pointer="type") from None


def answer_submitted(req: Request, resp: Response, job: lifecycle.NewJob) -> None:
    """Answer that a new job is committed."""
    observations.add(PAYLOAD_BYTES.labels(), len(job.payload.encode()))
    resp.status = falcon.HTTP_CREATED
    resp.set_header("Location", f"{req.root_path}/jobs/{job.id}")
    resp.data = b'{"job_id":"%b","status":"pending"}' % str(job.id).encode()


class JobItem(DatabaseResource):
    """/jobs/{job_id}."""

    def __init__(
        self, database: Database, threads: Threads, body_reader: request_body.BodyReader, changer: JobChanger
    ) -> None:
        super().__init__(database, threads)
        self.body_reader = body_reader
        self.changer = changer

    @operation(
        id="get_job",
        summary="Read a job",
        tag="jobs",
        scope=Scope.JOBS_READ,
        answers={
            HTTPStatus.OK: Answer("The job.", representation.Job, headers=(_ETAG,), example=representation.EXAMPLE)
        },
        problems=(*PROBLEMS, "job_not_found"),
    )
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:  # noqa: ARG002
        resp.data = await self.run(self._shown, parse_id(job_id), job_id)
        resp.set_header("ETag", etags.etag_of(resp.data))

    on_head = on_get

    @operation(
        id="change_job",
        summary="Change a pending job",
        description="A merge patch (RFC 7396). `tags` may be null, which removes them; other fields may not.",
        tag="jobs",
        scope=Scope.JOBS_WRITE,
        body=JobPatch,
        body_media_types=PATCH_MEDIA_TYPES,
        body_examples={"earlier and first": {"run_at": "2026-11-26T09:30:00Z", "priority": 9}},
        headers=(Header("If-Match", "The `ETag` of the job as you know it, or `*`.", is_required=True),),
        answers={
            HTTPStatus.OK: Answer(
                "The job as it is now.", representation.Job, headers=(_ETAG,), example=representation.EXAMPLE
            )
        },
        problems=(*PROBLEMS, "job_not_found", "wrong_status", "precondition_failed", "precondition_required"),
    )
    async def on_patch(self, req: Request, resp: Response, job_id: str) -> None:
        if_match = req.get_header("If-Match")
        if if_match is None:
            raise falcon.HTTPPreconditionRequired(
                title="precondition_required",
                description="Send If-Match with the ETag of the job as you know it, from GET /jobs/{job_id}.",
            )
        changes = parse(await self.body_reader.read(req, dict[str, Any], media_types=PATCH_MEDIA_TYPES))
        resp.data = await self.run(self._change, parse_id(job_id), job_id, if_match, changes)
        resp.set_header("ETag", etags.etag_of(resp.data))

    def _shown(self, id_: UUID, job_id: str) -> bytes:
        job = queries.find_job(self.database, id_)
        if job is None:
            raise _not_found(job_id)
        return msgspec.json.encode(job.representation())

    def _change(self, id_: UUID, job_id: str, if_match: str, changes: lifecycle.Changes) -> bytes:
        self.changer.change(id_, if_match, changes, not_found=_not_found(job_id))
        return self._shown(id_, job_id)


class JobCancellation(DatabaseResource):
    """/jobs/{job_id}/cancel."""

    def __init__(self, database: Database, threads: Threads, body_reader: request_body.BodyReader) -> None:
        super().__init__(database, threads)
        self.body_reader = body_reader
        self.follow_up = FollowUp()

    @operation(
        id="cancel_job",
        summary="Cancel a job",
        description="A pending job is cancelled at once. A running attempt loses its lease and is interrupted.",
        tag="jobs",
        scope=Scope.JOBS_WRITE,
        body=Cancellation,
        body_is_optional=True,
        body_examples={"with a reason": {"reason": "ordered twice"}},
        answers={
            HTTPStatus.OK: Answer(
                "The job is cancelled.",
                SubmittedJob,
                example={"job_id": representation.EXAMPLE["job_id"], "status": "cancelled"},
            )
        },
        problems=(*PROBLEMS, "job_not_found", "wrong_status"),
    )
    async def on_post(self, req: Request, resp: Response, job_id: str) -> None:
        """Cancel the job. A running attempt loses its lease at once, and is interrupted with the next heartbeat."""
        wish = await self.body_reader.read_if_any(req, Cancellation) or Cancellation()
        resp.data = await self.run(self._answer, parse_id(job_id), job_id, wish.reason, req.context.caller.name)

    def _answer(self, id_: UUID, job_id: str, reason: str | None, by: str) -> bytes:
        lost_reply = lifecycle.LostReply()
        moved = self.follow_up.call(lambda: self._cancel(id_, reason, by, lost_reply), lost_reply)
        if moved is None:
            raise _conflict(self.database, job_id, "Only a job that is pending or processing can be cancelled.")
        return _answer(moved, lifecycle.Status.CANCELLED)

    def _cancel(
        self, job_id: UUID, reason: str | None, by: str, lost_reply: lifecycle.LostReply
    ) -> lifecycle.TransitionedJob | None:
        if cancelled := lifecycle.cancel(self.database, job_id, reason=reason, by=by, lost_reply=lost_reply):
            if cancelled.on_ambiguous:
                events.emit(events.AttemptAmbiguous(**cancelled.facts, policy=str(cancelled.on_ambiguous)))
            events.emit(events.JobCancelled(**cancelled.facts))
        return cancelled


class JobRetry(DatabaseResource):
    """/jobs/{job_id}/retry."""

    def __init__(
        self,
        database: Database,
        threads: Threads,
        dead_letters: DeadLetterList,
        submitter: Submitter,
        body_reader: request_body.BodyReader,
    ) -> None:
        super().__init__(database, threads)
        self.dead_letters = dead_letters
        self.submitter = submitter
        self.body_reader = body_reader
        self.follow_up = FollowUp()

    @operation(
        id="retry_job",
        summary="Run a finished job again",
        description=(
            "Without a body, or with `{}`, the id and the history stay, and the attempts start at 0. A body with fields"
            " of a submission makes a new job, which differs in these fields and names the finished one in `retry_of`."
        ),
        tag="jobs",
        scope=Scope.JOBS_WRITE,
        body=EditedRetry,
        body_is_optional=True,
        body_examples={"with another payload": {"payload": {"name": "Alice", "score": 96}}},
        answers={
            HTTPStatus.OK: Answer(
                "The job is pending again.",
                SubmittedJob,
                example={"job_id": representation.EXAMPLE["job_id"], "status": "pending"},
            ),
            HTTPStatus.CREATED: Answer(
                "The new job is committed.",
                SubmittedJob,
                headers=(_LOCATION,),
                example={"job_id": representation.EXAMPLE["job_id"], "status": "pending"},
            ),
        },
        problems=(*PROBLEMS, "job_not_found", "wrong_status"),
    )
    async def on_post(self, req: Request, resp: Response, job_id: str) -> None:
        """Redrive the job: its attempts start at 0, its history stays. The relay publishes it."""
        sent = await self.body_reader.read_if_any(req, dict[str, msgspec.Raw]) or {}
        # As in a submission, a field that is null counts as absent.
        if edits := {name: raw for name, raw in sent.items() if bytes(raw) != b"null"}:
            await self._submit_edited(req, resp, job_id, edits)
        else:
            resp.data = await self.run(self._answer, parse_id(job_id), job_id)

    async def _submit_edited(self, req: Request, resp: Response, job_id: str, edits: dict[str, msgspec.Raw]) -> None:
        if "type" in edits:
            raise InvalidRequest("a retry has the type of the finished job: send it without type", pointer="/type")
        finished = await self.run(self._finished, parse_id(job_id), job_id)
        wanted = {item.encode_name for item in msgspec.structs.fields(Submission)} & {*_INHERITED}
        kept = {name: getattr(finished, name) for name in wanted}
        submission = await self.body_reader.decode(
            msgspec.json.encode({"type": finished.type} | kept | edits), Submission
        )
        job = await self.submitter.submit(submission, req.context.origin, retry_of=finished.job_id)
        answer_submitted(req, resp, job)

    def _finished(self, id_: UUID, job_id: str) -> representation.Job:
        job = queries.find_job(self.database, id_)
        if job is None:
            raise _not_found(job_id)
        if job.status not in lifecycle.TERMINAL:
            raise _conflict(self.database, job_id, "Only a finished job can be run again with changes.")
        return job.representation()

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


def _decode_cursor(cursor: str | None) -> UUID | None:
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
