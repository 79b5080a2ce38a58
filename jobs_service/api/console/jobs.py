"""/console/jobs: the list of jobs. Its filter is its URL."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

import falcon
import msgspec
from falcon.asgi import Request, Response

from jobs_service.api.callers import Scope
from jobs_service.api.console.calls import CallRefused
from jobs_service.api.console.curl import as_curl
from jobs_service.api.console.form_fields import pretty_json
from jobs_service.api.console.formats import between, duration, local_time, shortened, utc_time
from jobs_service.api.console.new_job import base_url, new_key
from jobs_service.api.console.pages import Page, page
from jobs_service.jobs.lifecycle import TERMINAL, Status

#: The parameters of the page that are those of the API's list.
FILTERS = ("status", "type", "queue", "tag", "q", "created_after", "created_before", "attempts_min")

#: What a filter is called in a sentence.
WORDS = {
    "status": "status",
    "type": "type",
    "queue": "queue",
    "tag": "tag",
    "q": "words",
    "created_after": "submitted after",
    "created_before": "submitted before",
    "attempts_min": "attempts from",
}

_TIMES = ("created_after", "created_before")

#: Events do not tell whether a job matches one of these.
_NOT_IN_EVENTS = ("tag", "q", "created_after", "created_before", "attempts_min")

#: Every how many seconds a list is fetched again, where events do not tell all that changes it.
REFRESH_SECONDS = 5

#: How far jobs are counted where they only say what a filter hides.
HIDDEN_JOBS = 100

#: The bytes of the page that a job's error and its tags may take: fifty of them are less than 60 KB.
ERROR_BYTES, TAG_BYTES, TAGS = 110, 24, 2

#: The type whose example is offered first, because it can be looked at: it writes a file.
FIRST_EXAMPLE = "csv-generation"


class _Job(msgspec.Struct):
    """What the list shows of a job. Its payload and its result are skipped where they stand."""

    job_id: str
    type: str
    status: str
    error: str | None
    attempts: int
    max_attempts: int
    tags: list[str]
    created_at: str
    started_at: str | None
    finished_at: str | None


class _Found(msgspec.Struct):
    """A page of the API's list."""

    jobs: list[_Job]
    next_cursor: str | None


class Row(NamedTuple):
    """A job as the template shows it."""

    job: _Job
    #: How long its last attempt took.
    took: str
    error: str
    tags: list[str]
    further_tags: int


class Hiding(NamedTuple):
    """A filter that may hide jobs: what it is, the page without it, and how many jobs that has."""

    words: str
    value: str
    href: str
    left: dict[str, Any]


class Action(NamedTuple):
    """Something that can be done with jobs of the list."""

    name: str
    words: str
    scope: Scope
    #: The statuses in which one job can be selected for it, and in which all jobs that match can be.
    of_one: frozenset[str]
    of_all: frozenset[str]


_UNFINISHED = frozenset(Status) - frozenset(TERMINAL)
_FAILED = frozenset({Status.FAILED})

ACTIONS = (
    Action("cancel", "Cancel", Scope.JOBS_WRITE, _UNFINISHED, _UNFINISHED),
    # Completed jobs by the thousand are not run again by mistake.
    Action("retry", "Run again", Scope.JOBS_WRITE, frozenset(TERMINAL), _FAILED),
    Action("discard", "Discard", Scope.DEAD_LETTERS_WRITE, _FAILED, _FAILED),
)

#: What a page without jobs has.
_NOTHING_FOUND: dict[str, object] = {
    "rows": [],
    "count": None,
    "next_page": None,
    "is_first": True,
    "hiding": [],
    "example": None,
}


class Jobs(Page):
    """/console/jobs."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        filters = {name: value for name in FILTERS if (value := _given(req, name))}
        if _has_blanks(req, filters):
            self._redirect(req, resp, filters)
            return
        known = await self.api.get(req, "/job-types")
        cursor = req.get_param("cursor") or None
        try:
            found = await self._found(req, filters, cursor)
        except CallRefused as error:
            if error.reply.status != falcon.http_status_to_code(falcon.HTTP_UNPROCESSABLE_ENTITY):
                raise
            resp.status = falcon.HTTP_UNPROCESSABLE_ENTITY
            self._show(req, resp, known, filters, wrong_with=error.problem)
            return
        self._show(req, resp, known, filters, **await self._around(req, known, filters, cursor, found))

    async def _found(self, req: Request, filters: Mapping[str, str], cursor: str | None) -> _Found:
        answer = await self.api.call(req, "GET", "/jobs", query={**filters, "cursor": cursor})
        return msgspec.json.decode(answer.content, type=_Found)

    async def _around(
        self, req: Request, known: Mapping[str, Any], filters: Mapping[str, str], cursor: str | None, found: _Found
    ) -> dict[str, Any]:
        """Return what the page has beside the filters: the rows and how many match, or why there are none."""
        if not found.jobs and not cursor and not found.next_cursor:
            return {
                "hiding": await self._hiding(req, filters),
                "example": _example(req, known, filters),
            }
        count = {"count": len(found.jobs), "is_capped": False}
        if cursor or found.next_cursor:
            count = await self.api.get(req, "/jobs/count", **filters)
        return {
            "rows": [_row(job) for job in found.jobs],
            "count": count,
            "next_page": found.next_cursor and _href({**filters, "cursor": found.next_cursor}),
            "is_first": not cursor,
        }

    async def _hiding(self, req: Request, filters: Mapping[str, str]) -> list[Hiding]:
        """Return each filter, with the jobs that there are without it, where there are any."""
        others = [{other: filters[other] for other in filters if other != name} for name in filters]
        counts = await asyncio.gather(*(self.api.get(req, "/jobs/count", **rest, limit=HIDDEN_JOBS) for rest in others))
        return [
            Hiding(WORDS[name], shortened(filters[name], TAG_BYTES * 2), _href(rest), count)
            for name, rest, count in zip(filters, others, counts, strict=True)
            if count["count"] or count["is_capped"]
        ]

    def _redirect(self, req: Request, resp: Response, filters: Mapping[str, str]) -> None:
        """Send the browser to the same list, without blank fields and with times in UTC: links and actions use them."""
        more = {name: value for name in ("cursor", "notice", "n") if (value := req.get_param(name))}
        self.done(req, resp, _href({**filters, **more}))

    def _show(
        self,
        req: Request,
        resp: Response,
        known: Mapping[str, Any],
        filters: Mapping[str, str],
        *,
        wrong_with: Mapping[str, Any] | None = None,
        **found: object,
    ) -> None:
        self.show(
            req,
            resp,
            "jobs.html",
            title="Jobs",
            filters={name: filters.get(name, "") for name in FILTERS},
            times={name: local_time(filters.get(name, "")) for name in _TIMES},
            errors={error["pointer"]: error["detail"] for error in (wrong_with or {}).get("errors", [])},
            chips=[(status, _href({**filters, "status": status})) for status in ("", *Status)],
            types=_with([known_type["name"] for known_type in known["job_types"]], filters.get("type")),
            queues=_with(sorted({known_type["queue"] for known_type in known["job_types"]}), filters.get("queue")),
            of_selected=[action for action in ACTIONS if _is_offered(action, action.of_one, req, filters)],
            of_all=[action for action in ACTIONS if _is_offered(action, action.of_all, req, filters)],
            matching=urlencode(filters) or "all=true",
            first_page=_href(filters),
            wrong_with=wrong_with,
            **({} if wrong_with else _live(filters)),
            **(_NOTHING_FOUND | found),
        )


def _given(req: Request, name: str) -> str:
    text = (req.get_param(name) or "").strip()
    return utc_time(text) if name in _TIMES else text


def _has_blanks(req: Request, filters: Mapping[str, str]) -> bool:
    """Tell whether the URL has filters that are not as `filters` has them."""
    return any((req.get_param(name) or "") != filters.get(name, "") or name not in filters for name in _sent(req))


def _sent(req: Request) -> Iterable[str]:
    return [name for name in FILTERS if req.has_param(name)]


def _href(query: Mapping[str, str]) -> str:
    """Return the path below the console's of a list."""
    text = urlencode({name: value for name, value in query.items() if value})
    return f"/jobs?{text}" if text else "/jobs"


def _with(names: list[str], given: str | None) -> list[str]:
    """Return the names, and the given one if it is none of them."""
    return names if not given or given in names else [*names, given]


def _is_offered(action: Action, statuses: frozenset[str], req: Request, filters: Mapping[str, str]) -> bool:
    """Tell whether the caller may do this, and jobs of the list may be in one of its statuses."""
    status = filters.get("status")
    return action.scope in req.context.caller.scopes and (status is None or status in statuses)


def _live(filters: Mapping[str, str]) -> dict[str, Any]:
    """Return by which events, and how often, a list is fetched again.

    An event about a job that is not on the page is counted as a new one, so there are only those of the list's jobs.
    """
    if any(name in filters for name in _NOT_IN_EVENTS):
        return {"refresh": REFRESH_SECONDS}
    # Jobs that leave the status have events with another one.
    is_of_status = filters.get("status", Status.PENDING) != Status.PENDING
    names = ("type", "queue", "status") if is_of_status else ("type", "queue")
    query = urlencode({name: filters[name] for name in names if name in filters})
    events = f"/events?{query}" if query else "/events"
    return {"live": events, "refresh": REFRESH_SECONDS} if is_of_status else {"live": events}


def _row(job: _Job) -> Row:
    first_line = (job.error or "").strip().partition("\n")[0]
    return Row(
        job=job,
        took=duration(_seconds(job)),
        error=shortened(first_line, ERROR_BYTES),
        tags=[shortened(tag, TAG_BYTES) for tag in job.tags[:TAGS]],
        further_tags=max(0, len(job.tags) - TAGS),
    )


def _seconds(job: _Job) -> float | None:
    """Return how long the last attempt took, or has taken; None while the job waits for one."""
    if job.status == Status.PENDING or (job.status in TERMINAL and job.finished_at is None):
        return None
    seconds = between(job.started_at, job.finished_at if job.status in TERMINAL else None)
    # The clock here may be behind PostgreSQL's.
    return None if seconds is None else max(0.0, seconds)


def _example(req: Request, known: Mapping[str, Any], filters: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the example of a job type, as a form and as a command."""
    types = [known_type for known_type in known["job_types"] if known_type["example"] is not None]
    wanted = filters.get("type") or FIRST_EXAMPLE
    types.sort(key=lambda known_type: known_type["name"] != wanted)
    if not types:
        return None
    chosen = types[0]
    payload = msgspec.json.encode(chosen["example"])
    body = {"type": chosen["name"], "payload": msgspec.Raw(payload)}
    has_key = req.context.caller.name != "anonymous"
    return {
        "type": chosen["name"],
        "payload": pretty_json(payload),
        "key": new_key(),
        "command": as_curl("POST", f"{base_url(req)}/jobs", body, has_key=has_key),
    }
