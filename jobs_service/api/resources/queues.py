"""/queues and /queues/{name}: what waits, what runs, who serves it."""

from http import HTTPStatus
from typing import Annotated

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.figures import AllFigures, Depth, FigureReader, Figures
from jobs_service.config import Settings
from jobs_service.jobs import statistics
from jobs_service.jobs.explanations import PauseFacts
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.queries import rfc3339
from jobs_service.metrics.slo import Objectives

QUEUE = Header("name", "The name of a queue.", example="default")


class QueueType(msgspec.Struct, frozen=True):
    """The jobs of one type in a queue."""

    type: str
    depth: Depth
    oldest_waiting_seconds: float | None
    submitted_per_minute: float
    completed_per_minute: float
    failed_per_minute: float


class Queue(msgspec.Struct, frozen=True):
    """A queue: its jobs, how fast they end, and who serves it."""

    name: str
    job_types: Annotated[list[str], Meta(description="The types whose jobs go there by default.")]
    depth: Depth
    oldest_waiting_seconds: Annotated[float | None, Meta(description="For how long the oldest due job has been due.")]
    target_seconds: Annotated[
        float, Meta(description="For how long a due job may wait: `SLO_QUEUE_LATENCY_SECONDS`, `SLO_LATENCY_SECONDS`.")
    ]
    submitted_per_minute: Annotated[float, Meta(description="By the jobs of the last five minutes.")]
    completed_per_minute: Annotated[float, Meta(description="By the jobs of the last five minutes.")]
    failed_per_minute: float
    drain_seconds: Annotated[
        float | None,
        Meta(
            description="In how many seconds as many jobs end as are due, at the present rate. It takes no account of "
            "those that come in meanwhile. null: none end, the queue is paused, or no worker serves it."
        ),
    ]
    live_workers: Annotated[int, Meta(description="Worker processes that serve it.")]
    paused: Annotated[PauseFacts | None, Meta(description="null: it runs.")]
    by_type: Annotated[
        list[QueueType],
        Meta(description="The types that have jobs in it, or had some that ended in the last five minutes."),
    ]


class Queues(msgspec.Struct, frozen=True):
    """All queues of the job types, and those in which there are jobs."""

    queues: list[Queue]


_DEPTH_EXAMPLE = {
    "due": 1200,
    "scheduled": 3,
    "retrying": 1,
    "deferred": 0,
    "processing": 16,
    "failed": 2,
    "is_capped": False,
}
_EXAMPLE = {
    "name": "default",
    "job_types": ["EMAIL_SEND", "csv-generation"],
    "depth": _DEPTH_EXAMPLE,
    "oldest_waiting_seconds": 4.2,
    "target_seconds": 300.0,
    "submitted_per_minute": 598.2,
    "completed_per_minute": 612.4,
    "failed_per_minute": 0.2,
    "drain_seconds": 117.5,
    "live_workers": 2,
    "paused": None,
    "by_type": [
        {
            "type": "csv-generation",
            "depth": _DEPTH_EXAMPLE,
            "oldest_waiting_seconds": 4.2,
            "submitted_per_minute": 598.2,
            "completed_per_minute": 612.4,
            "failed_per_minute": 0.2,
        }
    ],
}


class QueueReader(DatabaseResource):
    """Reads the queues, for both routes."""

    def __init__(self, figures: FigureReader, registry: Registry, settings: Settings) -> None:
        super().__init__(figures.database, figures.threads)
        self.figures = figures
        self.registry = registry
        self.lease_seconds = settings.lease_seconds
        self.objectives = Objectives(settings)

    async def queues(self) -> list[Queue]:
        """Return all queues. Pauses and workers are those of this moment."""
        figures = await self.figures.get()
        pauses, serving = await self.run(self._read_present)
        names = {*self.registry.queues, *figures.by_queue, *pauses, *serving}
        return [self._queue(name, figures, pauses.get(name), serving.get(name, 0)) for name in sorted(names)]

    def _read_present(self) -> tuple[dict[str, statistics.Pause], dict[str, int]]:
        return statistics.pauses(self.database), statistics.serving(self.database, lease_seconds=self.lease_seconds)

    def _queue(self, name: str, figures: AllFigures, pause: statistics.Pause | None, live_workers: int) -> Queue:
        total = figures.of_queue(name)
        return Queue(
            name=name,
            job_types=sorted(kind.name for kind in self.registry if kind.queue == name and not kind.is_canary),
            depth=total.depth,
            oldest_waiting_seconds=total.oldest_seconds,
            target_seconds=self.objectives.latency_seconds(name),
            submitted_per_minute=round(total.submitted, 3),
            completed_per_minute=round(total.completed, 3),
            failed_per_minute=round(total.failed, 3),
            drain_seconds=_drain_seconds(total) if live_workers and pause is None else None,
            live_workers=live_workers,
            paused=_shown(pause),
            by_type=[_of_type(*item) for item in figures.by_queue.get(name, {}).items()],
        )


def _drain_seconds(total: Figures) -> float | None:
    """Return the seconds in which the due jobs end at the rate of the last five minutes; None if none end."""
    if not total.depth.due:
        return 0.0
    ended = total.completed + total.failed
    return round(60 * total.depth.due / ended, 1) if ended else None


def _of_type(name: str, figures: Figures) -> QueueType:
    return QueueType(
        type=name,
        depth=figures.depth,
        oldest_waiting_seconds=figures.oldest_seconds,
        submitted_per_minute=round(figures.submitted, 3),
        completed_per_minute=round(figures.completed, 3),
        failed_per_minute=round(figures.failed, 3),
    )


def _shown(pause: statistics.Pause | None) -> PauseFacts | None:
    return None if pause is None else PauseFacts(pause.by, rfc3339(pause.since) or "", pause.reason)


class QueueCollection:
    """/queues."""

    def __init__(self, reader: QueueReader) -> None:
        self.reader = reader

    @operation(
        id="list_queues",
        summary="The queues, with what waits and who serves them",
        tag="queues",
        scope=Scope.JOBS_READ,
        answers={HTTPStatus.OK: Answer("The queues.", Queues, example={"queues": [_EXAMPLE]})},
        problems=PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        resp.data = msgspec.json.encode(Queues(await self.reader.queues()))

    on_head = on_get


class QueueItem:
    """/queues/{name}."""

    def __init__(self, reader: QueueReader) -> None:
        self.reader = reader

    @operation(
        id="get_queue",
        summary="Read a queue",
        tag="queues",
        scope=Scope.JOBS_READ,
        path={"name": QUEUE},
        answers={HTTPStatus.OK: Answer("The queue.", Queue, example=_EXAMPLE)},
        problems=(*PROBLEMS, "queue_not_found"),
    )
    async def on_get(self, req: Request, resp: Response, name: str) -> None:  # noqa: ARG002
        found = [queue for queue in await self.reader.queues() if queue.name == name]
        if not found:
            raise falcon.HTTPNotFound(
                title="queue_not_found",
                description=f"There is no queue {name[:64]!r}. GET /queues lists those that there are.",
            )
        resp.data = msgspec.json.encode(found[0])

    on_head = on_get
