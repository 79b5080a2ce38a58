"""/console/jobs/actions and /console/actions: what is done to many jobs, first as a preview, then with its progress.

Selected jobs are changed one by one, by the API's calls for one job. All that match a filter are left to an action of
the API, which maintenance carries out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.callers import Scope
from jobs_service.api.console.calls import CallRefused
from jobs_service.api.console.pages import Page, page
from jobs_service.api.resources.bulk_actions import DEFAULT_RATE
from jobs_service.errors import InvalidRequest
from jobs_service.jobs import bulk_actions, unfinished

#: How many jobs can be selected, and how many of them the preview shows.
MOST_SELECTED, SHOWN = 200, 20

#: The codes of the API for a job that is not any more what the action is about.
_SKIPPED = ("wrong_status", "job_not_found", "dead_letter_not_found")

#: What one calls a filter of the list, where that is not its name in the API's actions.
_RENAMED = {"error_group": "group"}
#: Parameters of the list that are no filters. `all` says that there is none.
_PLACE = ("all", "cursor", "limit", "notice", "n", "skipped")


@dataclass(frozen=True)
class Action:
    """What can be done to many jobs."""

    name: str
    #: The path of the API's action on many, and that of the console's pages about its progress.
    path: str
    progress: str
    #: The verb on buttons, and what is said of a job that it was done to.
    verb: str
    done: str
    #: What happens, in one sentence.
    sentence: str
    #: The scopes for one job, and for all that match.
    one: Scope
    many: Scope
    #: The statuses of the jobs that it is about, where they are selected, and where all that match are.
    of_selected: Sequence[str]
    of_matching: Sequence[str]
    #: The filters that it has for all that match, and how many jobs an action may have.
    filters: Sequence[str]
    most: int

    def call_for(self, job_id: str, reason: str) -> tuple[str, str, object]:
        """Return the method, the path and the body of the API's call for one job."""
        if self.name == "discard":
            return "DELETE", f"/dead-letters/{job_id}", None
        body = {"reason": reason} if self.name == "cancel" and reason else None
        return "POST", f"/jobs/{job_id}/{self.name}", body


_OF_DEAD_LETTERS = (
    "type",
    "queue",
    "tag",
    "end_reason",
    "group",
    "created_after",
    "created_before",
    "finished_after",
    "finished_before",
)

ACTIONS = {
    action.name: action
    for action in (
        Action(
            name="cancel",
            path="/cancellations",
            progress="/actions/cancellations",
            verb="Cancel",
            done="Cancelled",
            sentence="Jobs that wait will not run. Running ones are interrupted; what they have done stays done.",
            one=Scope.JOBS_WRITE,
            many=Scope.JOBS_WRITE,
            of_selected=("pending", "processing"),
            of_matching=("pending", "processing"),
            filters=("status", "type", "queue", "tag", "created_after", "created_before", "attempts_min"),
            most=unfinished.MOST_MEMBERS,
        ),
        Action(
            name="retry",
            path="/dead-letters/redrives",
            progress="/redrives",
            verb="Run again",
            done="Pending again",
            sentence="The jobs become pending, with all their attempts. Their ids and their history stay.",
            one=Scope.JOBS_WRITE,
            many=Scope.DEAD_LETTERS_WRITE,
            of_selected=("failed", "completed", "cancelled"),
            of_matching=("failed",),
            filters=_OF_DEAD_LETTERS,
            most=bulk_actions.MOST_MEMBERS,
        ),
        Action(
            name="discard",
            path="/dead-letters/discards",
            progress="/actions/discards",
            verb="Discard",
            done="Discarded",
            sentence="The jobs are deleted for good, with their history and their files. This cannot be undone.",
            one=Scope.DEAD_LETTERS_WRITE,
            many=Scope.DEAD_LETTERS_WRITE,
            of_selected=("failed",),
            of_matching=("failed",),
            filters=_OF_DEAD_LETTERS,
            most=bulk_actions.MOST_MEMBERS,
        ),
    )
}
#: Those whose progress is shown here. A redrive's page also says what became of its jobs.
_BY_KIND = {"cancellations": ACTIONS["cancel"], "discards": ACTIONS["discard"]}


@dataclass(frozen=True)
class Wish:
    """What a form asks for."""

    action: Action
    #: The selected jobs; empty: all that match.
    job_ids: Sequence[str]
    #: The filter of the list, by the names that the API's actions have for it.
    filter: Mapping[str, str]
    reason: str = ""
    rate: str = f"{DEFAULT_RATE:.0f}"
    #: Field -> what the API says is wrong with it.
    wrong: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Sequence[tuple[str, str]]) -> "Wish":
        """Return the wish of a form: of the list, or of the preview, which has the ids in one field.

        Raises `InvalidRequest`.
        """
        form = dict(fields)
        action = ACTIONS.get(form.get("action", ""))
        if action is None:
            raise InvalidRequest(f"expected one of {', '.join(ACTIONS)}", pointer="action")
        chosen = [value for name, value in fields if name == "job_id"] or form.get("job_ids", "").split(",")
        job_ids = [job_id for job_id in dict.fromkeys(chosen) if job_id]
        if not job_ids and "matching" not in form:
            raise InvalidRequest("select at least one job", pointer="job_id")
        if len(job_ids) > MOST_SELECTED:
            raise InvalidRequest(f"select at most {MOST_SELECTED} jobs, or all that match a filter", pointer="job_id")
        return cls(
            action=action,
            job_ids=[_checked_id(job_id) for job_id in job_ids],
            filter=_filter_of(form.get("matching", "")),
            reason=form.get("reason", "").strip(),
            rate=form.get("rate", cls.rate).strip(),
        )

    @property
    def back(self) -> str:
        """The path of the list that it came from."""
        if "group" in self.filter:
            return f"/failures/{quote(self.filter['group'], safe='')}"
        return f"/jobs?{self.back_query}" if self.filter else "/jobs"

    @property
    def back_query(self) -> str:
        """The query string of that list."""
        names = {new: old for old, new in _RENAMED.items()}
        return urlencode({names.get(name, name): value for name, value in self.filter.items()})

    @property
    def obstacle(self) -> str:
        """Why the action cannot be about all jobs of the list; "" if it can."""
        if self.job_ids:
            return ""
        status = self.filter.get("status")
        if status and status not in self.action.of_matching:
            about = " and ".join(self.action.of_matching)
            return f"The list has {status} jobs, and this is about {about} ones only."
        if "q" in self.filter:
            return "The list is a search for words, and a search has no end that could be counted. Select jobs instead."
        unknown = [name for name in self.filter if name not in (*self.action.filters, "status")]
        return f"This cannot be limited by {', '.join(unknown)}. Select jobs instead." if unknown else ""

    @property
    def chosen(self) -> dict[str, object]:
        """What the body of the API's action says of which jobs are meant."""
        chosen: dict[str, object] = {name: self.filter[name] for name in self.action.filters if name in self.filter}
        if str(chosen.get("attempts_min", "")).isdecimal():
            chosen["attempts_min"] = int(str(chosen["attempts_min"]))
        return {"filter": chosen} if chosen else {"all": True}


def _checked_id(job_id: str) -> str:
    try:
        return str(UUID(job_id))
    except ValueError:
        raise InvalidRequest("expected the ids of jobs", pointer="job_id") from None


def _filter_of(query: str) -> dict[str, str]:
    """Return the filters in the query string of a list, without those that are empty."""
    found = {_RENAMED.get(name, name): value.strip() for name, value in parse_qsl(query.removeprefix("?"))}
    return {name: _zoned(name, value) for name, value in found.items() if value and name not in _PLACE}


def _zoned(name: str, value: str) -> str:
    """Return a date with its time zone: those of the list's form are UTC."""
    if not name.endswith(("_after", "_before")):
        return value
    try:
        date = datetime.fromisoformat(value)
    except ValueError:
        return value
    return value if date.tzinfo else date.replace(tzinfo=UTC).isoformat()


@dataclass(frozen=True)
class Preview:
    """The jobs that an action would be about now."""

    count: int
    is_capped: bool
    #: The first of them, as the API shows jobs or dead letters.
    sample: Sequence[Mapping[str, Any]]
    #: Status, or "deleted" -> how many of the selected jobs are left out for it.
    left_out: Mapping[str, int]


class _Previews(Page):
    """Shows a preview."""

    async def preview(self, req: Request, resp: Response, wish: Wish) -> None:
        """Show what an action would do. Raises `CallRefused`."""
        found = await self._selected(req, wish) if wish.job_ids else await self._matching(req, wish)
        if wish.wrong:
            resp.status = falcon.HTTP_UNPROCESSABLE_ENTITY
        title = _title(wish, found)
        self.show(req, resp, "bulk_preview.html", title=title, wish=wish, found=found, scope=_scope(wish))

    async def _matching(self, req: Request, wish: Wish) -> Preview:
        if wish.obstacle:
            return Preview(0, is_capped=False, sample=(), left_out={})
        body = {**wish.chosen, "dry_run": True}
        found = (await self.api.call(req, "POST", wish.action.path, body=body)).json
        return Preview(found["count"], found["is_capped"], found["sample"], {})

    async def _selected(self, req: Request, wish: Wish) -> Preview:
        jobs, left_out = [], dict[str, int]()
        for job_id in wish.job_ids:
            job = await self._job(req, job_id)
            status = job["status"] if job else "deleted"
            if job and status in wish.action.of_selected:
                jobs.append(job)
            else:
                left_out[status] = left_out.get(status, 0) + 1
        return Preview(len(jobs), is_capped=False, sample=jobs[:SHOWN], left_out=left_out)

    async def _job(self, req: Request, job_id: str) -> Mapping[str, Any] | None:
        try:
            job: Mapping[str, Any] = await self.api.get(req, f"/jobs/{job_id}")
        except CallRefused as refused:
            if refused.code == "job_not_found":
                return None
            raise
        return job


def _title(wish: Wish, found: Preview) -> str:
    if not found.count and not found.is_capped:
        return "Nothing to do"
    count = f"{found.count:,}{'+' if found.is_capped else ''} {'job' if found.count == 1 else 'jobs'}"
    return f"Run {count} again" if wish.action.name == "retry" else f"{wish.action.verb} {count}"


def _scope(wish: Wish) -> Scope:
    return wish.action.one if wish.job_ids else wish.action.many


class JobActions(_Previews):
    """/console/jobs/actions: a preview of what the list's form asks for."""

    @page()
    async def on_post(self, req: Request, resp: Response) -> None:
        await self.preview(req, resp, Wish.of(await self.fields(req, with_empty=True)))


class JobActionsConfirmed(_Previews):
    """/console/jobs/actions/confirm: does what the preview has shown."""

    @page()
    async def on_post(self, req: Request, resp: Response) -> None:
        wish = Wish.of(await self.fields(req, with_empty=True))
        if wish.job_ids:
            await self._change_selected(req, resp, wish)
        elif wish.obstacle:
            await self.preview(req, resp, wish)
        else:
            await self._begin(req, resp, wish)

    async def _begin(self, req: Request, resp: Response, wish: Wish) -> None:
        """Begin an action of the API, and go to its progress."""
        reason = {"reason": wish.reason} if wish.action.name == "cancel" and wish.reason else {}
        body = {**wish.chosen, **reason, "rate_per_second": _number(wish.rate)}
        try:
            begun = (await self.api.call(req, "POST", wish.action.path, body=body)).json
        except CallRefused as refused:
            if not (wrong := _wrong(refused)):
                raise
            await self.preview(req, resp, _corrected(wish, wrong))
            return
        self.done(req, resp, f"{wish.action.progress}/{begun['id']}")

    async def _change_selected(self, req: Request, resp: Response, wish: Wish) -> None:
        """Change one job after the other. If a call fails, say how far it came."""
        done = skipped = 0
        for job_id in wish.job_ids:
            method, path, body = wish.action.call_for(job_id, wish.reason)
            try:
                await self.api.call(req, method, path, body=body)
                done += 1
            except CallRefused as refused:
                if refused.code in _SKIPPED:
                    skipped += 1
                elif done + skipped:
                    self._show_interrupted(req, resp, wish, refused, (done, skipped))
                    return
                elif wrong := _wrong(refused):
                    await self.preview(req, resp, _corrected(wish, wrong))
                    return
                else:
                    raise
        self.done(req, resp, wish.back, f"many-{wish.action.name}", done, skipped=skipped)

    def _show_interrupted(
        self, req: Request, resp: Response, wish: Wish, refused: CallRefused, counts: tuple[int, int]
    ) -> None:
        done, skipped = counts
        left = len(wish.job_ids) - done - skipped
        resp.status = falcon.code_to_http_status(refused.reply.status)
        self.show(
            req,
            resp,
            "bulk_interrupted.html",
            title="Not all jobs were changed",
            wish=wish,
            problem=refused.problem,
            done=done,
            skipped=skipped,
            left=left,
        )


def _number(text: str) -> float | str:
    """Return a number, or what the API is to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


#: The fields of the preview's form, by the API's pointers.
_FIELDS = {"/rate_per_second": "rate", "/reason": "reason"}


def _wrong(refused: CallRefused) -> dict[str, str]:
    """Return what is wrong with the fields of the form; empty: it is something else."""
    errors = refused.problem.get("errors", [])
    return {_FIELDS[error["pointer"]]: error["detail"] for error in errors if error["pointer"] in _FIELDS}


def _corrected(wish: Wish, wrong: Mapping[str, str]) -> Wish:
    return Wish(wish.action, wish.job_ids, wish.filter, wish.reason, wish.rate, wrong)


class ActionProgress(Page):
    """/console/actions/{kind}/{action_id}: how far an action is."""

    @page()
    async def on_get(self, req: Request, resp: Response, kind: str, action_id: str) -> None:
        action = _of_kind(kind)
        found = await self.api.get(req, f"{action.path}/{action_id}")
        job_type = found["filter"].get("type")
        self.show(
            req,
            resp,
            "bulk_progress.html",
            title=_TITLES[kind],
            action=action,
            found=found,
            stop=f"/actions/{kind}/{action_id}/stop",
            jobs=_list_of(action, found["filter"]),
            live=f"/events?{urlencode({'type': job_type})}" if job_type else "/events",
            refresh=2 if found["state"] == "running" else None,
        )


_TITLES = {"cancellations": "Cancellation", "discards": "Discard"}


def _list_of(action: Action, chosen: Mapping[str, object]) -> str:
    """Return the path of the list of the jobs that an action is about."""
    if "group" in chosen:
        return f"/failures/{chosen['group']}"
    status = "cancelled" if action.name == "cancel" else "failed"
    names = ("type", "queue", "tag", "created_after", "created_before", "attempts_min")
    filters = {"status": status} | {name: chosen.get(name) for name in names}
    query = urlencode({name: value for name, value in filters.items() if value is not None})
    return f"/jobs?{query}" if query else "/jobs"


class ActionStop(Page):
    """/console/actions/{kind}/{action_id}/stop."""

    @page()
    async def on_post(self, req: Request, resp: Response, kind: str, action_id: str) -> None:
        action = _of_kind(kind)
        try:
            await self.api.call(req, "POST", f"{action.path}/{action_id}/cancel")
        except CallRefused as refused:
            # It has ended by itself meanwhile, as its page shows.
            if not refused.code.endswith("_finished"):
                raise
        self.done(req, resp, f"/actions/{kind}/{action_id}")


def _of_kind(kind: str) -> Action:
    if kind not in _BY_KIND:
        raise falcon.HTTPNotFound(description=f"There are no {kind[:64]}: expected one of {', '.join(_BY_KIND)}.")
    return _BY_KIND[kind]
