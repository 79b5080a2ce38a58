"""Actions on many jobs: /dead-letters/redrives, /dead-letters/discards and /cancellations.

The three are one idea: a body says which jobs, a dry run counts them, an answer says how far the action is.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service import events
from jobs_service.api import request_body
from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources import dead_letters as resources
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.dead_letters import DEFAULT_LIMIT, MAX_LIMIT, DeadLetter, DeadLetterFilter, next_page
from jobs_service.api.resources.job_pages import MAX_ATTEMPTS_MIN, MAX_TAG_CHARACTERS, STORABLE, Moment
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest, UnknownJobType
from jobs_service.ids import new_id
from jobs_service.jobs import bulk_actions, dead_letters, lifecycle, unfinished
from jobs_service.jobs.bulk_actions import MOST_MEMBERS, SAMPLE, Kind, Selection, State
from jobs_service.jobs.job_types import MAX_NAME, Registry
from jobs_service.jobs.listing import Filters
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time

#: Jobs a second, unless the request names another rate.
DEFAULT_RATE = 100.0


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


class _Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the bodies have in common: either a filter or `all`."""

    all: Annotated[bool, Meta(description="True, and no filter: all that there are.")] = False
    dry_run: Annotated[bool, Meta(description="True: only count them, and show some.")] = False
    rate_per_second: Annotated[float, Meta(ge=0.1, le=10_000, description="Jobs a second at most.")] = DEFAULT_RATE


class RedriveForm(_Form, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a redrive: either `filter` or `all`."""

    filter: Annotated[DeadLetterFilter | None, Meta(description="Has at least one condition.")] = None


class DiscardForm(_Form, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a discard: either `filter` or `all`."""

    filter: Annotated[DeadLetterFilter | None, Meta(description="Has at least one condition.")] = None


class CancellationForm(_Form, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a cancellation: either `filter` or `all`."""

    filter: Annotated[CancellationFilter | None, Meta(description="Has at least one condition.")] = None
    reason: Annotated[str, Meta(min_length=1, max_length=1_000, description="Kept on each job.")] | None = None


_COUNT = f"At most {MOST_MEMBERS:,}: an action has no more members."
_MORE = "True: there may be more than were counted."


class Preview(msgspec.Struct, frozen=True):
    """The dead letters that an action would have as members now. Nothing was changed."""

    count: Annotated[int, Meta(description=_COUNT)]
    is_capped: Annotated[bool, Meta(description=_MORE)]
    sample: Annotated[list[DeadLetter], Meta(description=f"The first {SAMPLE} of them.")]


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
    is_capped: Annotated[bool, Meta(description=_MORE)]
    sample: Annotated[list[UnfinishedJob], Meta(description=f"Up to {SAMPLE} of them.")]


class BulkAction(msgspec.Struct, frozen=True, kw_only=True):
    """An action on many jobs, and how far it is."""

    id: UUID
    kind: Kind
    state: State
    filter: Annotated[msgspec.Raw, Meta(description="{} is all.", extra_json_schema={"type": "object"})]
    rate_per_second: float
    reason: Annotated[str | None, Meta(description="Of a cancellation; each job keeps it.")]
    requested_by: Annotated[str, Meta(description="The name of an API key.")]
    matched: Annotated[int, Meta(description="How many jobs it had when it began. Later ones do not join it.")]
    moved: Annotated[int, Meta(description="How many of them were changed: redriven, discarded or cancelled.")]
    skipped: Annotated[int, Meta(description="How many were not any more what the action is about at their turn.")]
    created_at: Time
    finished_at: Time | None
    cancelled_by: Annotated[str | None, Meta(description="Who stopped it.")]


class RedrivePage(msgspec.Struct, frozen=True):
    """Redrives, the newest first."""

    redrives: list[BulkAction]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


class DiscardPage(msgspec.Struct, frozen=True):
    """Discards, the newest first."""

    discards: list[BulkAction]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


class CancellationPage(msgspec.Struct, frozen=True):
    """Cancellations, the newest first."""

    cancellations: list[BulkAction]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


class ActionsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place in the list."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="How many a page has at most.")] = DEFAULT_LIMIT
    cursor: Annotated[str | None, Meta(description="The `next_cursor` of the previous page.")] = None


EXAMPLE = {
    "id": "0197a40b-91d2-7c44-8a1e-5d1f0c9b7e23",
    "kind": "redrive",
    "state": "running",
    "filter": {"type": "csv-generation", "end_reason": "attempts_exhausted"},
    "rate_per_second": 100.0,
    "reason": None,
    "requested_by": "operations",
    "matched": 214,
    "moved": 100,
    "skipped": 0,
    "created_at": "2026-11-26T10:31:00.000Z",
    "finished_at": None,
    "cancelled_by": None,
}
_STOPPED = {"state": "cancelled", "finished_at": "2026-11-26T10:31:01.000Z", "cancelled_by": "operations"}
_UNFINISHED = {
    "job_id": "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41",
    "type": "csv-generation",
    "queue": "default",
    "status": "pending",
    "attempts": 0,
    "created_at": "2026-11-26T09:30:00.000Z",
}
_LINK = Header("Link", "The next page, with `rel=next`; absent on the last one.")


@dataclass(frozen=True, kw_only=True)
class Noun:
    """What a kind of action is called, and what its operations take and answer."""

    kind: Kind
    plural: str
    path: str
    tag: str
    scope: Scope
    form: type[_Form]
    preview: type[msgspec.Struct]
    page: type[msgspec.Struct]
    example: Mapping[str, Any]
    sample: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.kind)

    @property
    def parameter(self) -> dict[str, Header]:
        """Return the description of the parameter in the paths of one action."""
        name = f"{self.name}_id"
        return {name: Header(name, f"The id of a {self.name}.", example=f"{self.example['id']}")}

    def begins(self, *, id: str, summary: str, description: str, examples: Mapping[str, object]) -> dict[str, Any]:  # noqa: A002 - the field of `Operation`
        """Return the definition of the operation that begins an action."""
        location = Header("Location", f"The path of the {self.name}.", example=f"{self.path}/{self.example['id']}")
        counted = {"count": 214, "is_capped": False, "sample": [self.sample]}
        return {
            "id": id,
            "summary": summary,
            "description": f"{description} With `dry_run` nothing is changed.",
            "tag": self.tag,
            "scope": self.scope,
            "body": self.form,
            "body_examples": examples,
            "answers": {
                HTTPStatus.OK: Answer("The jobs that it would have.", self.preview, example=counted),
                HTTPStatus.ACCEPTED: Answer("It has begun.", BulkAction, headers=(location,), example=self.example),
            },
            "problems": PROBLEMS,
        }

    def lists(self) -> dict[str, Any]:
        """Return the definition of the operation that lists actions."""
        example = {self.plural: [self.example], "next_cursor": None}
        return {
            "id": f"list_{self.plural}",
            "summary": f"List {self.plural}, newest first",
            "tag": self.tag,
            "scope": Scope.JOBS_READ,
            "query": ActionsQuery,
            "answers": {
                HTTPStatus.OK: Answer(f"A page of {self.plural}.", self.page, headers=(_LINK,), example=example)
            },
            "problems": PROBLEMS,
        }

    def reads(self) -> dict[str, Any]:
        """Return the definition of the operation that reads an action."""
        return {
            "id": f"get_{self.name}",
            "summary": f"Read how far a {self.name} is",
            "tag": self.tag,
            "scope": Scope.JOBS_READ,
            "answers": {HTTPStatus.OK: Answer(f"The {self.name}.", BulkAction, example=self.example)},
            "path": self.parameter,
            "problems": (*PROBLEMS, f"{self.name}_not_found"),
        }

    def stops(self, *, description: str) -> dict[str, Any]:
        """Return the definition of the operation that stops an action."""
        stopped = {**self.example, **_STOPPED}
        return {
            "id": f"cancel_{self.name}",
            "summary": f"Stop a {self.name}",
            "description": description,
            "tag": self.tag,
            "scope": self.scope,
            "answers": {HTTPStatus.OK: Answer(f"The {self.name} is stopped.", BulkAction, example=stopped)},
            "path": self.parameter,
            "problems": (*PROBLEMS, f"{self.name}_not_found", f"{self.name}_finished"),
        }


REDRIVE = Noun(
    kind=Kind.REDRIVE,
    plural="redrives",
    path="/dead-letters/redrives",
    tag="dead letters",
    scope=Scope.DEAD_LETTERS_WRITE,
    form=RedriveForm,
    preview=Preview,
    page=RedrivePage,
    example=EXAMPLE,
    sample=resources.EXAMPLE,
)
DISCARD = Noun(
    kind=Kind.DISCARD,
    plural="discards",
    path="/dead-letters/discards",
    tag="dead letters",
    scope=Scope.DEAD_LETTERS_WRITE,
    form=DiscardForm,
    preview=Preview,
    page=DiscardPage,
    example=EXAMPLE | {"kind": "discard"},
    sample=resources.EXAMPLE,
)
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

_DEAD_LETTER_EXAMPLES: Mapping[str, object] = {
    "dry run": {"filter": {"type": "csv-generation"}, "dry_run": True},
    "a group": {"filter": {"group": resources.EXAMPLE["group_id"]}, "rate_per_second": 20},
    "all": {"all": True},
}


def _shown(action: bulk_actions.BulkAction) -> BulkAction:
    return BulkAction(
        id=action.id,
        kind=action.kind,
        state=action.state,
        filter=msgspec.Raw(action.filter.encode()),
        rate_per_second=action.rate_per_second,
        reason=action.reason,
        requested_by=action.requested_by,
        matched=action.matched,
        moved=action.moved,
        skipped=action.skipped,
        created_at=rfc3339(action.created_at),
        finished_at=rfc3339(action.finished_at) if action.finished_at else None,
        cancelled_by=action.cancelled_by,
    )


class _Collection(DatabaseResource):
    """What the routes have in common on which actions begin and are listed."""

    noun: ClassVar[Noun]

    def __init__(
        self, database: Database, threads: Threads, registry: Registry, body_reader: request_body.BodyReader
    ) -> None:
        super().__init__(database, threads)
        self.registry = registry
        self.body_reader = body_reader

    async def begin(self, req: Request, resp: Response) -> None:
        """Begin an action, or say which jobs it would have."""
        form: Any = await self.body_reader.read(req, self.noun.form)
        chosen = self._chosen(form)
        if form.dry_run:
            resp.data = await self.run(self.preview, chosen)
            return
        action = await self.run(self._begin, form, chosen, req.context.caller.name)
        resp.status = falcon.HTTP_ACCEPTED
        resp.set_header("Location", f"{req.root_path}{self.noun.path}/{action.id}")
        resp.data = msgspec.json.encode(action)

    async def list(self, req: Request, resp: Response) -> None:
        """Answer with a page of actions."""
        query: ActionsQuery = req.context.query
        before = None if query.cursor is None else _id(query.cursor)
        if query.cursor is not None and before is None:
            raise InvalidRequest("expected the next_cursor of an earlier response", pointer="cursor")
        found = await self.run(bulk_actions.newest, self.database, self.noun.kind, limit=query.limit + 1, before=before)
        page = [_shown(action) for action in found[: query.limit]]
        next_cursor = str(page[-1].id) if len(found) > query.limit else None
        resp.data = msgspec.json.encode({self.noun.plural: page, "next_cursor": next_cursor})
        if next_cursor:
            resp.append_link(next_page(req, next_cursor), "next")

    def conditions(self, wanted: Any) -> dict[str, Any]:  # noqa: ANN401 - the filter of the form
        """Return the conditions that are set, with the type in its own spelling."""
        raise NotImplementedError

    def selection(self, chosen: dict[str, Any]) -> Selection:
        """Return the query for the members."""
        raise NotImplementedError

    def preview(self, chosen: dict[str, Any]) -> bytes:
        """Return the answer to a dry run."""
        raise NotImplementedError

    def _chosen(self, form: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
        """Return the conditions. Raises `InvalidRequest` unless it is said which jobs are meant, or all."""
        if form.all:
            if form.filter is not None:
                raise InvalidRequest("send filter or all, not both", pointer="/all")
            return {}
        if form.filter is None or not (chosen := self.conditions(form.filter)):
            raise InvalidRequest("send a filter with at least one condition, or all: true", pointer="/filter")
        return chosen

    def _begin(self, form: Any, chosen: dict[str, Any], by: str) -> BulkAction:  # noqa: ANN401 - as above
        begun = bulk_actions.begin(
            self.database,
            new_id(),
            self.noun.kind,
            self.selection(chosen),
            text=msgspec.json.encode(chosen).decode(),
            rate_per_second=form.rate_per_second,
            reason=getattr(form, "reason", None),
            by=by,
        )
        events.emit(events.BulkActionStarted(**begun.facts, jobs=begun.matched, by=by))
        return _shown(begun)


class _OfDeadLetters(_Collection):
    """An action on dead letters."""

    def conditions(self, wanted: DeadLetterFilter) -> dict[str, Any]:
        return resources.conditions(wanted, self.registry)

    def selection(self, chosen: dict[str, Any]) -> Selection:
        return dead_letters.selection(chosen)

    def preview(self, chosen: dict[str, Any]) -> bytes:
        count, is_capped, sample = dead_letters.preview(self.database, chosen)
        return msgspec.json.encode(Preview(count, is_capped, [resources.shown(each) for each in sample]))


class Redrives(_OfDeadLetters):
    """/dead-letters/redrives."""

    noun = REDRIVE

    @operation(
        **REDRIVE.begins(
            id="redrive_dead_letters",
            summary="Run many dead letters again",
            description=(
                "The dead letters that match now are the members of the action: none that fails later joins it, and a"
                " member that fails again is not run once more."
            ),
            examples=_DEAD_LETTER_EXAMPLES,
        )
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        await self.begin(req, resp)

    @operation(**REDRIVE.lists())
    async def on_get(self, req: Request, resp: Response) -> None:
        await self.list(req, resp)

    on_head = on_get


class Discards(_OfDeadLetters):
    """/dead-letters/discards."""

    noun = DISCARD

    @operation(
        **DISCARD.begins(
            id="discard_dead_letters",
            summary="Delete many failed jobs",
            description=(
                "The dead letters that match now are the members of the action. One that was run again meanwhile is not"
                " deleted. Files that the jobs wrote follow within minutes."
            ),
            examples=_DEAD_LETTER_EXAMPLES,
        )
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        await self.begin(req, resp)

    @operation(**DISCARD.lists())
    async def on_get(self, req: Request, resp: Response) -> None:
        await self.list(req, resp)

    on_head = on_get


class Cancellations(_Collection):
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


class OneAction(DatabaseResource):
    """What the routes of one action have in common."""

    noun: ClassVar[Noun]

    def find(self, action_id: str) -> bulk_actions.BulkAction:
        """Return an action. Raises 404."""
        id_ = _id(action_id)
        found = None if id_ is None else bulk_actions.find(self.database, self.noun.kind, id_)
        if found is None:
            name = self.noun.name
            raise falcon.HTTPNotFound(title=f"{name}_not_found", description=f"There is no {name} {action_id[:64]}.")
        return found

    async def read(self, resp: Response, action_id: str) -> None:
        """Answer with an action."""
        resp.data = msgspec.json.encode(_shown(await self.run(self.find, action_id)))

    async def stop(self, req: Request, resp: Response, action_id: str) -> None:
        """Stop an action, and answer with it. Raises 409 if all its members were looked at."""
        resp.data = msgspec.json.encode(_shown(await self.run(self._stop, action_id, req.context.caller.name)))

    def _stop(self, action_id: str, by: str) -> bulk_actions.BulkAction:
        is_stopped = bulk_actions.stop(self.database, self.find(action_id).id, by=by)
        action = self.find(action_id)
        if action.state is State.COMPLETED:
            name = self.noun.name
            raise falcon.HTTPConflict(title=f"{name}_finished", description="It has looked at all its jobs already.")
        if is_stopped:
            events.emit(
                events.BulkActionEnded(**action.facts, state=action.state, moved=action.moved, skipped=action.skipped)
            )
        return action


class RedriveItem(OneAction):
    """/dead-letters/redrives/{redrive_id}."""

    noun = REDRIVE

    @operation(**REDRIVE.reads())
    async def on_get(self, req: Request, resp: Response, redrive_id: str) -> None:  # noqa: ARG002
        await self.read(resp, redrive_id)

    on_head = on_get


class RedriveStop(OneAction):
    """/dead-letters/redrives/{redrive_id}/cancel."""

    noun = REDRIVE

    @operation(**REDRIVE.stops(description="Jobs that were moved stay moved; the others stay dead letters."))
    async def on_post(self, req: Request, resp: Response, redrive_id: str) -> None:
        await self.stop(req, resp, redrive_id)


class DiscardItem(OneAction):
    """/dead-letters/discards/{discard_id}."""

    noun = DISCARD

    @operation(**DISCARD.reads())
    async def on_get(self, req: Request, resp: Response, discard_id: str) -> None:  # noqa: ARG002
        await self.read(resp, discard_id)

    on_head = on_get


class DiscardStop(OneAction):
    """/dead-letters/discards/{discard_id}/cancel."""

    noun = DISCARD

    @operation(**DISCARD.stops(description="Jobs that were deleted are gone; the others stay dead letters."))
    async def on_post(self, req: Request, resp: Response, discard_id: str) -> None:
        await self.stop(req, resp, discard_id)


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


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
