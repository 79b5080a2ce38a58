"""/stats: counts, rates and latencies, and the last hour by minute."""

from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.shared_reads import SharedRead
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
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

    def __init__(self, database: Database, threads: Threads) -> None:
        super().__init__(database, threads)
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
        resp.data = await self._shared.get()

    on_head = on_get

    def _read(self) -> bytes:
        counts = {
            status: Count(count.jobs, count.is_estimate) for status, count in statistics.counts(self.database).items()
        }
        history = [_minute(*row) for row in statistics.history(self.database)]
        return msgspec.json.encode(Stats(counts, _recent(statistics.recent(self.database)), history))


def _recent(recent: statistics.Recent) -> Recent:
    return Recent(
        recent.seconds,
        completed_per_minute=round(recent.completed, 3),
        failed_per_minute=round(recent.failed, 3),
        cancelled_per_minute=round(recent.cancelled, 3),
        latency_seconds=_percentiles(*recent.latency or ()),
        run_seconds=_percentiles(*recent.run or ()),
    )


def _minute(at: Any, *figures: Any) -> Minute:  # noqa: ANN401 - the columns of a row
    submitted, completed, failed, cancelled, *seconds = figures
    percentiles = _percentiles(*seconds[:3]), _percentiles(*seconds[3:])
    return Minute(rfc3339(at) or "", submitted, completed, failed, cancelled, *percentiles)


def _percentiles(*seconds: float | None) -> Percentiles:
    return Percentiles(*(None if value is None else round(value, 6) for value in seconds))
