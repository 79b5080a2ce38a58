"""A job as the API shows it."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from jobs_service.jobs.lifecycle import EndReason, OnAmbiguous, Status

#: RFC 3339 in UTC, with milliseconds.
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job, with all that happened to it."""

    job_id: UUID
    type: str
    status: Status
    payload: Annotated[msgspec.Raw, Meta(description="As it was sent.")]
    result: Annotated[msgspec.Raw | None, Meta(description="What the job's code returned.")]
    error: Annotated[str | None, Meta(description="The last attempt's error.")]
    attempts: int
    max_attempts: int
    queue: str
    priority: int
    tags: Annotated[list[str], Meta(description="In the order in which they were sent.")]
    timeout_seconds: Annotated[
        int | None, Meta(description="How long each attempt may run. Null: the type's time limit applies.")
    ]
    on_ambiguous: OnAmbiguous
    end_reason: Annotated[EndReason | None, Meta(description="Why it ended without a result.")]
    cancel_reason: Annotated[str | None, Meta(description="What was said when it was cancelled.")]
    cancelled_by: Annotated[str | None, Meta(description="Who cancelled it: the name of an API key.")]
    retry_of: Annotated[UUID | None, Meta(description="The finished job that it repeats with changes.")]
    waits_for: Annotated[str | None, Meta(description="The unavailable server that it waits for.")]
    request_id: str | None
    trace_id: str | None
    run_at: Time
    created_at: Time
    updated_at: Time
    started_at: Time | None
    finished_at: Time | None
    expires_at: Time | None
    deferred_since: Time | None
    progress: Annotated[
        msgspec.Raw | None,
        Meta(
            description="How far its last attempt is, or was, if its code says so: `done`, `total` and `note`.",
            extra_json_schema={"type": ["object", "null"]},
        ),
    ]
    history: Annotated[
        msgspec.Raw,
        Meta(
            description="An entry for each attempt that failed, the oldest first.",
            extra_json_schema={"type": "array", "items": {"type": "object"}},
        ),
    ]
    history_omitted: Annotated[int, Meta(description="How many entries of `history` were left out.")]


#: An example for the OpenAPI document.
EXAMPLE: dict[str, Any] = {
    "job_id": "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41",
    "type": "csv-generation",
    "status": "completed",
    "payload": {"name": "Alice", "score": 95},
    "result": "output/0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41.csv",
    "error": None,
    "attempts": 1,
    "max_attempts": 8,
    "queue": "default",
    "priority": 5,
    "tags": ["invoices"],
    "timeout_seconds": None,
    "on_ambiguous": "resend",
    "end_reason": None,
    "cancel_reason": None,
    "cancelled_by": None,
    "retry_of": None,
    "waits_for": None,
    "request_id": "7f1c9a52-order-4711",
    "trace_id": None,
    "run_at": "2026-11-26T09:30:00.000Z",
    "created_at": "2026-11-26T09:30:00.000Z",
    "updated_at": "2026-11-26T09:30:00.084Z",
    "started_at": "2026-11-26T09:30:00.021Z",
    "finished_at": "2026-11-26T09:30:00.084Z",
    "expires_at": None,
    "deferred_since": None,
    "progress": {"done": 5000, "total": 12000, "note": ""},
    "history": [],
    "history_omitted": 0,
}
