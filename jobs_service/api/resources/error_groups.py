"""/dead-letters/groups, and what is decided about a group."""

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
from jobs_service.api.resources.dead_letters import MAX_LIMIT, next_page, own_spelling
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest
from jobs_service.jobs import dead_letters
from jobs_service.jobs.dead_letters import LAST_JOBS, MOST_COUNTED, MOST_HOURS, MOST_IN_AN_HOUR, GroupState
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time

DEFAULT_LIMIT = 100


Hours = Annotated[
    int,
    Meta(ge=0, le=MOST_HOURS, description="Tell how many failed in each of so many hours, up to now."),
]


class GroupQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is told of a group."""

    hours: Hours = 0


class GroupsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which groups, and what is told of each."""

    state: Annotated[GroupState | None, Meta(description="Only groups in this state.")] = None
    type: Annotated[str | None, Meta(description="Only groups of this job type, in any spelling.")] = None
    count_to: Annotated[
        int, Meta(ge=1, le=MOST_COUNTED, description="Count no further than this in a group, for a quick answer.")
    ] = MOST_COUNTED
    hours: Hours = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="How many groups a page looks at.")] = DEFAULT_LIMIT
    cursor: Annotated[str | None, Meta(description="The `next_cursor` of the previous page.")] = None


class Decision(msgspec.Struct, frozen=True):
    """What a person said about a group. If the group has failed since it was resolved, it is open all the same."""

    reason: str
    by: Annotated[str, Meta(description="The name of an API key.")]
    at: Time


class ErrorGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters of one type with one error class, whose messages differ in details only."""

    id: UUID
    type: str
    error_class: str
    message: Annotated[str, Meta(description="Without quoted texts, URLs, addresses, ids and numbers.")]
    count: Annotated[
        int, Meta(description=f"How many dead letters it has; `count_to`, or {MOST_COUNTED:,}, means as many or more.")
    ]
    first_seen: Time
    last_seen: Time
    sample_job_id: Annotated[UUID, Meta(description="The last of its jobs to fail.")]
    state: GroupState
    decision: Annotated[Decision | None, Meta(description="Null: nobody has resolved or ignored it.")]
    failed_by_hour: Annotated[
        list[int] | None,
        Meta(
            description=(
                "How many of its dead letters failed in each of the last `hours`, the present one last;"
                f" {MOST_IN_AN_HOUR} means as many or more. Null unless `hours` asks for it."
            )
        ),
    ]


class GroupWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process in which jobs of a group failed."""

    worker_id: UUID
    host: Annotated[str | None, Meta(description="Null: the process has ended.")]
    pid: int | None
    started_at: Time | None
    jobs: Annotated[int, Meta(description=f"How many of the last {LAST_JOBS} jobs of the group failed there.")]
    last_seen: Time


class ErrorGroupItem(ErrorGroup, frozen=True, kw_only=True):
    """A group, and where its last jobs failed."""

    workers: Annotated[list[GroupWorker], Meta(description="The process with most of the failures first.")]


class GroupPage(msgspec.Struct, frozen=True):
    """Groups of dead letters, the last seen first within the page."""

    groups: list[ErrorGroup]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


class DecisionForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a decision."""

    reason: Annotated[str, Meta(min_length=1, max_length=1_000, description="Kept and shown with the group.")]


EXAMPLE = {
    "id": "8c1f2a6d-9be3-3f10-7c55-04d2a8f0e6b1",
    "type": "csv-generation",
    "error_class": "OSError",
    "message": 'cannot write "…": no space left after N bytes',
    "count": 214,
    "first_seen": "2026-11-26T09:58:40.100Z",
    "last_seen": "2026-11-26T10:02:11.084Z",
    "sample_job_id": "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41",
    "state": "open",
    "decision": None,
    "failed_by_hour": None,
}
_ITEM = EXAMPLE | {
    "failed_by_hour": [0, 0, 100, 14],
    "workers": [
        {
            "worker_id": "3f0b1c2d-5e6f-4a7b-8c9d-0e1f2a3b4c5d",
            "host": "worker-1",
            "pid": 17,
            "started_at": "2026-11-26T09:55:00.000Z",
            "jobs": 100,
            "last_seen": "2026-11-26T10:02:11.084Z",
        }
    ],
}
_RESOLVED = EXAMPLE | {
    "state": "resolved",
    "decision": {"reason": "the disk is larger now", "by": "operations", "at": "2026-11-26T10:30:00.000Z"},
}
_IGNORED = EXAMPLE | {
    "state": "ignored",
    "decision": {"reason": "only test data", "by": "operations", "at": "2026-11-26T10:30:00.000Z"},
}
_LINK = Header("Link", "The next page, with `rel=next`; absent on the last one.")
_PATH = {"group_id": Header("group_id", "The id of a group.", example=f"{EXAMPLE['id']}")}
_PROBLEMS = (*PROBLEMS, "error_group_not_found")


def shown(group: dead_letters.Group) -> ErrorGroup:
    """Return a group as the API shows it."""
    return ErrorGroup(**_facts(group))


def _facts(group: dead_letters.Group) -> dict[str, Any]:
    decision = None
    if group.decided_at is not None:
        decision = Decision(group.reason or "", group.decided_by or "", rfc3339(group.decided_at))
    return {
        "id": group.id,
        "type": group.type,
        "error_class": group.error_class,
        "message": group.pattern,
        "count": group.count,
        "first_seen": rfc3339(group.first_seen),
        "last_seen": rfc3339(group.last_seen),
        "sample_job_id": group.sample_job_id,
        "state": group.state,
        "decision": decision,
        "failed_by_hour": None if group.by_hour is None else list(group.by_hour),
    }


def _worker(worker: dead_letters.GroupWorker) -> GroupWorker:
    return GroupWorker(
        worker_id=worker.worker_id,
        host=worker.host,
        pid=worker.pid,
        started_at=None if worker.started_at is None else rfc3339(worker.started_at),
        jobs=worker.jobs,
        last_seen=rfc3339(worker.last_seen),
    )


def find(database: Database, group_id: str, *, hours: int = 0) -> dead_letters.Group:
    """Return the group with this id. Raises 404 if it has no dead letter."""
    try:
        group = dead_letters.find_group(database, UUID(group_id), hours=hours)
    except ValueError:
        group = None
    if group is None:
        description = f"There is no dead letter in a group {group_id[:64]}."
        raise falcon.HTTPNotFound(title="error_group_not_found", description=description)
    return group


class ErrorGroups(DatabaseResource):
    """/dead-letters/groups."""

    def __init__(self, database: Database, threads: Threads, registry: Registry) -> None:
        super().__init__(database, threads)
        self.registry = registry

    @operation(
        id="list_error_groups",
        summary="List groups of dead letters with equal errors",
        description=(
            "Only groups that have dead letters now. A page has fewer than `limit` groups if `state` or `type` leaves"
            " some out: `next_cursor` says whether others follow."
        ),
        tag="dead letters",
        scope=Scope.JOBS_READ,
        query=GroupsQuery,
        answers={
            HTTPStatus.OK: Answer(
                "A page of groups.", GroupPage, headers=(_LINK,), example={"groups": [EXAMPLE], "next_cursor": None}
            )
        },
        problems=PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        query: GroupsQuery = req.context.query
        page = await self.run(self._page, query, _decoded(query.cursor))
        resp.data = msgspec.json.encode(page)
        if page.next_cursor:
            resp.append_link(next_page(req, page.next_cursor), "next")

    on_head = on_get

    def _page(self, query: GroupsQuery, after: UUID | None) -> GroupPage:
        found = dead_letters.groups(
            self.database, limit=query.limit + 1, after=after, most=query.count_to, hours=query.hours
        )
        job_type = None if query.type is None else own_spelling(query.type, self.registry)
        page = [
            group
            for group in found[: query.limit]
            if query.state in (None, group.state) and job_type in (None, group.type)
        ]
        page.sort(key=lambda group: group.last_seen, reverse=True)
        next_cursor = str(found[query.limit - 1].id) if len(found) > query.limit else None
        return GroupPage([shown(group) for group in page], next_cursor)


class ErrorGroupResource(DatabaseResource):
    """/dead-letters/groups/{group_id}."""

    @operation(
        id="get_error_group",
        summary="Read a group of dead letters, and where its last jobs failed",
        tag="dead letters",
        scope=Scope.JOBS_READ,
        query=GroupQuery,
        answers={HTTPStatus.OK: Answer("The group.", ErrorGroupItem, example=_ITEM)},
        path=_PATH,
        problems=_PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response, group_id: str) -> None:
        query: GroupQuery = req.context.query
        resp.data = await self.run(self._item, group_id, query.hours)

    on_head = on_get

    def _item(self, group_id: str, hours: int) -> bytes:
        group = find(self.database, group_id, hours=hours)
        workers = [_worker(worker) for worker in dead_letters.workers_of_group(self.database, group.id)]
        return msgspec.json.encode(ErrorGroupItem(**_facts(group), workers=workers))


class _GroupDecision(DatabaseResource):
    """What the decisions about a group have in common."""

    state: GroupState

    def decide(self, group_id: str, reason: str, by: str) -> bytes:
        """Record the decision and return the group. Raises 404 if it has no dead letter."""
        id_ = find(self.database, group_id).id
        dead_letters.decide(self.database, id_, self.state, reason=reason, by=by)
        events.emit(events.ErrorGroupDecided(group_id=str(id_), state=self.state, by=by))
        return msgspec.json.encode(shown(find(self.database, group_id)))


class _ReasonedDecision(_GroupDecision):
    """A decision with a reason."""

    def __init__(self, database: Database, threads: Threads, body_reader: request_body.BodyReader) -> None:
        super().__init__(database, threads)
        self.body_reader = body_reader

    async def answer(self, req: Request, resp: Response, group_id: str) -> None:
        form = await self.body_reader.read(req, DecisionForm)
        resp.data = await self.run(self.decide, group_id, form.reason, req.context.caller.name)


class GroupResolution(_ReasonedDecision):
    """/dead-letters/groups/{group_id}/resolve."""

    state = GroupState.RESOLVED

    @operation(
        id="resolve_error_group",
        summary="Say that the cause of a group's errors is gone",
        description="If a job of the group fails later, the group is open again. Redrive its jobs to run them again.",
        tag="dead letters",
        scope=Scope.DEAD_LETTERS_WRITE,
        body=DecisionForm,
        body_examples={"with a reason": {"reason": "the disk is larger now"}},
        answers={HTTPStatus.OK: Answer("The group is resolved.", ErrorGroup, example=_RESOLVED)},
        path=_PATH,
        problems=_PROBLEMS,
    )
    async def on_post(self, req: Request, resp: Response, group_id: str) -> None:
        await self.answer(req, resp, group_id)


class GroupIgnoring(_ReasonedDecision):
    """/dead-letters/groups/{group_id}/ignore."""

    state = GroupState.IGNORED

    @operation(
        id="ignore_error_group",
        summary="Say that a group's errors do not matter",
        description="The group stays ignored, also if further jobs fail, until it is reopened.",
        tag="dead letters",
        scope=Scope.DEAD_LETTERS_WRITE,
        body=DecisionForm,
        body_examples={"with a reason": {"reason": "only test data"}},
        answers={HTTPStatus.OK: Answer("The group is ignored.", ErrorGroup, example=_IGNORED)},
        path=_PATH,
        problems=_PROBLEMS,
    )
    async def on_post(self, req: Request, resp: Response, group_id: str) -> None:
        await self.answer(req, resp, group_id)


class GroupReopening(_GroupDecision):
    """/dead-letters/groups/{group_id}/reopen."""

    state = GroupState.OPEN

    @operation(
        id="reopen_error_group",
        summary="Take back what was decided about a group",
        tag="dead letters",
        scope=Scope.DEAD_LETTERS_WRITE,
        answers={HTTPStatus.OK: Answer("The group is open.", ErrorGroup, example=EXAMPLE)},
        path=_PATH,
        problems=_PROBLEMS,
    )
    async def on_post(self, req: Request, resp: Response, group_id: str) -> None:
        resp.data = await self.run(self.decide, group_id, "", req.context.caller.name)


def _decoded(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(cursor)
    except ValueError:
        raise InvalidRequest("expected the next_cursor of an earlier response", pointer="cursor") from None
