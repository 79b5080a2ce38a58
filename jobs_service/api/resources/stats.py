"""/stats: counts, rates and latencies, and the last hour by minute."""

import asyncio
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.figures import Depth, FigureReader, Figures
from jobs_service.api.resources.shared_reads import SharedRead
from jobs_service.database.connection import Row
from jobs_service.jobs import statistics
from jobs_service.jobs.lifecycle import Status
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time


class Count(msgspec.Struct, frozen=True):
    """How many jobs have a status."""

    jobs: int
    is_estimate: Annotated[
        bool, Meta(description="It is 10,000 or more, and taken from PostgreSQL's statistics of the table.")
    ]


class Percentiles(msgspec.Struct, frozen=True):
    """In seconds; null if no job completed."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Recent(msgspec.Struct, frozen=True):
    """What the jobs say that ended last: those of five minutes, or the last 20,000."""

    seconds: Annotated[float, Meta(description="How far back they go.")]
    completed_per_minute: float
    failed_per_minute: float
    cancelled_per_minute: float
    latency_seconds: Annotated[Percentiles, Meta(description="From the submission to the end.")]
    run_seconds: Annotated[Percentiles, Meta(description="Of the attempt that completed the job.")]


class TypeFigures(msgspec.Struct, frozen=True):
    """The jobs of a type, in all queues. Rates and percentiles as in `recent`."""

    type: str
    depth: Depth
    oldest_waiting_seconds: Annotated[float | None, Meta(description="For how long the oldest due job has been due.")]
    submitted_per_minute: float
    completed_per_minute: float
    failed_per_minute: float
    latency_seconds: Annotated[Percentiles, Meta(description="From the submission to the end.")]
    run_seconds: Annotated[Percentiles, Meta(description="Of the attempt that completed the job.")]


class Minute(msgspec.Struct, frozen=True):
    """What happened in one minute, in all queues."""

    at: Annotated[Time, Meta(description="Its beginning.")]
    submitted: int
    completed: int
    failed: int
    cancelled: int
    latency_seconds: Percentiles
    run_seconds: Percentiles


class Stats(msgspec.Struct, frozen=True):
    """The state of the service in figures."""

    jobs: Annotated[dict[Status, Count], Meta(description="By status.")]
    recent: Recent
    by_type: Annotated[
        list[TypeFigures],
        Meta(description="The types that have jobs which wait, run or have failed, or that ended in that time."),
    ]
    history: Annotated[list[Minute], Meta(description="The last hour, the oldest minute first, without this minute.")]


_PERCENTILES = {"p50": 0.08, "p95": 0.21, "p99": 0.34}
_EXAMPLE: dict[str, Any] = {
    "jobs": {
        "pending": {"jobs": 1204, "is_estimate": False},
        "processing": {"jobs": 16, "is_estimate": False},
        "completed": {"jobs": 9_800_000, "is_estimate": True},
        "failed": {"jobs": 2, "is_estimate": False},
        "cancelled": {"jobs": 0, "is_estimate": False},
    },
    "recent": {
        "seconds": 300.0,
        "completed_per_minute": 612.4,
        "failed_per_minute": 0.2,
        "cancelled_per_minute": 0.0,
        "latency_seconds": _PERCENTILES,
        "run_seconds": _PERCENTILES,
    },
    "by_type": [
        {
            "type": "csv-generation",
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
            "submitted_per_minute": 598.2,
            "completed_per_minute": 612.4,
            "failed_per_minute": 0.2,
            "latency_seconds": _PERCENTILES,
            "run_seconds": _PERCENTILES,
        }
    ],
    "history": [
        {
            "at": "2026-11-26T09:30:00.000Z",
            "submitted": 600,
            "completed": 598,
            "failed": 0,
            "cancelled": 0,
            "latency_seconds": _PERCENTILES,
            "run_seconds": _PERCENTILES,
        }
    ],
}


class Statistics(DatabaseResource):
    """/stats."""

    def __init__(self, figures: FigureReader) -> None:
        super().__init__(figures.database, figures.threads)
        self.figures = figures
        self._shared = SharedRead(lambda: self.run(self._read))

    @operation(
        id="get_stats",
        summary="Counts, rates and latencies, and the last hour by minute",
        tag="stats",
        scope=Scope.JOBS_READ,
        answers={HTTPStatus.OK: Answer("The figures.", Stats, example=_EXAMPLE)},
        problems=PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        figures, (counts, recent, history) = await asyncio.gather(self.figures.get(), self._shared.get())
        by_type = sorted(figures.by_type().items())
        resp.data = msgspec.json.encode(
            Stats(
                jobs={status: Count(count.jobs, count.is_estimate) for status, count in counts.items()},
                recent=_recent(recent[None]),
                by_type=[_of_type(kind, of_type, recent.get(kind)) for kind, of_type in by_type],
                history=[_minute(*row) for row in history],
            )
        )

    on_head = on_get

    def _read(self) -> "_Read":
        return (
            statistics.counts(self.database),
            statistics.recent(self.database),
            statistics.history(self.database),
        )


_Read = tuple[dict[Status, statistics.Count], dict[str | None, statistics.Recent], list[Row]]


def _recent(recent: statistics.Recent) -> Recent:
    return Recent(
        recent.seconds,
        completed_per_minute=round(recent.completed, 3),
        failed_per_minute=round(recent.failed, 3),
        cancelled_per_minute=round(recent.cancelled, 3),
        latency_seconds=_percentiles(*recent.latency or ()),
        run_seconds=_percentiles(*recent.run or ()),
    )


def _of_type(name: str, figures: Figures, recent: statistics.Recent | None) -> TypeFigures:
    return TypeFigures(
        type=name,
        depth=figures.depth,
        oldest_waiting_seconds=figures.oldest_seconds,
        submitted_per_minute=round(figures.submitted, 3),
        completed_per_minute=round(figures.completed, 3),
        failed_per_minute=round(figures.failed, 3),
        latency_seconds=_percentiles(*(recent and recent.latency) or ()),
        run_seconds=_percentiles(*(recent and recent.run) or ()),
    )


def _minute(at: Any, *figures: Any) -> Minute:  # noqa: ANN401 - the columns of a row
    submitted, completed, failed, cancelled, *seconds = figures
    percentiles = _percentiles(*seconds[:3]), _percentiles(*seconds[3:])
    return Minute(rfc3339(at) or "", submitted, completed, failed, cancelled, *percentiles)


def _percentiles(*seconds: float | None) -> Percentiles:
    return Percentiles(*(None if value is None else round(value, 6) for value in seconds))
