"""/job-types and /job-types/{name}: what can be submitted, and the limits of the service."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api import request_body
from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources.job_pages import MAX_LIMIT
from jobs_service.broker.limits import default_limit
from jobs_service.config import Settings, numbers_by_name
from jobs_service.errors import UnknownJobType
from jobs_service.jobs import search
from jobs_service.jobs.job_types import JobType, Registry, spelling
from jobs_service.submission.batches import MAX_JOBS
from jobs_service.submission.submit import MAX_DELAY


class Backoff(msgspec.Struct, frozen=True):
    """The seconds between two attempts: at first about `first_seconds`, then twice as long each time."""

    first_seconds: float
    max_seconds: float


class JobTypeInfo(msgspec.Struct, frozen=True):
    """A job type: what it takes, and how it runs."""

    name: str
    description: str
    queue: str
    max_attempts: Annotated[int, Meta(description="Unless the job says otherwise.")]
    backoff: Backoff
    time_limit_seconds: Annotated[float, Meta(description="How long an attempt may run.")]
    max_running: Annotated[int, Meta(description="How many run at a time in a worker process.")]
    payload_schema: Annotated[dict[str, Any], Meta(description="The JSON Schema (2020-12) of its payload.")]
    example: Annotated[Any, Meta(description="A payload that it accepts; null: none is given.")]
    is_sensitive: Annotated[
        bool, Meta(description="The console hides the payloads, results and log lines of its jobs. The API does not.")
    ]


class Retention(msgspec.Struct, frozen=True):
    """After how many seconds finished jobs are deleted. 0: never."""

    completed: int
    failed: int
    cancelled: int


class Limits(msgspec.Struct, frozen=True):
    """The limits of requests."""

    body_bytes: int
    batch_bytes: Annotated[int, Meta(description="Bytes of the body of a batch.")]
    batch_jobs: Annotated[int, Meta(description="Jobs in a batch.")]
    body_depth: Annotated[int, Meta(description="Levels of nesting.")]
    page_jobs: Annotated[int, Meta(description="Jobs on a page of a list.")]
    delay_seconds: Annotated[int, Meta(description="How far ahead a job may be scheduled.")]
    query_characters: Annotated[int, Meta(description="Characters of `q`; 0: there is no text search.")]
    query_words: Annotated[int, Meta(description="Words of `q`; 0: there is no text search.")]
    retention_seconds: Annotated[Retention, Meta(description="How long jobs are kept after their end; 0: for ever.")]


class JobTypes(msgspec.Struct, frozen=True):
    """All job types, and the limits of requests."""

    job_types: list[JobTypeInfo]
    limits: Limits


_EXAMPLE = {
    "name": "csv-generation",
    "description": 'Write the file and return its reference, "output/<job-id>.csv".',
    "queue": "default",
    "max_attempts": 8,
    "backoff": {"first_seconds": 5.0, "max_seconds": 3600.0},
    "time_limit_seconds": 60.0,
    "max_running": 15,
    "payload_schema": {"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]},
    "example": {"rows": [{"name": "Alice", "score": 95}]},
    "is_sensitive": False,
}
_LIMITS_EXAMPLE = {
    "body_bytes": 1_048_576,
    "batch_bytes": 16_777_216,
    "batch_jobs": 10_000,
    "body_depth": 32,
    "page_jobs": 200,
    "delay_seconds": 31_622_400,
    "query_characters": 200,
    "query_words": 10,
    "retention_seconds": {"completed": 604_800, "failed": 7_776_000, "cancelled": 604_800},
}


class JobTypeCollection:
    """/job-types. It asks no server: the types are those of this version's code."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.shown = msgspec.json.encode(
            JobTypes([info(job_type, settings) for job_type in _public(registry)], limits(settings))
        )

    @operation(
        id="list_job_types",
        summary="The job types and the limits of requests",
        tag="job types",
        scope=Scope.JOBS_READ,
        answers={
            HTTPStatus.OK: Answer(
                "The job types.", JobTypes, example={"job_types": [_EXAMPLE], "limits": _LIMITS_EXAMPLE}
            )
        },
    )
    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        resp.data = self.shown

    on_head = on_get


class JobTypeItem:
    """/job-types/{name}."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.registry = registry
        self.shown: Mapping[str, bytes] = {
            job_type.name: msgspec.json.encode(info(job_type, settings)) for job_type in _public(registry)
        }

    @operation(
        id="get_job_type",
        summary="Read a job type",
        tag="job types",
        scope=Scope.JOBS_READ,
        path={"name": Header("name", "A job type, in any spelling.", example="csv-generation")},
        answers={HTTPStatus.OK: Answer("The job type.", JobTypeInfo, example=_EXAMPLE)},
        problems=("job_type_not_found",),
    )
    async def on_get(self, req: Request, resp: Response, name: str) -> None:  # noqa: ARG002
        try:
            resp.data = self.shown[self.registry.get(name).name]
        except (UnknownJobType, KeyError):
            raise falcon.HTTPNotFound(
                title="job_type_not_found",
                description=f"There is no job type {name[:64]!r}. GET /job-types lists those that there are.",
            ) from None

    on_head = on_get


def _public(registry: Registry) -> list[JobType]:
    return [registry.get(name) for name in registry.names]


def info(job_type: JobType, settings: Settings) -> JobTypeInfo:
    """Return a job type as the API shows it. Where it has no value of its own, the settings' applies."""
    return JobTypeInfo(
        name=job_type.name,
        description=job_type.description,
        queue=job_type.queue,
        max_attempts=job_type.max_attempts or settings.max_attempts,
        backoff=Backoff(settings.retry_backoff_seconds, settings.retry_backoff_max_seconds),
        time_limit_seconds=job_type.time_limit_seconds or settings.time_limit_seconds,
        max_running=_max_running(job_type, settings),
        payload_schema=msgspec.json.schema(job_type.payload),
        example=job_type.example,
        is_sensitive=job_type.is_sensitive,
    )


def _max_running(job_type: JobType, settings: Settings) -> int:
    configured = {spelling(name): most for name, most in numbers_by_name(settings.max_running).items()}
    return configured.get(spelling(job_type.name)) or job_type.max_running or default_limit(settings.worker_threads)


def limits(settings: Settings) -> Limits:
    """Return the limits of requests."""
    has_search = settings.search == "on"
    return Limits(
        body_bytes=settings.max_body_bytes,
        batch_bytes=settings.max_batch_bytes,
        batch_jobs=MAX_JOBS,
        body_depth=request_body.MAX_DEPTH,
        page_jobs=MAX_LIMIT,
        delay_seconds=int(MAX_DELAY.total_seconds()),
        query_characters=search.MAX_CHARACTERS if has_search else 0,
        query_words=search.MAX_WORDS if has_search else 0,
        retention_seconds=Retention(
            settings.retention_completed_seconds,
            settings.retention_failed_seconds,
            settings.retention_cancelled_seconds,
        ),
    )
