"""/livez and /readyz."""

import falcon
import msgspec
import redis

from jobs_service import migrations
from jobs_service.database import Database
from jobs_service.errors import DatabaseUnavailable, MigrationError


class Liveness:
    """/livez: this process answers. Asks nobody else, so that a dead database does not restart a healthy API."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:  # noqa: ARG002
        resp.data = b'{"status":"ok"}'

    on_head = on_get


class Readiness:
    """/readyz: jobs can be accepted. Without Redis they still can, so that is only called degraded."""

    def __init__(self, database: Database, redis_client: redis.Redis) -> None:
        self.database = database
        self.redis_client = redis_client

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:  # noqa: ARG002
        checks = {"database": self._database(), "redis": self._redis()}
        if checks["database"] != "ok":
            status, resp.status = "unavailable", falcon.HTTP_SERVICE_UNAVAILABLE
            resp.set_header("Retry-After", "2")
        else:
            status = "ok" if checks["redis"] == "ok" else "degraded"
        resp.data = msgspec.json.encode({"status": status, "checks": checks})

    on_head = on_get

    def _database(self) -> str:
        try:
            missing = migrations.pending(self.database)
        except DatabaseUnavailable:
            return "does not answer"
        except MigrationError as error:
            return str(error)
        return f"not migrated: {', '.join(missing)}" if missing else "ok"

    def _redis(self) -> str:
        try:
            self.redis_client.ping()
        except redis.RedisError:
            return "does not answer"
        return "ok"
