"""/console: what needs a person, the flow of the last hour, and the queues."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID, uuid4

import falcon
from falcon.asgi import Request, Response
from markupsafe import Markup

from jobs_service.api.console import charts
from jobs_service.api.console.calls import CallRefused, Reply
from jobs_service.api.console.charts import Line
from jobs_service.api.console.curl import as_curl
from jobs_service.api.console.formats import parsed
from jobs_service.api.console.pages import Page, page

#: How many findings of one kind, and how many queues are shown. So no kind hides the others.
SHOWN_OF_KIND, SHOWN_QUEUES = 4, 15

#: With so few jobs it is asked whether there is any besides canaries.
FEW_JOBS = 20

MINUTES = 60

#: How long the history may lag behind before its end is shown as a gap.
LAG = timedelta(minutes=3)

#: The type whose example a new installation offers, if it is there.
EXAMPLE_TYPE = "csv-generation"

#: Seconds between two tries to submit the example, while the browser's first click is being carried out.
TRIES_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)

#: The states of a queue that need a person.
ALARMING = ("No workers", "Late")

Json = dict[str, Any]


class Overview(Page):
    """/console."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        stats, queues, attention = await asyncio.gather(
            self.api.get(req, "/stats"), self.api.get(req, "/queues"), self.api.get(req, "/attention")
        )
        self.show(
            req,
            resp,
            "overview.html",
            title="Overview",
            findings=shortened(attention["findings"]),
            omitted=attention["omitted"],
            stats=stats,
            flow=flow(stats["history"], datetime.now(UTC)),
            queues=sorted(map(shown, queues["queues"]), key=_concern)[:SHOWN_QUEUES],
            queue_count=len(queues["queues"]),
            welcome=await self._welcome(req) if await self._is_new(req, stats["jobs"]) else None,
            live="/events",
            refresh=10,
        )

    async def _is_new(self, req: Request, counts: Mapping[str, Json]) -> bool:
        """Tell whether there is no job, besides canaries."""
        if sum(count["jobs"] for count in counts.values()) > FEW_JOBS:
            return False
        return not (await self.api.get(req, "/jobs", limit=1))["jobs"]

    async def _welcome(self, req: Request) -> Json:
        example = example_of((await self.api.get(req, "/job-types"))["job_types"])
        has_key = req.context.caller.name != "anonymous"
        url = f"{req.forwarded_prefix}/jobs"
        return {
            "example": example,
            "command": as_curl("POST", url, example, has_key=has_key) if example else None,
            # Of one form: a double click makes one job.
            "key": uuid4(),
        }


class Example(Page):
    """/console/jobs/example."""

    @page()
    async def on_post(self, req: Request, resp: Response) -> None:
        key = _key((await self.form(req)).get("key", ""))
        example = example_of((await self.api.get(req, "/job-types"))["job_types"])
        if example is None:
            raise falcon.HTTPNotFound(description="No job type has an example.")
        reply = await self._submit(req, example, f'"{key}"')
        self.done(req, resp, f"/jobs/{reply.json['job_id']}", "submitted")

    async def _submit(self, req: Request, example: Json, key: str) -> Reply:
        for pause in TRIES_SECONDS:
            try:
                return await self.api.call(req, "POST", "/jobs", body=example, headers={"Idempotency-Key": key})
            except CallRefused as refused:
                if refused.code != "idempotency_key_in_flight":
                    raise
            await asyncio.sleep(pause)
        return await self.api.call(req, "POST", "/jobs", body=example, headers={"Idempotency-Key": key})


def _key(text: str) -> UUID:
    """Return the key of the form; another one for a text that is none."""
    try:
        return UUID(text)
    except ValueError:
        return uuid4()


def example_of(job_types: Sequence[Json]) -> Json | None:
    """Return a job that a new installation can try, None if no type has an example."""
    with_example = [kind for kind in job_types if kind["example"] is not None]
    chosen = min(with_example, key=lambda kind: kind["name"] != EXAMPLE_TYPE, default=None)
    return None if chosen is None else {"type": chosen["name"], "payload": chosen["example"]}


def shortened(findings: Sequence[Json]) -> list[Json]:
    """Return the findings that are shown, with their places. The last one of a kind says how many `more` there are."""
    totals, places = Counter(finding["kind"] for finding in findings), Counter[str]()
    found = []
    for finding in findings:
        kind = finding["kind"]
        places[kind] += 1
        if places[kind] <= SHOWN_OF_KIND:
            more = max(0, totals[kind] - SHOWN_OF_KIND) if places[kind] == SHOWN_OF_KIND else 0
            found.append(finding | {"place": place_of(finding), "more": more})
    return found


class Place(NamedTuple):
    """The page where a finding is mended: its path, and the words of the link."""

    path: str
    words: str
    #: Whether the path is one of the API, and no page.
    is_api: bool = False


def place_of(finding: Json) -> Place:
    """Return where a finding is mended."""
    match finding:
        case {"group_id": str(group)}:
            return Place(f"/failures/{group}", "Open the group")
        case {"queue": str(queue)}:
            return Place(f"/queues/{quote(queue, safe='')}", "Open the queue")
        case {"server": str(), "job_id": str(job_id)}:
            return Place(f"/jobs/{job_id}", "Open a waiting job")
        case {"kind": "redis_unavailable"}:
            return Place("/readyz", "See the checks", is_api=True)
        case _:
            return Place("/workers", "Open the workers")


def flow(history: Sequence[Json], now: datetime) -> Markup:
    """Return the chart of the last hour. Minutes that maintenance has not written are gaps."""
    by_minute = {parsed(minute["at"]): minute for minute in history}
    last = now.replace(second=0, microsecond=0) - timedelta(minutes=1)
    # The minute that has just ended is written some seconds later.
    last = max((minute for minute in by_minute if minute > now - LAG), default=last)
    minutes = [last - timedelta(minutes=back) for back in reversed(range(MINUTES))]
    drawn = [
        Line(name, words, [by_minute[minute][name] if minute in by_minute else None for minute in minutes])
        for name, words in (("submitted", "Submitted"), ("completed", "Completed"), ("failed", "Failed"))
    ]
    places = [f"{minute:%H:%M}" for minute in minutes]
    return charts.lines("flow", "Jobs a minute in the last hour", drawn, places, first="Minute (UTC)")


def shown(queue: Json) -> Json:
    """Return a queue with its target and its state, in the words of the queues' page."""
    target = queue.get("target_seconds")
    return queue | {"target_seconds": target, "state": _state(queue, target)}


def _state(queue: Json, target_seconds: float | None) -> str:
    due, oldest = queue["depth"]["due"], queue["oldest_waiting_seconds"]
    if queue["paused"]:
        return "Paused"
    if due and not queue["live_workers"]:
        return "No workers"
    if target_seconds is not None and oldest is not None and oldest > target_seconds:
        return "Late"
    return "On time" if due or queue["depth"]["processing"] else "Idle"


def _concern(queue: Json) -> tuple[bool, int, str]:
    """Return the order of the queues: those that need a person first, then the longest."""
    return queue["state"] not in ALARMING, -queue["depth"]["due"], queue["name"]
