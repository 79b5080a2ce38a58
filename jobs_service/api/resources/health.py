"""/livez and /readyz."""

import math
import time
from collections.abc import Sequence
from http import HTTPStatus
from threading import Lock
from typing import Literal

import falcon
import msgspec
from falcon.asgi import Request, Response

from jobs_service.api.operations import RETRY_AFTER, Answer, operation
from jobs_service.api.threads import Threads
from jobs_service.broker.neighbours import conflicts
from jobs_service.broker.redis import JobBroker
from jobs_service.database import migrations
from jobs_service.database.connection import Database
from jobs_service.errors import BrokerUnavailable, DatabaseUnavailable, MigrationError, PostgresError
from jobs_service.jobs import lifecycle
from jobs_service.readiness import advice, preflight

#: Seconds for which a result about the database is cached, so that many probes cost it one statement.
KEPT_SECONDS = 1.0

#: A result older than this many seconds is not used: a request then waits for the one that is checking the database.
STALE_SECONDS = 10.0


class Health(msgspec.Struct, frozen=True):
    """Whether the process answers."""

    status: Literal["ok"]


class Checks(msgspec.Struct, frozen=True):
    """Whether jobs can be submitted, and why not."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, str]


_READY = {"status": "ok", "checks": {"database": "ok", "redis": "ok"}}
_NOT_READY = {
    "status": "unavailable",
    "checks": {"database": "not migrated: 014_add_queue_pauses; run python -m jobs_service migrate", "redis": "ok"},
}


class Liveness:
    """/livez: this process answers. It checks nothing else, so that a database failure does not restart the API.

    It answers in the event loop, as every request begins there: without the loop there is no answer.
    """

    @operation(
        id="get_liveness",
        summary="Whether the process answers",
        tag="health",
        scope=None,
        query=None,
        answers={HTTPStatus.OK: Answer("It does.", Health, example={"status": "ok"})},
    )
    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        resp.data = b'{"status":"ok"}'

    on_head = on_get


class Readiness:
    """/readyz: jobs can be submitted. Without Redis they still can, so the status is then degraded."""

    def __init__(
        self,
        database: Database,
        broker: JobBroker,
        queues: Sequence[str],
        threads: Threads,
        *,
        intake_database: Database,
    ) -> None:
        """Jobs are submitted through `intake_database`. The checks send their statements through `database`."""
        self.database = database
        self.intake_database = intake_database
        self.broker = broker
        self.queues = queues
        self.threads = threads
        self._lock = Lock()
        self._kept = ""
        self._kept_until = -math.inf

    @operation(
        id="get_readiness",
        summary="Whether jobs can be submitted",
        description="`checks` says what is wrong, and what to do. Without Redis the status is `degraded`.",
        tag="health",
        scope=None,
        query=None,
        answers={
            HTTPStatus.OK: Answer("They can.", Checks, example=_READY),
            HTTPStatus.SERVICE_UNAVAILABLE: Answer("They cannot.", Checks, headers=(RETRY_AFTER,), example=_NOT_READY),
        },
        problems=("too_busy",),
    )
    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        checks = await self.threads.run(self._checks)
        if checks["database"] != "ok":
            status, resp.status = "unavailable", falcon.HTTP_SERVICE_UNAVAILABLE
            resp.set_header("Retry-After", "2")
        else:
            status = "ok" if checks["redis"] == "ok" else "degraded"
        resp.data = msgspec.json.encode({"status": status, "checks": checks})

    on_head = on_get

    def _checks(self) -> dict[str, str]:
        return {"database": self._database(), "redis": state_of_redis(self.broker, self.queues)}

    def _database(self) -> str:
        # While another request checks the database, return the last result instead of waiting for a server that may be
        # down.
        is_stale = time.monotonic() > self._kept_until + STALE_SECONDS
        if self._lock.acquire(blocking=is_stale):
            try:
                if time.monotonic() >= self._kept_until:
                    self._kept = self._look()
                    self._kept_until = time.monotonic() + KEPT_SECONDS
            finally:
                self._lock.release()
        return self._intake_refusal() if self._kept == "ok" else self._kept

    def _intake_refusal(self) -> str:
        """Return why submissions are refused at this moment without being tried, or "ok"."""
        reason = self.intake_database.refusal()
        return advice.on_postgresql(DatabaseUnavailable(reason)) if reason else "ok"

    def _look(self) -> str:
        try:
            missing = migrations.pending(self.database)
            if missing:
                return f"not migrated: {', '.join(missing)}; run python -m jobs_service migrate"
            lifecycle.try_submit(self.database)
        except MigrationError as error:
            return str(error)
        except PostgresError as error:
            return advice.on_postgresql(error)
        return "ok"


def state_of_redis(broker: JobBroker, queues: Sequence[str]) -> str:
    """Return why Redis cannot be used, or "ok"."""
    try:
        preflight.look_at_redis(broker.client)
    except BrokerUnavailable as error:
        return str(error)
    try:
        found = conflicts(broker.client, broker.keys, queues, in_full=False)
    except BrokerUnavailable:
        return "refuses commands that the service needs: run python -m jobs_service check"
    return "; ".join(found) or "ok"
