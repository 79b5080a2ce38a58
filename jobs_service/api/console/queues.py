"""/console/queues and /console/queues/{name}: what waits, whether it is late, and pausing."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.console.calls import CallRefused
from jobs_service.api.console.listing import Slice, sliced
from jobs_service.api.console.pages import Page, page
from jobs_service.errors import InvalidRequest

#: The states of jobs in a queue, in the order of the page: the API's name, and a word.
STATES = {
    "due": "Due",
    "scheduled": "Scheduled",
    "retrying": "Retrying",
    "deferred": "Deferred",
    "processing": "Running",
    "failed": "Failed",
}

#: What the list of jobs is asked for to show those of a state.
JOB_FILTERS = {
    "due": "status=pending",
    "scheduled": "status=pending",
    "retrying": "status=pending&attempts_min=1",
    "deferred": "status=pending",
    "processing": "status=processing",
    "failed": "status=failed",
}

#: The conditions of a queue, the most urgent first: a word, its colour and its sign.
CONDITIONS = {
    "unserved": ("No workers", "bad", "alert"),
    "late": ("Late", "bad", "alert"),
    "paused": ("Paused", "warn", "pause"),
    "idle-unserved": ("No workers", "warn", "alert"),
    "on-time": ("On time", "good", "check"),
    "idle": ("Idle", "plain", "dash"),
}

#: What the list can be narrowed to: a word, and which conditions these are.
CHIPS = {
    "late": ("Late", {"late"}),
    "unserved": ("No workers", {"unserved", "idle-unserved"}),
    "paused": ("Paused", {"paused"}),
}

#: Rows of a page: with so many it stays under 60 KB.
PAGE_QUEUES, PAGE_TYPES = 30, 50

#: The width of a bar in the units of its drawing, and the least width of a part that is not 0.
BAR_WIDTH, LEAST_WIDTH = 120.0, 2.0


class Part(NamedTuple):
    """A part of a bar: a state, where it begins and how wide it is."""

    state: str
    x: float
    width: float


def bar(depth: Mapping[str, int]) -> list[Part]:
    """Return the parts of a bar, one for each state in which there are jobs. The smallest can be seen, too."""
    counts = {state: depth[state] for state in STATES if depth[state]}
    total = sum(counts.values())
    widths = {state: max(LEAST_WIDTH, BAR_WIDTH * count / total) for state, count in counts.items()}
    scale = BAR_WIDTH / sum(widths.values()) if widths else 1.0
    parts, x = [], 0.0
    for state, width in widths.items():
        parts.append(Part(state, round(x, 1), round(width * scale, 1)))
        x += width * scale
    return parts


class QueueView:
    """A queue as the API describes it, and what that means."""

    def __init__(self, queue: Mapping[str, Any]) -> None:
        self.facts = queue
        self.name: str = queue["name"]
        self.depth: Mapping[str, int] = queue["depth"]
        self.bar = bar(self.depth)
        self.ended_per_minute: float = queue["completed_per_minute"] + queue["failed_per_minute"]

    @property
    def is_late(self) -> bool:
        """Whether its oldest due job waits for longer than the queue's target."""
        oldest = self.facts["oldest_waiting_seconds"]
        return oldest is not None and oldest > self.facts["target_seconds"]

    @property
    def condition(self) -> str:
        """One of `CONDITIONS`."""
        has_due = self.depth["due"] > 0
        if self.facts["paused"]:
            return "paused"
        if not self.facts["live_workers"]:
            return "unserved" if has_due else "idle-unserved"
        if self.is_late:
            return "late"
        return "on-time" if has_due or self.depth["processing"] or self.ended_per_minute else "idle"

    @property
    def urgency(self) -> tuple[int, str]:
        """The key of its place in the list. Where nothing needs a person, only the name counts."""
        most = list(CONDITIONS).index(self.condition)
        return (min(most, list(CONDITIONS).index("on-time")), self.name)

    @property
    def is_growing(self) -> bool:
        """Whether more jobs come in than end, and some wait."""
        return self.depth["due"] > 0 and self.facts["submitted_per_minute"] > self.ended_per_minute

    @property
    def idle_types(self) -> list[str]:
        """The types whose jobs go there by default, and of which there are none."""
        present = {found["type"] for found in self.facts["by_type"]}
        return [name for name in self.facts["job_types"] if name not in present]


class Queues(Page):
    """/console/queues."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        found = (await self.api.get(req, "/queues"))["queues"]
        queues = sorted(map(QueueView, found), key=lambda queue: queue.urgency)
        filters = {name: req.get_param(name) or "" for name in ("q", "state")}
        shown = sliced(_matching(queues, **filters), req, PAGE_QUEUES)
        self.show(
            req,
            resp,
            "queues.html",
            title="Queues",
            live="/events",
            refresh=10,
            shown=shown,
            total=len(queues),
            chips=_chips(queues),
            filters=filters,
            states=STATES,
            job_filters=JOB_FILTERS,
            conditions=CONDITIONS,
        )


def _matching(queues: list[QueueView], q: str, state: str) -> list[QueueView]:
    """Return the queues whose names have the text, and that are in the state. Raises `InvalidRequest`."""
    if state and state not in CHIPS:
        raise InvalidRequest(f"expected one of {', '.join(CHIPS)}", pointer="state")
    wanted = CHIPS[state][1] if state else set(CONDITIONS)
    return [queue for queue in queues if q.casefold() in queue.name.casefold() and queue.condition in wanted]


def _chips(queues: Iterable[QueueView]) -> list[tuple[str, str, int]]:
    """Return (state, word, how many queues) of what there is."""
    counts = Counter(queue.condition for queue in queues)
    chips = [(state, word, sum(counts[name] for name in of)) for state, (word, of) in CHIPS.items()]
    return [chip for chip in chips if chip[2]]


class Queue(Page):
    """/console/queues/{name}."""

    @page()
    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        await self._show(req, resp, name, live="/events", refresh=5)

    @page()
    async def on_post(self, req: Request, resp: Response, name: str) -> None:
        form = await self.form(req)
        action = form.get("action")
        if action == "pause":
            await self._pause(req, resp, name, form.get("reason", "").strip())
        elif action == "resume":
            await self._resume(req, resp, name, form.get("since"))
        else:
            raise InvalidRequest("expected pause or resume", pointer="action")

    async def _pause(self, req: Request, resp: Response, name: str, reason: str) -> None:
        try:
            reply = await self.api.call(req, "POST", f"/queues/{name}/pause", body={"reason": reason})
        except CallRefused as error:
            await self._show_refusal(req, resp, name, error, reason)
            return
        # A queue that was paused before stays as it was.
        is_new = reply.json["paused"]["reason"] == reason
        self.done(req, resp, _path(name), "queue-paused" if is_new else "queue-already-paused")

    async def _resume(self, req: Request, resp: Response, name: str, since: str | None) -> None:
        try:
            await self.api.call(req, "POST", f"/queues/{name}/resume", query={"paused_since": since})
        except CallRefused as error:
            await self._show_refusal(req, resp, name, error)
            return
        self.done(req, resp, _path(name), "queue-resumed")

    async def _show_refusal(
        self, req: Request, resp: Response, name: str, error: CallRefused, reason: str = ""
    ) -> None:
        """Show what the API says about an action beside its form. A form that nobody could send is a page by itself."""
        if error.code not in ("invalid_request", "queue_not_found", "queue_pause_changed"):
            raise error
        resp.status = falcon.code_to_http_status(error.reply.status)
        await self._show(req, resp, name, wrong=_sentence(error), reason=reason)

    async def _show(
        self,
        req: Request,
        resp: Response,
        name: str,
        *,
        wrong: str = "",
        reason: str = "",
        live: str | None = None,
        refresh: int | None = None,
    ) -> None:
        queue = QueueView(await self.api.get(req, f"/queues/{name}"))
        known = {kind["name"] for kind in (await self.api.get(req, "/job-types"))["job_types"]}
        self.show(
            req,
            resp,
            "queue.html",
            title=queue.name,
            live=live,
            refresh=refresh,
            queue=queue,
            types=Slice.of(queue.facts["by_type"], PAGE_TYPES),
            known=known,
            wrong=wrong,
            reason=reason,
            states=STATES,
            job_filters=JOB_FILTERS,
            conditions=CONDITIONS,
        )


def _path(name: str) -> str:
    return f"/queues/{quote(name, safe='')}"


def _sentence(error: CallRefused) -> str:
    """Return what is wrong, without the name of the field: it stands beside it."""
    first = next(iter(error.problem.get("errors", ())), None)
    text: str = first["detail"] if first else error.problem["detail"]
    return f"{text[:1].upper()}{text[1:]}"
