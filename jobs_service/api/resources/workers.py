"""/workers: the worker processes, and what each runs."""

from http import HTTPStatus
from typing import Annotated
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.jobs import statistics
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import EXAMPLE, Time


class CurrentJob(msgspec.Struct, frozen=True):
    """A job that a worker runs."""

    job_id: UUID
    type: str
    queue: str
    started_at: Time | None


class Worker(msgspec.Struct, frozen=True):
    """A worker process."""

    worker_id: UUID
    host: str
    pid: int
    queues: list[str]
    threads: int
    version: Annotated[
        str | None,
        Meta(description="Of its code: that of the service, and a digest of the files. null: of an older version."),
    ]
    busy: Annotated[int, Meta(description="How many of its threads run a job.")]
    is_live: Annotated[bool, Meta(description="Whether its last heartbeat is recent; if not, its jobs are taken back.")]
    started_at: Time
    last_heartbeat_at: Time
    current_jobs: list[CurrentJob]


class Workers(msgspec.Struct, frozen=True):
    """The worker processes that have not ended in order, the most recent heartbeat first."""

    workers: list[Worker]


_EXAMPLE = {
    "worker_id": "3f0b1c2d-5e6f-4a7b-8c9d-0e1f2a3b4c5d",
    "host": "worker-1",
    "pid": 17,
    "queues": ["default"],
    "threads": 16,
    "version": "0.1.0+4f1c2ab0",
    "busy": 1,
    "is_live": True,
    "started_at": "2026-11-26T08:00:00.000Z",
    "last_heartbeat_at": "2026-11-26T09:30:00.000Z",
    "current_jobs": [
        {
            "job_id": EXAMPLE["job_id"],
            "type": "csv-generation",
            "queue": "default",
            "started_at": "2026-11-26T09:30:00.021Z",
        }
    ],
}


class WorkerCollection(DatabaseResource):
    """/workers."""

    def __init__(self, database: Database, threads: Threads, lease_seconds: float) -> None:
        super().__init__(database, threads)
        self.lease_seconds = lease_seconds

    @operation(
        id="list_workers",
        summary="The worker processes, and what each runs",
        description=f"At most {statistics.MAX_WORKERS:,} processes.",
        tag="workers",
        scope=Scope.JOBS_READ,
        answers={HTTPStatus.OK: Answer("The workers.", Workers, example={"workers": [_EXAMPLE]})},
        problems=PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        resp.data = msgspec.json.encode(Workers(await self.run(self._workers)))

    on_head = on_get

    def _workers(self) -> list[Worker]:
        running = statistics.running(self.database)
        workers = statistics.workers(self.database, lease_seconds=self.lease_seconds)
        return [_shown(worker, running.get(worker.id, [])) for worker in workers]


def _shown(worker: statistics.Worker, jobs: list[statistics.Running]) -> Worker:
    return Worker(
        worker_id=worker.id,
        host=worker.hostname,
        pid=worker.pid,
        queues=worker.queues,
        threads=worker.threads,
        version=worker.version,
        busy=len(jobs),
        is_live=worker.is_live,
        started_at=rfc3339(worker.started_at) or "",
        last_heartbeat_at=rfc3339(worker.heartbeat_at) or "",
        current_jobs=[CurrentJob(job.job_id, job.type, job.queue, rfc3339(job.started_at)) for job in jobs],
    )
