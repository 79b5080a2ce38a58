"""/console/redrives: failed jobs that are run again, many at a time: what it would be, how far it is, and past ones."""

from collections.abc import Mapping
from typing import Any

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.console.calls import CallRefused
from jobs_service.api.console.formats import short_id
from jobs_service.api.console.pages import Page, page
from jobs_service.jobs.lifecycle import EndReason

#: The conditions of a redrive that a form or a link may have.
FILTERS = (
    "group",
    "type",
    "queue",
    "end_reason",
    "created_after",
    "created_before",
    "finished_after",
    "finished_before",
)

TIMES = FILTERS[-4:]
_NO_TIME = "Write a time such as 2026-11-26T09:30:00Z."

#: A redrive takes about a minute unless that would be less, or more, than so many jobs a second.
SLOWEST, FASTEST, ABOUT_SECONDS = 5.0, 100.0, 60

#: How many redrives are shown on a page.
SHOWN = 50

#: Every how many seconds a page is fetched again while jobs are moved, and while those that were moved run.
WHILE_MOVING, WHILE_RUNNING = 1, 3


class Redrives(Page):
    """/console/redrives."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        found = await self.api.get(req, "/dead-letters/redrives", limit=SHOWN, cursor=req.get_param("cursor"))
        is_any_running = any(redrive["state"] == "running" for redrive in found["redrives"])
        self.show(
            req,
            resp,
            "redrives.html",
            title="Redrives",
            refresh=WHILE_RUNNING if is_any_running else 30,
            redrives=found["redrives"],
            next_cursor=found["next_cursor"],
            cursor=req.get_param("cursor"),
        )


class NewRedrive(Page):
    """/console/redrives/new: which jobs it would run again. The form begins it."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        await self._show(req, resp, {name: req.get_param(name) or "" for name in (*FILTERS, "all", "rate")})

    @page()
    async def on_post(self, req: Request, resp: Response) -> None:
        form = await self.form(req)
        try:
            begun = await self.api.call(req, "POST", "/dead-letters/redrives", body=_body(form, _rate(form["rate"])))
        except (CallRefused, ValueError, KeyError) as error:
            if isinstance(error, CallRefused) and error.problem["status"] != 422:  # noqa: PLR2004 - it names a field
                raise
            resp.status = falcon.HTTP_UNPROCESSABLE_ENTITY
            await self._show(req, resp, form, is_refused=True)
            return
        self.done(req, resp, f"/redrives/{begun.json['id']}", "redrive-begun")

    async def _show(self, req: Request, resp: Response, form: Mapping[str, str], *, is_refused: bool = False) -> None:
        """Answer with the page: fields to choose the jobs by, and which jobs the fields choose, if any is filled in."""
        chosen = _filter(form)
        preview, group, wrong = None, None, {}
        if chosen or form.get("all"):
            try:
                preview = (await self.api.call(req, "POST", "/dead-letters/redrives", body=_dry(form))).json
            except CallRefused as refused:
                wrong = _wrong(refused)
        if "group" in chosen and preview:
            group = await self._group(req, chosen["group"])
        rate, wrong_rate = _shown_rate(form.get("rate", ""), preview)
        if wrong or (is_refused and not preview):
            resp.status = falcon.HTTP_UNPROCESSABLE_ENTITY
        self.show(
            req,
            resp,
            "redrive_new.html",
            title="Run failed jobs again",
            form={name: form.get(name, "") for name in (*FILTERS, "all")},
            chosen=chosen,
            group=group,
            preview=preview,
            wrong={**wrong, **({"rate": wrong_rate} if wrong_rate else {})},
            rate=rate,
            end_reasons=[reason for reason in EndReason if reason is not EndReason.CANCELLED_BY_OPERATOR],
        )

    async def _group(self, req: Request, group_id: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self.api.get(req, f"/dead-letters/groups/{group_id}")
        except CallRefused as refused:
            if refused.code != "error_group_not_found":
                raise
            return None
        return found


class Redrive(Page):
    """/console/redrives/{redrive_id}."""

    @page()
    async def on_get(self, req: Request, resp: Response, redrive_id: str) -> None:
        redrive = await self.api.get(req, f"/dead-letters/redrives/{redrive_id}")
        outcomes = await self.api.get(req, f"/dead-letters/redrives/{redrive_id}/outcomes")
        is_moving = redrive["state"] == "running"
        to_run = outcomes["pending"] + outcomes["processing"]
        self.show(
            req,
            resp,
            "redrive.html",
            title="Redrive",
            live="/events" if is_moving or to_run else None,
            refresh=WHILE_MOVING if is_moving else WHILE_RUNNING if to_run else None,
            redrive={"reason": None, **redrive},
            outcomes=outcomes,
            to_run=to_run,
            group=redrive["filter"].get("group"),
            chosen=[
                (name.replace("_", " "), short_id(value) if name == "group" else value)
                for name, value in redrive["filter"].items()
            ],
        )


class RedriveStop(Page):
    """/console/redrives/{redrive_id}/stop."""

    @page()
    async def on_post(self, req: Request, resp: Response, redrive_id: str) -> None:
        try:
            await self.api.call(req, "POST", f"/dead-letters/redrives/{redrive_id}/cancel")
        except CallRefused as refused:
            if refused.code != "redrive_finished":
                raise
            self.done(req, resp, f"/redrives/{redrive_id}", "redrive-finished")
            return
        self.done(req, resp, f"/redrives/{redrive_id}", "redrive-stopped")


def _filter(form: Mapping[str, str]) -> dict[str, str]:
    return {name: form[name].strip() for name in FILTERS if form.get(name, "").strip()}


def _body(form: Mapping[str, str], rate: float) -> dict[str, Any]:
    return _dry(form) | {"dry_run": False, "rate_per_second": rate}


def _dry(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the body of a request that asks which jobs a redrive would move."""
    # Both together, or none of them, is refused: nobody is to run more jobs again than were meant.
    chosen = _filter(form)
    body: dict[str, Any] = {"dry_run": True}
    if form.get("all"):
        body["all"] = True
    return body | {"filter": chosen} if chosen or not form.get("all") else body


def _rate(text: str) -> float:
    """Return how many jobs a second were asked for. Raises `ValueError`."""
    rate = float(text)
    if not 0.1 <= rate <= 10_000:  # noqa: PLR2004 - as in the API
        raise ValueError(text)
    return rate


def _shown_rate(text: str, preview: Mapping[str, Any] | None) -> tuple[float | None, str]:
    """Return the rate for the field, None for no number, and what is wrong with it."""
    if not text:
        return default_rate(preview["count"] if preview else 0), ""
    try:
        return _rate(text), ""
    except ValueError:
        return None, "Write a number from 0.1 to 10000."


def default_rate(count: int) -> float:
    """Return the rate at which so many jobs take about a minute, within limits that spare what the jobs need."""
    return float(round(min(max(count / ABOUT_SECONDS, SLOWEST), FASTEST)))


def _wrong(refused: CallRefused) -> dict[str, str]:
    """Return what is wrong with each field of the form. Raises a refusal again that is not about fields."""
    errors = refused.problem.get("errors")
    if not errors:
        raise refused
    wrong = {error["pointer"].rpartition("/")[2]: error["detail"] for error in errors}
    return {name: _NO_TIME if name in TIMES else detail for name, detail in wrong.items()}
