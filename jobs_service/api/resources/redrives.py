"""/dead-letters/redrives: operations that run many dead letters again."""

from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service import events
from jobs_service.api import request_body
from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.dead_letters import (
    DEFAULT_LIMIT,
    EXAMPLE as DEAD_LETTER,
    MAX_LIMIT,
    DeadLetter,
    DeadLetterFilter,
    conditions,
    next_page,
    shown,
)
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest
from jobs_service.ids import new_id
from jobs_service.jobs import dead_letters
from jobs_service.jobs.dead_letters import MOST_MEMBERS, SAMPLE, RedriveState
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time

#: Jobs a second, unless the request names another rate.
DEFAULT_RATE = 100.0


class RedriveForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a redrive: either `filter` or `all`."""

    filter: Annotated[DeadLetterFilter | None, Meta(description="Has at least one condition.")] = None
    all: Annotated[bool, Meta(description="True: every dead letter.")] = False
    dry_run: Annotated[bool, Meta(description="True: only count them, and show some.")] = False
    rate_per_second: Annotated[float, Meta(ge=0.1, le=10_000, description="Jobs a second at most.")] = DEFAULT_RATE


class Preview(msgspec.Struct, frozen=True):
    """What a redrive would move now. Nothing was changed."""

    count: Annotated[int, Meta(description=f"At most {MOST_MEMBERS:,}: a redrive moves no more.")]
    sample: Annotated[list[DeadLetter], Meta(description=f"The first {SAMPLE} that it would move.")]


class Redrive(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that runs many dead letters again."""

    id: UUID
    state: RedriveState
    filter: Annotated[msgspec.Raw, Meta(description="{} is all.", extra_json_schema={"type": "object"})]
    rate_per_second: float
    requested_by: Annotated[str, Meta(description="The name of an API key.")]
    matched: Annotated[int, Meta(description="How many dead letters it had when it began. Later ones do not join it.")]
    moved: Annotated[int, Meta(description="How many are pending again, or have run since.")]
    skipped: Annotated[int, Meta(description="How many were no dead letters any more, or had failed again.")]
    created_at: Time
    finished_at: Time | None
    cancelled_by: str | None


class RedrivePage(msgspec.Struct, frozen=True):
    """Redrives, the newest first."""

    redrives: list[Redrive]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


class RedrivesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place in the list."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="How many a page has at most.")] = DEFAULT_LIMIT
    cursor: Annotated[str | None, Meta(description="The `next_cursor` of the previous page.")] = None


EXAMPLE = {
    "id": "0197a40b-91d2-7c44-8a1e-5d1f0c9b7e23",
    "state": "running",
    "filter": {"type": "csv-generation", "end_reason": "attempts_exhausted"},
    "rate_per_second": 100.0,
    "requested_by": "operations",
    "matched": 214,
    "moved": 100,
    "skipped": 0,
    "created_at": "2026-11-26T10:31:00.000Z",
    "finished_at": None,
    "cancelled_by": None,
}
_CANCELLED = EXAMPLE | {
    "state": "cancelled",
    "finished_at": "2026-11-26T10:31:01.000Z",
    "cancelled_by": "operations",
}
_LOCATION = Header("Location", "The path of the redrive.", example=f"/dead-letters/redrives/{EXAMPLE['id']}")
_LINK = Header("Link", "The next page, with `rel=next`; absent on the last one.")
_PATH = {"redrive_id": Header("redrive_id", "The id of a redrive.", example=f"{EXAMPLE['id']}")}


def _shown(redrive: dead_letters.Redrive) -> Redrive:
    return Redrive(
        id=redrive.id,
        state=redrive.state,
        filter=msgspec.Raw(redrive.filter.encode()),
        rate_per_second=redrive.rate_per_second,
        requested_by=redrive.requested_by,
        matched=redrive.matched,
        moved=redrive.moved,
        skipped=redrive.skipped,
        created_at=rfc3339(redrive.created_at),
        finished_at=rfc3339(redrive.finished_at) if redrive.finished_at else None,
        cancelled_by=redrive.cancelled_by,
    )


class RedriveCollection(DatabaseResource):
    """/dead-letters/redrives."""

    def __init__(
        self, database: Database, threads: Threads, registry: Registry, body_reader: request_body.BodyReader
    ) -> None:
        super().__init__(database, threads)
        self.registry = registry
        self.body_reader = body_reader

    @operation(
        id="redrive_dead_letters",
        summary="Run many dead letters again",
        description=(
            "The dead letters that match now are the members of the operation: none that fails later joins it, and a"
            " member that fails again is not run once more. With `dry_run` nothing is changed."
        ),
        tag="dead letters",
        scope=Scope.DEAD_LETTERS_WRITE,
        body=RedriveForm,
        body_examples={
            "dry run": {"filter": {"type": "csv-generation"}, "dry_run": True},
            "a group": {"filter": {"group": DEAD_LETTER["group_id"]}, "rate_per_second": 20},
            "all": {"all": True},
        },
        answers={
            HTTPStatus.OK: Answer("What it would move.", Preview, example={"count": 214, "sample": [DEAD_LETTER]}),
            HTTPStatus.ACCEPTED: Answer("It has begun.", Redrive, headers=(_LOCATION,), example=EXAMPLE),
        },
        problems=PROBLEMS,
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        form = await self.body_reader.read(req, RedriveForm)
        chosen = self._chosen(form)
        if form.dry_run:
            resp.data = await self.run(self._preview, chosen)
            return
        redrive = await self.run(self._begin, chosen, form.rate_per_second, req.context.caller.name)
        resp.status = falcon.HTTP_ACCEPTED
        resp.set_header("Location", f"{req.root_path}/dead-letters/redrives/{redrive.id}")
        resp.data = msgspec.json.encode(redrive)

    @operation(
        id="list_redrives",
        summary="List redrives, newest first",
        tag="dead letters",
        scope=Scope.JOBS_READ,
        query=RedrivesQuery,
        answers={
            HTTPStatus.OK: Answer(
                "A page of redrives.",
                RedrivePage,
                headers=(_LINK,),
                example={"redrives": [EXAMPLE], "next_cursor": None},
            )
        },
        problems=PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        query: RedrivesQuery = req.context.query
        before = None if query.cursor is None else _id(query.cursor)
        if query.cursor is not None and before is None:
            raise InvalidRequest("expected the next_cursor of an earlier response", pointer="cursor")
        found = await self.run(dead_letters.redrives, self.database, limit=query.limit + 1, before=before)
        page = [_shown(redrive) for redrive in found[: query.limit]]
        next_cursor = str(page[-1].id) if len(found) > query.limit else None
        resp.data = msgspec.json.encode(RedrivePage(page, next_cursor))
        if next_cursor:
            resp.append_link(next_page(req, next_cursor), "next")

    on_head = on_get

    def _chosen(self, form: RedriveForm) -> dict[str, Any]:
        """Return the conditions. Raises `InvalidRequest` unless it is said which dead letters are meant, or all."""
        if form.all:
            if form.filter is not None:
                raise InvalidRequest("send filter or all, not both", pointer="/all")
            return {}
        if form.filter is None or not (chosen := conditions(form.filter, self.registry)):
            raise InvalidRequest("send a filter with at least one condition, or all: true", pointer="/filter")
        return chosen

    def _preview(self, chosen: dict[str, Any]) -> bytes:
        count, sample = dead_letters.preview(self.database, chosen)
        return msgspec.json.encode(Preview(count, [shown(each) for each in sample]))

    def _begin(self, chosen: dict[str, Any], rate_per_second: float, by: str) -> Redrive:
        text = msgspec.json.encode(chosen).decode()
        begun = dead_letters.begin_redrive(
            self.database, new_id(), chosen, text=text, rate_per_second=rate_per_second, by=by
        )
        events.emit(events.RedriveStarted(redrive_id=str(begun.id), jobs=begun.matched, by=by))
        return _shown(begun)


class _RedriveResource(DatabaseResource):
    """What the routes of one redrive have in common."""

    def find(self, redrive_id: str) -> dead_letters.Redrive:
        """Return a redrive. Raises 404."""
        id_ = _id(redrive_id)
        found = None if id_ is None else dead_letters.find_redrive(self.database, id_)
        if found is None:
            raise falcon.HTTPNotFound(title="redrive_not_found", description=f"There is no redrive {redrive_id[:64]}.")
        return found


class RedriveItem(_RedriveResource):
    """/dead-letters/redrives/{redrive_id}."""

    @operation(
        id="get_redrive",
        summary="Read how far a redrive is",
        tag="dead letters",
        scope=Scope.JOBS_READ,
        answers={HTTPStatus.OK: Answer("The redrive.", Redrive, example=EXAMPLE)},
        path=_PATH,
        problems=(*PROBLEMS, "redrive_not_found"),
    )
    async def on_get(self, req: Request, resp: Response, redrive_id: str) -> None:  # noqa: ARG002
        resp.data = msgspec.json.encode(_shown(await self.run(self.find, redrive_id)))

    on_head = on_get


class RedriveCancellation(_RedriveResource):
    """/dead-letters/redrives/{redrive_id}/cancel."""

    @operation(
        id="cancel_redrive",
        summary="Stop a redrive",
        description="Jobs that were moved stay moved; the others stay dead letters.",
        tag="dead letters",
        scope=Scope.DEAD_LETTERS_WRITE,
        answers={HTTPStatus.OK: Answer("The redrive is stopped.", Redrive, example=_CANCELLED)},
        path=_PATH,
        problems=(*PROBLEMS, "redrive_not_found", "redrive_finished"),
    )
    async def on_post(self, req: Request, resp: Response, redrive_id: str) -> None:
        resp.data = msgspec.json.encode(_shown(await self.run(self._cancel, redrive_id, req.context.caller.name)))

    def _cancel(self, redrive_id: str, by: str) -> dead_letters.Redrive:
        is_stopped = dead_letters.cancel_redrive(self.database, self.find(redrive_id).id, by=by)
        redrive = self.find(redrive_id)
        if redrive.state is RedriveState.COMPLETED:
            raise falcon.HTTPConflict(title="redrive_finished", description="All its jobs are moved already.")
        if is_stopped:
            events.emit(
                events.RedriveEnded(
                    redrive_id=str(redrive.id), state=redrive.state, moved=redrive.moved, skipped=redrive.skipped
                )
            )
        return redrive


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
