"""/attention: what needs a person, and where to look."""

import asyncio
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.health import state_of_redis
from jobs_service.api.resources.queues import Queue, QueueReader
from jobs_service.api.resources.shared_reads import SharedRead
from jobs_service.api.threads import Threads
from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings
from jobs_service.jobs import attention
from jobs_service.jobs.attention import MAX_FINDINGS, Finding, SeenQueue, Trouble
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time
from jobs_service.jobs.statistics import MAX_COUNTED, Pause

#: Seconds for which an answer waits for Redis. Then it has what Redis said the time before.
REDIS_SECONDS = 0.25


class Findings(msgspec.Struct, frozen=True):
    """What needs a person. An empty list: nothing does."""

    at: Annotated[Time, Meta(description="When it was looked.")]
    findings: Annotated[list[Finding], Meta(description=f"The most urgent first, at most {MAX_FINDINGS}.")]
    omitted: Annotated[int, Meta(description="How many further findings there are.")]


_EXAMPLE = {
    "at": "2026-11-26T10:02:14.310Z",
    "findings": [
        {
            "kind": "queue_late",
            "severity": "warning",
            "sentence": "The first job of the queue default has waited for 3 minutes, longer than its target of "
            "60 seconds. 1,200 jobs are due.",
            "what_to_do": "Look what the workers run; add workers if all of them are busy.",
            "since": "2026-11-26T09:59:14.310Z",
            "count": 1200,
            "count_is_capped": False,
            "queue": "default",
            "server": None,
            "group_id": None,
            "job_id": None,
            "links": {
                "queue": "/queues/default",
                "jobs": "/jobs?status=pending&queue=default",
                "workers": "/workers",
            },
        }
    ],
    "omitted": 0,
}


class RedisWatch:
    """Knows whether Redis can be used, and since when not. It never waits long for a server that is silent."""

    def __init__(self, broker: JobBroker, queues: list[str]) -> None:
        # One of its own: it waits while Redis is silent.
        thread = Threads(1)
        self._look = SharedRead(lambda: thread.run(state_of_redis, broker, queues))
        self._trouble: Trouble | None = None

    async def trouble(self) -> Trouble | None:
        """Return why Redis cannot be used, None if it can."""
        done, _ = await asyncio.wait({asyncio.create_task(self._looked())}, timeout=REDIS_SECONDS)
        for looked in done:
            looked.result()
        return self._trouble

    async def _looked(self) -> None:
        state = await self._look.get()
        since = self._trouble.since if self._trouble else datetime.now(UTC)
        self._trouble = None if state == "ok" else Trouble(state, since)


class Attention(DatabaseResource):
    """/attention."""

    def __init__(self, queues: QueueReader, broker: JobBroker, settings: Settings) -> None:
        super().__init__(queues.database, queues.threads)
        self.queues = queues
        self.redis = RedisWatch(broker, queues.registry.queues)
        self.many_dead_letters = settings.slo_dead_letters
        self._seen = SharedRead(lambda: self.run(attention.read, self.database))

    @operation(
        id="get_attention",
        summary="What needs a person",
        description=(
            "Queues that are late, paused or without a worker; workers, maintenance, Redis and other servers that are"
            " away; jobs that are held; errors that are new, that have returned, or that happen more often."
        ),
        tag="stats",
        scope=Scope.JOBS_READ,
        answers={HTTPStatus.OK: Answer("The findings.", Findings, example=_EXAMPLE)},
        problems=PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        queues, seen, trouble = await asyncio.gather(self.queues.queues(), self._seen.get(), self.redis.trouble())
        found = attention.findings(
            seen, [self._seen_queue(queue) for queue in queues], trouble, many_dead_letters=self.many_dead_letters
        )
        shown = found[:MAX_FINDINGS]
        resp.data = msgspec.json.encode(Findings(rfc3339(seen.now), shown, len(found) - len(shown)))

    on_head = on_get

    def _seen_queue(self, queue: Queue) -> SeenQueue:
        facts = queue.paused
        pause = None if facts is None else Pause(facts.by, datetime.fromisoformat(facts.since), facts.reason)
        return SeenQueue(
            name=queue.name,
            due=queue.depth.due,
            # The queue's flag is about its running and failed jobs, too.
            is_capped=queue.depth.is_capped and queue.depth.due >= MAX_COUNTED,
            oldest_seconds=queue.oldest_waiting_seconds,
            live_workers=queue.live_workers,
            pause=pause,
            target_seconds=queue.target_seconds,
        )
