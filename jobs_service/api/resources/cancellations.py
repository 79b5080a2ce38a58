"""/cancellations: many jobs are cancelled."""

from contextlib import suppress
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api.callers import Scope
from jobs_service.api.operations import operation
from jobs_service.api.resources.bulk_actions import EXAMPLE, MORE, ActionForm, Actions, BulkAction, Noun, OneAction
from jobs_service.api.resources.job_pages import MAX_ATTEMPTS_MIN, MAX_TAG_CHARACTERS, STORABLE, Moment
from jobs_service.errors import UnknownJobType
from jobs_service.jobs import lifecycle, unfinished
from jobs_service.jobs.bulk_actions import SAMPLE, Kind, Selection
from jobs_service.jobs.job_types import MAX_NAME
from jobs_service.jobs.listing import Filters
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time


class CancellationFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which unfinished jobs. Those that fulfil every condition."""

    status: Annotated[
        Literal["pending", "processing"] | None,
        Meta(description="Null: both. A job that has left it is not cancelled."),
    ] = None
    type: Annotated[str | None, Meta(description="A job type, in any spelling.")] = None
    queue: Annotated[str, Meta(max_length=MAX_NAME, pattern=STORABLE)] | None = None
    tag: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_TAG_CHARACTERS, pattern=STORABLE)] | None,
        Meta(description="One of the job's tags, exactly."),
    ] = None
    created_after: Annotated[Moment | None, Meta(description="Submitted at this time or later.")] = None
    created_before: Annotated[Moment | None, Meta(description="Submitted before this time.")] = None
    attempts_min: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_ATTEMPTS_MIN)] | None, Meta(description="So many attempts or more.")
    ] = None


class CancellationForm(ActionForm, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a cancellation: either `filter` or `all`."""

    filter: Annotated[CancellationFilter | None, Meta(description="Has at least one condition.")] = None
    reason: Annotated[str, Meta(min_length=1, max_length=1_000, description="Kept on each job.")] | None = None


class UnfinishedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is pending or processing. `GET /jobs/{job_id}` has the rest of it."""

    job_id: UUID
    type: str
    queue: str
    status: lifecycle.Status
    attempts: int
    created_at: Time


class CancellationPreview(msgspec.Struct, frozen=True):
    """The jobs that a cancellation would have as members now. Nothing was changed."""

    count: Annotated[
        int, Meta(description=f"A dry run looks at the first {unfinished.MOST_COUNTED:,} jobs of each status.")
    ]
    is_capped: Annotated[bool, Meta(description=MORE)]
    sample: Annotated[list[UnfinishedJob], Meta(description=f"Up to {SAMPLE} of them.")]


class CancellationPage(msgspec.Struct, frozen=True):
    """Cancellations, the newest first."""

    cancellations: list[BulkAction]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


_UNFINISHED = {
    "job_id": "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41",
    "type": "csv-generation",
    "queue": "default",
    "status": "pending",
    "attempts": 0,
    "created_at": "2026-11-26T09:30:00.000Z",
}


CANCELLATION = Noun(
    kind=Kind.CANCELLATION,
    plural="cancellations",
    path="/cancellations",
    tag="jobs",
    scope=Scope.JOBS_WRITE,
    form=CancellationForm,
    preview=CancellationPreview,
    page=CancellationPage,
    example=EXAMPLE
    | {"kind": "cancellation", "filter": {"type": "csv-generation"}, "reason": "the report was withdrawn"},
    sample=_UNFINISHED,
)


class Cancellations(Actions):
    """/cancellations."""

    noun = CANCELLATION

    @operation(
        **CANCELLATION.begins(
            id="cancel_jobs",
            summary="Cancel many jobs",
            description=(
                "The members of the action are the pending and processing jobs that match now, the first"
                f" {unfinished.MOST_MEMBERS:,} at most: none that is submitted later joins it. Each is cancelled as by"
                " `POST /jobs/{job_id}/cancel`, unless it has ended by then."
            ),
            examples={
                "dry run": {"filter": {"type": "csv-generation"}, "dry_run": True},
                "with a reason": {
                    "filter": {"status": "pending", "tag": "report-2026"},
                    "reason": "the report was withdrawn",
                },
                "all": {"all": True},
            },
        )
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        await self.begin(req, resp)

    @operation(**CANCELLATION.lists())
    async def on_get(self, req: Request, resp: Response) -> None:
        await self.list(req, resp)

    on_head = on_get

    def conditions(self, wanted: CancellationFilter) -> dict[str, Any]:
        chosen = {name: value for name in wanted.__struct_fields__ if (value := getattr(wanted, name)) is not None}
        if "type" in chosen:
            with suppress(UnknownJobType):  # jobs of a type that does not exist any more may wait
                chosen["type"] = self.registry.get(chosen["type"]).name
        return chosen

    def selection(self, chosen: dict[str, Any]) -> Selection:
        return unfinished.selection(self._filters(chosen))

    def preview(self, chosen: dict[str, Any]) -> bytes:
        count, is_capped, found = unfinished.preview(self.database, self._filters(chosen))
        sample = [
            UnfinishedJob(
                job_id=job.job_id,
                type=job.type,
                queue=job.queue,
                status=job.status,
                attempts=job.attempts,
                created_at=rfc3339(job.created_at),
            )
            for job in found
        ]
        return msgspec.json.encode(CancellationPreview(count, is_capped, sample))

    def _filters(self, chosen: dict[str, Any]) -> Filters:
        status = lifecycle.Status(chosen["status"]) if "status" in chosen else None
        return Filters(**{**chosen, "status": status, "hidden": [canary.name for canary in self.registry.canaries]})


class CancellationItem(OneAction):
    """/cancellations/{cancellation_id}."""

    noun = CANCELLATION

    @operation(**CANCELLATION.reads())
    async def on_get(self, req: Request, resp: Response, cancellation_id: str) -> None:  # noqa: ARG002
        await self.read(resp, cancellation_id)

    on_head = on_get


class CancellationStop(OneAction):
    """/cancellations/{cancellation_id}/cancel."""

    noun = CANCELLATION

    @operation(**CANCELLATION.stops(description="Jobs that were cancelled stay so; the others run."))
    async def on_post(self, req: Request, resp: Response, cancellation_id: str) -> None:
        await self.stop(req, resp, cancellation_id)
