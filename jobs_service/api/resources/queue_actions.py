"""/queues/{name}/pause and /queues/{name}/resume."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service import events
from jobs_service.api import request_body
from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.jobs import queue_pauses
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time


class PauseForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a pause."""

    reason: Annotated[str, Meta(min_length=1, max_length=1_000, description="Kept and shown until the queue resumes.")]


class Paused(msgspec.Struct, frozen=True):
    """Who paused a queue, since when, and why."""

    by: Annotated[str, Meta(description="The name of an API key.")]
    since: Time
    reason: str


class QueueState(msgspec.Struct, frozen=True):
    """Whether a queue runs."""

    name: str
    paused: Annotated[Paused | None, Meta(description="Null: the queue runs.")]


class ResumeQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which pause is to end."""

    paused_since: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Only the pause that has this `since`, and none that somebody else began later."),
    ] = None


_EXAMPLE = {
    "name": "default",
    "paused": {"by": "operations", "since": "2026-11-26T09:30:00.000Z", "reason": "the mail server moves"},
}
_PATH = {"name": Header("name", "The name of a queue.", example="default")}


class QueueAction(DatabaseResource):
    """What both actions have in common."""

    def __init__(self, database: Database, threads: Threads, registry: Registry) -> None:
        super().__init__(database, threads)
        self.queues = registry.queues

    def check(self, name: str) -> None:
        """Raise 404 for a queue that no job type has, and that is not paused."""
        if name not in self.queues and queue_pauses.find(self.database, name) is None:
            raise falcon.HTTPNotFound(
                title="queue_not_found", description=f"There is no such queue; known queues: {', '.join(self.queues)}."
            )


class QueuePause(QueueAction):
    """/queues/{name}/pause."""

    def __init__(
        self, database: Database, threads: Threads, registry: Registry, body_reader: request_body.BodyReader
    ) -> None:
        super().__init__(database, threads, registry)
        self.body_reader = body_reader

    @operation(
        id="pause_queue",
        summary="Pause a queue",
        description=(
            "From the answer on no job of the queue is claimed. Running attempts go on; jobs can be submitted, and keep"
            " their places. If the queue is paused already, that pause stays as it is."
        ),
        tag="queues",
        scope=Scope.QUEUES_WRITE,
        body=PauseForm,
        body_examples={"with a reason": {"reason": "the mail server moves"}},
        answers={HTTPStatus.OK: Answer("The queue is paused.", QueueState, example=_EXAMPLE)},
        path=_PATH,
        problems=(*PROBLEMS, "queue_not_found"),
    )
    async def on_post(self, req: Request, resp: Response, name: str) -> None:
        form = await self.body_reader.read(req, PauseForm)
        resp.data = await self.run(self._answer, name, form.reason, req.context.caller.name)

    def _answer(self, name: str, reason: str, by: str) -> bytes:
        self.check(name)
        pause, is_new = queue_pauses.pause(self.database, name, reason=reason, by=by)
        if is_new:
            events.emit(events.QueuePaused(queue=name, by=by))
        paused = Paused(pause.by, rfc3339(pause.since), pause.reason)
        return msgspec.json.encode(QueueState(name, paused))


class QueueResume(QueueAction):
    """/queues/{name}/resume."""

    @operation(
        id="resume_queue",
        summary="Resume a queue",
        description="Its jobs are claimed again, within about two seconds. A queue that is not paused stays as it is.",
        tag="queues",
        scope=Scope.QUEUES_WRITE,
        answers={HTTPStatus.OK: Answer("The queue runs.", QueueState, example=_EXAMPLE | {"paused": None})},
        path=_PATH,
        query=ResumeQuery,
        problems=(*PROBLEMS, "queue_not_found", "queue_pause_changed"),
    )
    async def on_post(self, req: Request, resp: Response, name: str) -> None:
        query = getattr(req.context, "query", None) or ResumeQuery()
        resp.data = await self.run(self._answer, name, query.paused_since, req.context.caller.name)

    def _answer(self, name: str, since: datetime | None, by: str) -> bytes:
        self.check(name)
        if queue_pauses.resume(self.database, name, since=since):
            events.emit(events.QueueResumed(queue=name, by=by))
        elif since and (other := queue_pauses.find(self.database, name)):
            raise falcon.HTTPConflict(
                title="queue_pause_changed",
                description=f"{other.by} paused the queue at {rfc3339(other.since)}: {other.reason}",
            )
        return msgspec.json.encode(QueueState(name, None))
