"""/console/types and /console/types/{name}: what can be submitted, and how it goes with it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from falcon.asgi import Request, Response

from jobs_service.api.console.listing import sliced
from jobs_service.api.console.pages import Page, page
from jobs_service.api.console.queues import JOB_FILTERS, STATES, bar
from jobs_service.api.console.schema_rows import rows

#: Rows of a page: with so many it stays under 60 KB.
PAGE_TYPES = 40

#: Characters of a schema's or an example's JSON that are shown.
MAX_JSON = 12_000

#: The figures of a type of which there are no jobs.
NO_FIGURES: Mapping[str, Any] = {
    "depth": {**dict.fromkeys(STATES, 0), "is_capped": False},
    "oldest_waiting_seconds": None,
    "submitted_per_minute": 0.0,
    "completed_per_minute": 0.0,
    "failed_per_minute": 0.0,
    "latency_seconds": {"p50": None, "p95": None, "p99": None},
    "run_seconds": {"p50": None, "p95": None, "p99": None},
}


class TypeView:
    """A job type as the API describes it, with its figures."""

    def __init__(self, kind: Mapping[str, Any], figures: Mapping[str, Any] | None) -> None:
        self.facts = kind
        self.name: str = kind["name"]
        self.figures = figures or NO_FIGURES
        self.depth = self.figures["depth"]
        self.bar = bar(self.depth)
        self.ended_per_minute: float = self.figures["completed_per_minute"] + self.figures["failed_per_minute"]

    @property
    def paragraphs(self) -> list[str]:
        """Those of its description."""
        return [part for part in re.split(r"\n\s*\n", self.facts["description"]) if part.strip()]

    @property
    def waiting(self) -> int:
        return sum(self.depth[state] for state in ("due", "scheduled", "retrying", "deferred"))


class JobTypes(Page):
    """/console/types."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        kinds = (await self.api.get(req, "/job-types"))["job_types"]
        figures = await _figures(self, req)
        q = req.get_param("q") or ""
        types = [TypeView(kind, figures.get(kind["name"])) for kind in kinds if q.casefold() in kind["name"].casefold()]
        self.show(
            req,
            resp,
            "types.html",
            title="Job types",
            live="/events",
            refresh=10,
            shown=sliced(types, req, PAGE_TYPES),
            total=len(kinds),
            q=q,
            unknown=_unknown(figures.values(), {kind["name"] for kind in kinds}),
        )


class JobType(Page):
    """/console/types/{name}."""

    @page()
    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        facts = await self.api.get(req, f"/job-types/{name}")
        kind = TypeView(facts, (await _figures(self, req)).get(facts["name"]))
        self.show(
            req,
            resp,
            "type.html",
            title=kind.name,
            live="/events",
            refresh=10,
            kind=kind,
            rows=rows(facts["payload_schema"]),
            states=STATES,
            job_filters=JOB_FILTERS,
            most=MAX_JSON,
        )


async def _figures(view: Page, req: Request) -> dict[str, Mapping[str, Any]]:
    """Return the figures of each type of which there are jobs."""
    return {found["type"]: found for found in (await view.api.get(req, "/stats"))["by_type"]}


def _unknown(figures: Iterable[Mapping[str, Any]], known: set[str]) -> list[Mapping[str, Any]]:
    """Return the figures of types that this version does not know, and that are no canaries."""
    others = (found for found in figures if found["type"] not in known and not found["type"].startswith("canary-"))
    return [found for found in others if any(found["depth"].values())]
