"""/jobs, /jobs/{id}, and the actions on a job."""

from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service import events
from jobs_service.api import idempotency, request_body
from jobs_service.api.callers import Scope
from jobs_service.api.etags import ETAG, IF_NONE_MATCH, etag_of, show
from jobs_service.api.event_feed import Wait
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.follow_up import FollowUp
from jobs_service.api.resources.job_changes import PATCH_MEDIA_TYPES, JobChanger, JobPatch, parse
from jobs_service.api.resources.job_pages import CountQuery, JobCount, JobPage, JobPages, JobsQuery, next_page
from jobs_service.api.threads import Threads
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database
from jobs_service.errors import IdempotencyConflict, InvalidRequest
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle, queries, representation
from jobs_service.jobs.idempotency import KeptAnswer, Key, find as find_keys
from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import PAYLOAD_BYTES
from jobs_service.submission.submit import Submission, Submitter


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


_LOCATION = Header(
    "Location", "The path of the job.", example=f"/jobs/{representation.EXAMPLE['job_id']}", is_required=True
)
_LINK = Header(
    "Link", "The next page, with `rel=next`; absent on the last one.", example="</jobs?cursor=AZej8lwefT>; rel=next"
)


class JobCollection(DatabaseResource):
    """/jobs."""

    def __init__(
        self,
        database: Database,
        threads: Threads,
        submitter: Submitter,
        pages: JobPages,
        body_reader: request_body.BodyReader,
    ) -> None:
        super().__init__(database, threads)
        self.submitter = submitter
        self.pages = pages
        self.body_reader = body_reader

    @operation(
        id="submit_job",
        summary="Submit a job",
        description="When the answer arrives, the job is committed: it is not lost. A request with an "
        "`Idempotency-Key` can be sent again until there is an answer, and submits one job.",
        tag="jobs",
        headers=(idempotency.HEADER,),
        scope=Scope.JOBS_WRITE,
        body=Submission,
        body_examples={
            "csv": {"type": "csv-generation", "payload": {"rows": [{"name": "Alice", "score": 95}], "delimiter": ";"}},
            "mail": {
                "type": "EMAIL_SEND",
                "payload": {"to": "alice@example.com", "subject": "Your report", "body": "It is attached."},
                "delay_seconds": 60,
                "priority": 7,
            },
        },
        answers={
            HTTPStatus.CREATED: Answer(
                "The job is committed.",
                SubmittedJob,
                headers=(_LOCATION, idempotency.REPLAYED),
                example={"job_id": representation.EXAMPLE["job_id"], "status": "pending"},
            )
        },
        problems=(*PROBLEMS, "queue_full", *idempotency.PROBLEMS),
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        raw = await self.body_reader.raw(req)
        submission = await self.body_reader.decoded(raw, Submission)
        failpoint("api.in_event_loop")
        await submit(req, resp, self.submitter, submission, idempotency.key_of(req, raw))

    @operation(
        id="list_jobs",
        summary="List jobs, newest first",
        description="A job is on one page at most. Follow `next_cursor` until it is null: pages may be short.",
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
        resp.data, next_cursor = await self.run(self.pages.page, req.context.query)
        if next_cursor:
            resp.append_link(next_page(req, next_cursor), "next")

    on_head = on_get


class JobsCount(DatabaseResource):
    """/jobs/count."""

    def __init__(self, database: Database, threads: Threads, pages: JobPages) -> None:
        super().__init__(database, threads)
        self.pages = pages

    @operation(
        id="count_jobs",
        summary="Count jobs",
        description="Counts to 1,000, or to `limit`, and reads no more than a page of the list does.",
        tag="jobs",
        scope=Scope.JOBS_READ,
        query=CountQuery,
        answers={
            HTTPStatus.OK: Answer(
                "How many jobs match the filters.", JobCount, example={"count": 1_000, "is_capped": True}
            )
        },
        problems=PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data = await self.run(self.pages.count, req.context.query)

    on_head = on_get


#: How long `GET /jobs/{job_id}` may wait for the end of the job.
MAX_WAIT_SECONDS = 60


class JobQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether `GET /jobs/{job_id}` waits."""

    wait: Annotated[
        float,
        Meta(
            ge=0,
            le=MAX_WAIT_SECONDS,
            description="Answer when the job has ended, but after so many seconds in any case.",
        ),
    ] = 0


class JobItem(DatabaseResource):
    """/jobs/{job_id}."""

    def __init__(
        self,
        database: Database,
        threads: Threads,
        waiting: Wait,
        body_reader: request_body.BodyReader,
        changer: JobChanger,
    ) -> None:
        super().__init__(database, threads)
        self.waiting = waiting
        self.body_reader = body_reader
        self.changer = changer

    @operation(
        id="get_job",
        summary="Read a job",
        tag="jobs",
        scope=Scope.JOBS_READ,
        query=JobQuery,
        headers=(IF_NONE_MATCH,),
        answers={
            HTTPStatus.OK: Answer("The job.", representation.Job, headers=(ETAG,), example=representation.EXAMPLE),
            HTTPStatus.NOT_MODIFIED: Answer("The job is as the caller has it.", headers=(ETAG,)),
        },
        problems=(*PROBLEMS, "job_not_found"),
    )
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        query: JobQuery = req.context.query
        id_ = parse_id(job_id)
        async with self.waiting.until_ended(id_, query.wait) as waited:
            # The time that the client wanted to wait is not that of the answer.
            req.context.started += waited
            show(req, resp, await self.run(self._shown, id_, job_id))

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
                "The job as it is now.", representation.Job, headers=(ETAG,), example=representation.EXAMPLE
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
        resp.set_header("ETag", etag_of(resp.data))

    def _shown(self, id_: UUID, job_id: str) -> bytes:
        job = queries.find_job(self.database, id_)
        if job is None:
            raise not_found(job_id)
        return msgspec.json.encode(job.representation())

    def _change(self, id_: UUID, job_id: str, if_match: str, changes: lifecycle.Changes) -> bytes:
        self.changer.change(id_, if_match, changes, not_found=not_found(job_id))
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
            " of a submission makes a new job, which differs in these fields and names the finished one in `retry_of`;"
            " with an `Idempotency-Key` it makes one job, however often it is sent."
        ),
        tag="jobs",
        headers=(idempotency.HEADER,),
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
                headers=(_LOCATION, idempotency.REPLAYED),
                example={"job_id": representation.EXAMPLE["job_id"], "status": "pending"},
            ),
        },
        problems=(*PROBLEMS, "job_not_found", "wrong_status", *idempotency.PROBLEMS),
    )
    async def on_post(self, req: Request, resp: Response, job_id: str) -> None:
        """Redrive the job: its attempts start at 0, its history stays. The relay publishes it."""
        raw = await self.body_reader.raw_if_any(req)
        sent = {} if raw is None else await self.body_reader.decoded(raw, dict[str, msgspec.Raw])
        # As in a submission, a field that is null counts as absent.
        if edits := {name: field for name, field in sent.items() if bytes(field) != b"null"}:
            await self._submit_edited(req, resp, job_id, edits, idempotency.key_of(req, raw or b""))
        else:
            resp.data = await self.run(self._answer, parse_id(job_id), job_id)

    async def _submit_edited(
        self, req: Request, resp: Response, job_id: str, edits: dict[str, msgspec.Raw], key: Key | None
    ) -> None:
        if "type" in edits:
            raise InvalidRequest("a retry has the type of the finished job: send it without type", pointer="/type")
        finished = await self.run(self._finished, parse_id(job_id), job_id, key)
        if isinstance(finished, KeptAnswer):
            idempotency.send(resp, finished, is_replayed=True)
            return
        wanted = {item.encode_name for item in msgspec.structs.fields(Submission)} & {*_INHERITED}
        kept = {name: getattr(finished, name) for name in wanted}
        submission = await self.body_reader.decoded(
            msgspec.json.encode({"type": finished.type} | kept | edits), Submission
        )
        await submit(req, resp, self.submitter, submission, key, retry_of=finished.job_id)

    def _finished(self, id_: UUID, job_id: str, key: Key | None) -> representation.Job | KeptAnswer:
        """Return the job. If it is not finished any more: the answer that the key had while it was."""
        job = queries.find_job(self.database, id_)
        if job is not None and job.status in lifecycle.TERMINAL:
            return job.representation()
        if key is not None and (stored := find_keys(self.database, [key]).get(key.name)):
            answer = stored.replay(key)
            if isinstance(answer, IdempotencyConflict):
                raise answer
            return answer
        if job is None:
            raise not_found(job_id)
        raise _conflict(self.database, job_id, "Only a finished job can be run again with changes.")

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


async def submit(
    req: Request,
    resp: Response,
    submitter: Submitter,
    submission: Submission,
    key: Key | None,
    *,
    retry_of: UUID | None = None,
) -> None:
    """Submit a job, once if there is a key, and answer that it is committed."""
    origin = req.context.origin
    if key is None:
        job = await submitter.submit(submission, origin, retry_of=retry_of)
        answer, is_replayed = _created(req, job), False
    else:
        answer, is_replayed = await submitter.submit_once(
            submission, origin, key, lambda job: _created(req, job), retry_of=retry_of
        )
    if not is_replayed:
        observations.add(PAYLOAD_BYTES.labels(), memoryview(submission.payload).nbytes)
    idempotency.send(resp, answer, is_replayed=is_replayed)


def _created(req: Request, job: lifecycle.NewJob) -> KeptAnswer:
    body = b'{"job_id":"%b","status":"pending"}' % str(job.id).encode()
    return KeptAnswer(HTTPStatus.CREATED, f"{req.root_path}/jobs/{job.id}", body)


def parse_id(text: str) -> UUID:
    """Return the id in a path. Raises 404 for a text that is not a UUID, because no job has such an id."""
    try:
        return UUID(text)
    except ValueError:
        raise not_found(text) from None


def _answer(moved: lifecycle.TransitionedJob, status: lifecycle.Status) -> bytes:
    return msgspec.json.encode({"job_id": str(moved.job_id), "status": status})


def _conflict(database: Database, job_id: str, rule: str) -> falcon.HTTPError:
    """Return the error for a job whose status does not allow an action: 409, or 404 if there is no such job."""
    job = queries.find_job(database, parse_id(job_id))
    if job is None:
        return not_found(job_id)
    return falcon.HTTPConflict(title="wrong_status", description=f"The job has status {job.status}. {rule}")


def not_found(job_id: str) -> falcon.HTTPNotFound:
    return falcon.HTTPNotFound(title="job_not_found", description=f"There is no job {job_id[:64]}.")
