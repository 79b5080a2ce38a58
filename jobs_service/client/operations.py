"""The operations, as steps that both clients carry out: each yields requests, is sent their replies, and returns."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar
from urllib.parse import quote
from uuid import UUID

import msgspec

from jobs_service.client.errors import JobNotCompleted, NotFound, WaitTimeout, WrongStatus
from jobs_service.client.events import Feed
from jobs_service.client.models import BatchResult, Job, JobPage, Status, Submitted
from jobs_service.client.requests import ANSWER_SECONDS, Reply, Request, encoded, get, new_key, post, problem_error

T = TypeVar("T")
Steps: TypeAlias = Generator[Request, Reply, T]

#: A job's id, or what has one.
JobId: TypeAlias = UUID | str | Submitted | Job

#: How long one request waits for the end of a job.
WAIT_SECONDS = 30.0

#: How many jobs one request of `submit_many` has at most, and how many bytes unless a single job has more.
PIECE_JOBS, PIECE_BYTES = 2_000, 4 * 2**20


class Options(TypedDict, total=False):
    """What a submission may say beside type and payload. docs/api.md describes the fields."""

    queue: str
    priority: int
    run_at: datetime
    delay_seconds: float
    max_attempts: int
    timeout_seconds: int
    expires_at: datetime
    tags: Sequence[str]
    on_ambiguous: Literal["resend", "hold"]


class Filters(TypedDict, total=False):
    """Which jobs a list has."""

    status: Status | str
    type: str
    queue: str
    tag: str
    q: str
    created_after: datetime
    created_before: datetime
    attempts_min: int


def submit(job_type: str, payload: object, options: Options) -> Steps[Submitted]:
    """Submit a job. The request has an idempotency key, so it is sent until there is an answer."""
    reply = yield post("/jobs", {"type": job_type, "payload": payload, **options}, key=new_key())
    return reply.decode(Submitted)


def pieces(items: Iterable[T]) -> Iterator[list[tuple[T, bytes]]]:
    """Yield items with their JSON, as many at a time as one request takes."""
    piece: list[tuple[T, bytes]] = []
    size = 0
    for item in items:
        line = encoded(item)
        if piece and (len(piece) == PIECE_JOBS or size + len(line) > PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append((item, line))
        size += len(line)
    if piece:
        yield piece


def submit_piece(piece: Sequence[tuple[T, bytes]]) -> Steps[list[BatchResult[T]]]:
    """Submit some jobs, and return what became of each, in their order."""
    content = b"\n".join(line for _, line in piece)
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f'"{new_key()}"'}
    reply = yield Request("POST", "/jobs/batch", {"mode": "partial"}, content, headers)
    results = msgspec.json.decode(reply.content)["results"]
    request_id = reply.headers.get("x-request-id")
    return [
        _result(item, result, f"/{index}", request_id)
        for index, ((item, _), result) in enumerate(zip(piece, results, strict=True))
    ]


def _result(item: T, result: Mapping[str, Any], place: str, request_id: str | None) -> BatchResult[T]:
    """Return what became of an item. The API names its `place` in the request, which the caller does not know."""
    if "job_id" in result:
        return BatchResult(item, job_id=UUID(result["job_id"]))
    problem = {**result["problem"], "detail": result["problem"]["detail"].removeprefix(place)}
    problem["errors"] = [
        {**error, "pointer": error["pointer"].removeprefix(place)} for error in problem.get("errors", [])
    ]
    return BatchResult(item, error=problem_error(problem, request_id=request_id))


def find(job: JobId) -> Steps[Job]:
    """Read a job."""
    reply = yield get(_path(job), job_id=id_of(job))
    return reply.decode(Job)


def wait(job: JobId, seconds: float | None) -> Steps[Job]:
    """Return the job when it has ended. Raises `WaitTimeout` after so many seconds; None waits without a limit."""
    left = countdown(seconds)
    while True:
        rest = left()
        asked = WAIT_SECONDS if rest is None else min(rest, WAIT_SECONDS)
        request = get(_path(job), job_id=id_of(job), seconds=asked + ANSWER_SECONDS, wait=round(asked, 3))
        found = (yield request).decode(Job)
        if found.is_final:
            return found
        if left() == 0:
            raise WaitTimeout(found.job_id, seconds or 0)


def run(job_type: str, payload: object, options: Options, seconds: float | None) -> Steps[Job]:
    """Submit a job and return it when it is completed. Raises `JobNotCompleted` and `WaitTimeout`."""
    submitted = yield from submit(job_type, payload, options)
    job = yield from wait(submitted, seconds)
    if job.status is not Status.COMPLETED:
        raise JobNotCompleted(job)
    return job


def page(filters: Filters, cursor: str | None, limit: int) -> Steps[JobPage]:
    """Read a page of a list of jobs."""
    reply = yield get("/jobs", **_plain({**filters, "cursor": cursor, "limit": limit}))
    return reply.decode(JobPage)


def cancel(job: JobId, reason: str | None) -> Steps[Submitted]:
    """Cancel a job."""
    body = None if reason is None else {"reason": reason}
    return (yield from _acted(post(f"{_path(job)}/cancel", body, job_id=id_of(job)), {Status.CANCELLED}))


def retry(job: JobId) -> Steps[Submitted]:
    """Run a finished job again, with the same id."""
    anew = set(Status) - {Status.FAILED, Status.CANCELLED}
    return (yield from _acted(post(f"{_path(job)}/retry", job_id=id_of(job)), anew))


def retry_edited(job: JobId, changes: Mapping[str, object]) -> Steps[Submitted]:
    """Submit a new job that differs from a finished one, and names it."""
    reply = yield post(f"{_path(job)}/retry", dict(changes), job_id=id_of(job), key=new_key())
    return reply.decode(Submitted)


def _acted(request: Request, wanted: set[Status]) -> Steps[Submitted]:
    """Change a job. Where the request was sent again, an earlier one may have done it: then the job tells."""
    try:
        reply = yield request
    except WrongStatus as refused:
        if not refused.was_repeated:
            raise
        found = yield from find(request.job_id or "")
        if found.status not in wanted:
            raise
        return Submitted(found.job_id, found.status)
    return reply.decode(Submitted)


def read(path: str, **query: object) -> Steps[Any]:
    """Return the JSON of `GET path`. Parameters that are None are left out."""
    reply = yield get(path, **_plain(query))
    return msgspec.json.decode(reply.content)


def act(path: str, body: object = None, *, key: str | None = None, may_repeat: bool = True) -> Steps[Any]:
    """Return the JSON of `POST path`."""
    reply = yield post(path, body, key=key, may_repeat=may_repeat)
    return msgspec.json.decode(reply.content)


def delete(path: str) -> Steps[None]:
    """Delete what is at a path. That it is gone already is no error where the request was sent again."""
    try:
        yield Request("DELETE", path)
    except NotFound as refused:
        if not refused.was_repeated:
            raise


def redrive(conditions: Mapping[str, object], rate: float | None, *, dry_run: bool) -> Steps[Any]:
    """Redrive the dead letters that match, or only count them. Without a condition it is all of them."""
    chosen: dict[str, object] = {"filter": conditions} if conditions else {"all": True}
    if rate is not None:
        chosen["rate_per_second"] = rate
    # Sent once, unless nothing happens: two of them would be two operations, of which the second finds little to do.
    return (yield from act("/dead-letters/redrives", {**chosen, "dry_run": dry_run}, may_repeat=dry_run))


def countdown(seconds: float | None) -> Callable[[], float | None]:
    """Return what tells how many of the seconds are left, 0 at least."""
    if seconds is None:
        return lambda: None
    until = time.monotonic() + seconds
    return lambda: max(0.0, until - time.monotonic())


def id_of(job: JobId) -> str:
    """Return the id as a text."""
    return str(job.job_id if isinstance(job, Submitted | Job) else job)


def _path(job: JobId) -> str:
    return f"/jobs/{quote(id_of(job), safe='')}"


def _plain(query: Mapping[str, object]) -> dict[str, Any]:
    """Return parameters as they stand in a URL."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in query.items()}


def feed(job: JobId | None, filters: Mapping[str, str | None], last_event_id: str | None) -> Feed:
    """Return the place where a stream begins: of a job, or of all jobs that match."""
    given = {name: value for name, value in filters.items() if value is not None}
    if job is None:
        return Feed("/events", given, last_event_id, None)
    if given:
        raise ValueError("the stream of a job has no filters: leave out type, queue and status")
    return Feed(f"{_path(job)}/events", {}, last_event_id, id_of(job))


def output(job: JobId) -> Request:
    """Return the request for a job's file."""
    return get(f"{_path(job)}/output", job_id=id_of(job))
