"""What actions on many jobs have in common: a body names the jobs, a dry run counts them, answers say how far it is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, ClassVar
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service import events
from jobs_service.api import request_body
from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, Header
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.dead_letters import DEFAULT_LIMIT, MAX_LIMIT, next_page
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest
from jobs_service.ids import new_id
from jobs_service.jobs import bulk_actions
from jobs_service.jobs.bulk_actions import Kind, Selection, State
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time

#: Jobs a second, unless the request names another rate.
DEFAULT_RATE = 100.0


class ActionForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the bodies have in common: either a filter or `all`."""

    all: Annotated[bool, Meta(description="True, and no filter: all that there are.")] = False
    dry_run: Annotated[bool, Meta(description="True: only count them, and show some.")] = False
    rate_per_second: Annotated[float, Meta(ge=0.1, le=10_000, description="Jobs a second at most.")] = DEFAULT_RATE


MORE = "True: there may be more than were counted."


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
_LINK = Header("Link", "The next page, with `rel=next`; absent on the last one.")


@dataclass(frozen=True, kw_only=True)
class Noun:
    """What a kind of action is called, and what its operations take and answer."""

    kind: Kind
    plural: str
    path: str
    tag: str
    scope: Scope
    form: type[ActionForm]
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


class Actions(DatabaseResource, ABC):
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

    @abstractmethod
    def conditions(self, wanted: Any) -> dict[str, Any]:  # noqa: ANN401 - the filter of the form
        """Return the conditions that are set, with the type in its own spelling."""

    @abstractmethod
    def selection(self, chosen: dict[str, Any]) -> Selection:
        """Return the query for the members."""

    @abstractmethod
    def preview(self, chosen: dict[str, Any]) -> bytes:
        """Return the answer to a dry run."""

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


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
