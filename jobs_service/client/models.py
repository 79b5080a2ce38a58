"""What the API answers. Fields that a newer service adds are ignored."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from jobs_service.client.errors import ApiError


class Status(StrEnum):
    """The status of a job."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Submitted(msgspec.Struct, frozen=True):
    """A job that is committed."""

    job_id: UUID
    status: Status


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job, with all that happened to it."""

    job_id: UUID
    type: str
    status: Status
    payload: Any
    queue: str
    priority: int
    attempts: int
    max_attempts: int
    created_at: datetime
    updated_at: datetime
    run_at: datetime
    result: Any = None
    error: str | None = None
    end_reason: str | None = None
    cancel_reason: str | None = None
    cancelled_by: str | None = None
    tags: list[str] = []
    on_ambiguous: str = "resend"
    timeout_seconds: int | None = None
    retry_of: UUID | None = None
    waits_for: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    deferred_since: datetime | None = None
    progress: dict[str, Any] | None = None
    history: list[dict[str, Any]] = []
    history_omitted: int = 0

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status.is_final


class JobPage(msgspec.Struct, frozen=True):
    """A page of a list of jobs."""

    jobs: list[Job]
    next_cursor: str | None


Item = TypeVar("Item")


class BatchResult(msgspec.Struct, Generic[Item], frozen=True):
    """What became of one item of `submit_many`: `job_id`, or the `error`."""

    item: Item
    job_id: UUID | None = None
    error: ApiError | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a job. `data` has all fields, also those of this kind of event alone."""

    name: str
    #: Streams can be resumed behind it.
    id: str
    data: Mapping[str, Any]

    @property
    def job_id(self) -> UUID:
        """The job. Raises `KeyError` for a `reset`, which is about none."""
        return UUID(self.data["job_id"])

    @property
    def status(self) -> Status:
        """The job's status after the event. Raises `KeyError` like `job_id`."""
        return Status(self.data["status"])
