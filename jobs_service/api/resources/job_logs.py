"""/jobs/{job_id}/logs."""

from http import HTTPStatus
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.jobs import not_found, parse_id
from jobs_service.jobs import notes, queries, representation


class JobLogs(msgspec.Struct, frozen=True):
    """What the attempts of a job have said."""

    job_id: UUID
    attempts: list[notes.AttemptLog]


_EXAMPLE = {
    "job_id": representation.EXAMPLE["job_id"],
    "attempts": [
        {
            "attempt": 1,
            "started_at": "2026-11-26T09:30:00.050Z",
            "progress": {"done": 5000, "total": 12000, "note": "rows"},
            "lines": [
                {"at": "2026-11-26T09:30:00.061Z", "level": "info", "text": "Page fetched", "facts": {"page": 3}}
            ],
            "lines_omitted": 0,
        }
    ],
}


class Logs(DatabaseResource):
    """/jobs/{job_id}/logs."""

    @operation(
        id="get_job_logs",
        summary="Read what a job's code said",
        description="The log lines and the progress of each attempt that said something, the oldest first.",
        tag="jobs",
        scope=Scope.JOBS_READ,
        answers={HTTPStatus.OK: Answer("Lines and progress by attempt.", JobLogs, example=_EXAMPLE)},
        problems=(*PROBLEMS, "job_not_found"),
    )
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:  # noqa: ARG002
        resp.data = await self.run(self._shown, parse_id(job_id), job_id)

    on_head = on_get

    def _shown(self, id_: UUID, job_id: str) -> bytes:
        attempts = notes.read(self.database, id_)
        if not attempts and queries.find_job(self.database, id_) is None:
            raise not_found(job_id)
        return msgspec.json.encode(JobLogs(id_, attempts))
