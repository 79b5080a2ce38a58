"""/jobs/{id}/explain."""

from http import HTTPStatus

import msgspec
from falcon.asgi import Request, Response

from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.jobs import not_found, parse_id
from jobs_service.api.threads import Threads
from jobs_service.config import Settings
from jobs_service.database.connection import Database
from jobs_service.errors import UnknownJobType
from jobs_service.jobs.explanations import EXAMPLE, Explainer, Explanation
from jobs_service.jobs.job_types import Registry


class JobExplanation(DatabaseResource):
    """/jobs/{job_id}/explain."""

    def __init__(self, database: Database, threads: Threads, registry: Registry, settings: Settings) -> None:
        super().__init__(database, threads)
        self.registry = registry
        self.settings = settings
        self.explainer = Explainer(database, settings.lease_seconds, self._limit)

    @operation(
        id="explain_job",
        summary="Why a job is not running, or how it ended",
        description="One sentence for a person, a `reason` for programs, and the facts behind both.",
        tag="jobs",
        scope=Scope.JOBS_READ,
        answers={HTTPStatus.OK: Answer("The explanation.", Explanation, example=EXAMPLE)},
        problems=(*PROBLEMS, "job_not_found"),
    )
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:  # noqa: ARG002
        found = await self.run(self.explainer.explain, parse_id(job_id))
        if found is None:
            raise not_found(job_id)
        resp.data = msgspec.json.encode(found)

    on_head = on_get

    def _limit(self, name: str) -> float | None:
        try:
            return self.registry.get(name).time_limit_seconds or self.settings.time_limit_seconds
        except UnknownJobType:
            return None
