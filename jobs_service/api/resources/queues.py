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
from jobs_service.api.resources.shared_reads import SharedRead
from jobs_service.api.threads import Threads
from jobs_service.config import Settings
from jobs_service.database.connection import Database
from jobs_service.jobs import statistics
from jobs_service.jobs.explanations import PauseFacts
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.lifecycle import Status
from jobs_service.jobs.queries import rfc3339

QUEUE = Header("name", "The name of a queue.", example="default")


class Depth(msgspec.Struct, frozen=True):
    """The jobs of a queue by state. The first four are `pending`."""

    due: Annotated[int, Meta(description="Could run now.")]
    scheduled: Annotated[int, Meta(description="Wait for their date.")]
    retrying: Annotated[int, Meta(description="Wait for their next attempt.")]
    deferred: Annotated[int, Meta(description="Wait for a server that is unavailable.")]
    processing: int
    failed: Annotated[int, Meta(description="Dead letters.")]
    is_capped: Annotated[bool, Meta(description="There are more: counting stops at 10,000 of one kind.")]


class Queue(msgspec.Struct, frozen=True):
    """A queue: its jobs, how fast they end, and who serves it."""

    name: str
    job_types: Annotated[list[str], Meta(description="The types whose jobs go there by default.")]
    depth: Depth
    oldest_waiting_seconds: Annotated[float | None, Meta(description="For how long the oldest due job has been due.")]
    completed_per_minute: Annotated[float, Meta(description="By the jobs of the last five minutes.")]
    failed_per_minute: float
    live_workers: Annotated[int, Meta(description="Worker processes that serve it.")]
    paused: Annotated[PauseFacts | None, Meta(description="null: it runs.")]


class Queues(msgspec.Struct, frozen=True):
    """All queues of the job types, and those in which there are jobs."""

    queues: list[Queue]


_EXAMPLE = {
    "name": "default",
    "job_types": ["EMAIL_SEND", "csv-generation"],
    "depth": {
        "due": 1200,
        "scheduled": 3,
        "retrying": 1,
        "deferred": 0,
        "processing": 16,
        "failed": 2,
        "is_capped": False,
    },
    "oldest_waiting_seconds": 4.2,
    "completed_per_minute": 612.4,
    "failed_per_minute": 0.2,
    "live_workers": 2,
    "paused": None,
}


class QueueReader(DatabaseResource):
    """Reads the queues, for both routes."""

    def __init__(self, database: Database, threads: Threads, registry: Registry, settings: Settings) -> None:
        super().__init__(database, threads)
        self.registry = registry
        self.lease_seconds = settings.lease_seconds
        self._figures = SharedRead(lambda: self.run(self._read_figures))

    async def queues(self) -> list[Queue]:
        """Return all queues. Pauses and workers are those of this moment."""
        figures = await self._figures.get()
        pauses, serving = await self.run(self._read_present)
        names = {*self.registry.queues, *figures.queues, *pauses, *serving}
        return [self._queue(name, figures, pauses, serving) for name in sorted(names)]

    def _read_figures(self) -> "_Figures":
        return _Figures(
            statistics.depths(self.database),
            statistics.ended_or_running(self.database),
            statistics.rates(self.database),
        )

    def _read_present(self) -> tuple[dict[str, statistics.Pause], dict[str, int]]:
        return statistics.pauses(self.database), statistics.serving(self.database, lease_seconds=self.lease_seconds)

    def _queue(
        self, name: str, figures: "_Figures", pauses: dict[str, statistics.Pause], serving: dict[str, int]
    ) -> Queue:
        completed, failed = figures.rates.get(name, (0.0, 0.0))
        return Queue(
            name=name,
            job_types=sorted(kind.name for kind in self.registry if kind.queue == name and not kind.is_canary),
            depth=figures.depth(name),
            oldest_waiting_seconds=figures.depths.get(name, statistics.Depth()).oldest_seconds,
            completed_per_minute=round(completed, 3),
            failed_per_minute=round(failed, 3),
            live_workers=serving.get(name, 0),
            paused=_shown(pauses.get(name)),
        )


class _Figures(msgspec.Struct, frozen=True):
    depths: dict[str, statistics.Depth]
    others: dict[tuple[str, str], tuple[int, bool]]
    rates: dict[str, tuple[float, float]]

    @property
    def queues(self) -> set[str]:
        return {*self.depths, *self.rates, *(queue for _, queue in self.others)}

    def depth(self, queue: str) -> Depth:
        waiting = self.depths.get(queue, statistics.Depth())
        processing, more_running = self.others.get((Status.PROCESSING, queue), (0, False))
        failed, more_failed = self.others.get((Status.FAILED, queue), (0, False))
        is_capped = waiting.is_capped or more_running or more_failed
        return Depth(waiting.due, waiting.scheduled, waiting.retrying, waiting.deferred, processing, failed, is_capped)


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
