"""/jobs/batch."""

from enum import StrEnum
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api import batch_body, idempotency, problem_types
from jobs_service.api.callers import Scope
from jobs_service.api.openapi import FieldProblem, Problem
from jobs_service.api.operations import Answer, operation
from jobs_service.api.request_body import media_type_of, read_bytes
from jobs_service.api.resources.database import PROBLEMS
from jobs_service.api.threads import Threads
from jobs_service.errors import DatabaseUnavailable, InvalidRequest, MalformedBody
from jobs_service.jobs import representation
from jobs_service.jobs.idempotency import KeptAnswer
from jobs_service.jobs.lifecycle import NewJob
from jobs_service.submission.batches import MAX_JOBS, Batch, BatchSubmitter, Outcomes
from jobs_service.submission.submit import Submission

#: How many batches of a process may wait for the one that is being written. Further ones are refused, because each
#: holds its body in memory.
MAX_WAITING = 3


class Mode(StrEnum):
    """What to do with a batch in which jobs are invalid."""

    #: Submit none.
    ATOMIC = "atomic"
    #: Submit the others.
    PARTIAL = "partial"


class BatchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to submit a batch."""

    mode: Annotated[Mode, Meta(description="If jobs are invalid: submit none, or the others.")] = Mode.ATOMIC


class SubmittedItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a job of a batch."""

    status: Annotated[int, Meta(description="As `POST /jobs` would have answered.")]
    job_id: UUID | None = None
    #: Why it was not submitted.
    problem: Problem | None = None


class SubmittedBatch(msgspec.Struct, frozen=True):
    """What came of a batch."""

    submitted: int
    refused: int
    results: Annotated[list[SubmittedItem], Meta(description="One for each job, in the order in which they were sent.")]


_JOB = {"status": 201, "job_id": representation.EXAMPLE["job_id"]}
_PROBLEM = {
    "status": 422,
    "problem": {
        "type": problem_types.uri("invalid_request"),
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "/1/priority: Expected `int` <= 9",
        "code": "invalid_request",
        "errors": [{"pointer": "/1/priority", "detail": "Expected `int` <= 9"}],
    },
}


class JobBatch:
    """/jobs/batch."""

    def __init__(self, submitter: BatchSubmitter, *, max_bytes: int, max_job_bytes: int) -> None:
        """A body may have `max_bytes`, a job in it `max_job_bytes`."""
        self.submitter = submitter
        self.max_bytes = max(max_bytes, max_job_bytes)
        self.max_job_bytes = max_job_bytes
        # Of its own: a batch takes longer than anything else.
        self.threads = Threads(1, max_waiting=MAX_WAITING)

    @operation(
        id="submit_jobs",
        summary="Submit up to 10,000 jobs",
        description="The body is a JSON array of what `POST /jobs` takes, or NDJSON with one of them on each line. "
        "By default all jobs are submitted, or none. With `mode=partial` the answer is `207` if some were refused. "
        "All jobs of a batch are committed together.",
        tag="jobs",
        scope=Scope.JOBS_WRITE,
        query=BatchQuery,
        headers=(idempotency.HEADER,),
        body=Annotated[list[Submission], Meta(min_length=1, max_length=MAX_JOBS)],
        body_media_types=(batch_body.JSON, batch_body.NDJSON),
        body_examples={"two jobs": [{"type": "csv-generation", "payload": {"name": name}} for name in ("A", "B")]},
        answers={
            HTTPStatus.CREATED: Answer(
                "All jobs are committed.",
                SubmittedBatch,
                headers=(idempotency.REPLAYED,),
                example={"submitted": 1, "refused": 0, "results": [_JOB]},
            ),
            HTTPStatus.MULTI_STATUS: Answer(
                "The jobs with status 201 are committed, the others were refused.",
                SubmittedBatch,
                headers=(idempotency.REPLAYED,),
                example={"submitted": 1, "refused": 1, "results": [_JOB, _PROBLEM]},
            ),
        },
        problems=(*PROBLEMS, "queue_full", *idempotency.PROBLEMS),
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        query: BatchQuery = req.context.query
        if reason := self.submitter.database.refusal():
            raise DatabaseUnavailable(reason)
        raw = await read_bytes(req, self.max_bytes, (batch_body.JSON, batch_body.NDJSON))
        batch = Batch(
            items=batch_body.items(raw, media_type_of(req), max_bytes=self.max_job_bytes),
            origin=req.context.origin,
            is_atomic=query.mode is Mode.ATOMIC,
            key=idempotency.key_of(req, raw),
            answer=lambda outcomes: _answer(outcomes, req.root_path),
        )
        answer, is_replayed = await self.threads.run(self.submitter.submit, batch)
        idempotency.send(resp, answer, is_replayed=is_replayed)


def _answer(outcomes: Outcomes, root_path: str) -> KeptAnswer:
    results = _results(outcomes, root_path)
    submitted = sum(result.job_id is not None for result in results)
    status = HTTPStatus.CREATED if submitted == len(results) else HTTPStatus.MULTI_STATUS
    body = SubmittedBatch(submitted, len(results) - submitted, results)
    return KeptAnswer(status, None, msgspec.json.encode(body))


def _results(outcomes: Outcomes, root_path: str) -> list[SubmittedItem]:
    return [
        SubmittedItem(HTTPStatus.CREATED, job_id=outcome.id)
        if isinstance(outcome, NewJob)
        else _refused(index, outcome, root_path)
        for index, outcome in enumerate(outcomes)
    ]


def _refused(index: int, error: InvalidRequest, root_path: str) -> SubmittedItem:
    malformed = isinstance(error, MalformedBody)
    status = HTTPStatus.BAD_REQUEST if malformed else HTTPStatus.UNPROCESSABLE_ENTITY
    code = "malformed_body" if malformed else "invalid_request"
    found = FieldProblem(f"/{index}{error.pointer}", error.detail)
    problem = Problem(
        problem_types.uri(code, root_path),
        status.phrase,
        status.value,
        f"{found.pointer}: {found.detail}",
        code,
        errors=[found],
    )
    return SubmittedItem(status.value, problem=problem)
