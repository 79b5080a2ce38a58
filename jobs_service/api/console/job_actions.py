"""What the page of a job can have done to it: each form is a call of the API, and what that refuses is on the page."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from falcon.asgi import Request, Response

from jobs_service.api.callers import Scope
from jobs_service.api.console.calls import CallRefused
from jobs_service.api.console.job import JobPage, Refused
from jobs_service.api.console.pages import page

#: What the API refuses because of the job's state or because of what was typed. Anything else has a page of its own.
_OF_THE_FORM = frozenset({400, 409, 412, 422})

#: A date as a browser's field for dates has it, without a time zone.
_LOCAL_DATE = re.compile(r"(\d{4,6}-\d\d-\d\dT\d\d:\d\d)(:\d\d(?:\.\d+)?)?")


class JobAction(JobPage):
    """An action on a job: `POST` does it, and `GET` leads to the job."""

    @page()
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        self.to_job(req, resp, job_id)

    async def act(
        self, req: Request, resp: Response, job_id: str, name: str, call: Callable[[dict[str, str]], Awaitable[Any]]
    ) -> bool:
        """Do what `call` does with the form. False: it was refused, and the answer says so."""
        form = await self.form(req)
        try:
            await call(form)
        except CallRefused as refused:
            if refused.reply.status in _OF_THE_FORM:
                await self.show_job(req, resp, job_id, Refused(name, refused.problem, form))
            else:
                await self.show_unknown(req, resp, job_id, refused)
            return False
        return True


class JobCancel(JobAction):
    """/console/jobs/{job_id}/cancel."""

    @page()
    async def on_post(self, req: Request, resp: Response, job_id: str) -> None:
        async def cancel(form: dict[str, str]) -> None:
            body = {"reason": form["reason"]} if form.get("reason", "").strip() else None
            await self.api.call(req, "POST", f"/jobs/{job_id}/cancel", body=body)

        if await self.act(req, resp, job_id, "cancel", cancel):
            self.to_job(req, resp, job_id, "cancelled")


class JobRetry(JobAction):
    """/console/jobs/{job_id}/retry."""

    @page()
    async def on_post(self, req: Request, resp: Response, job_id: str) -> None:
        async def retry(form: dict[str, str]) -> None:  # noqa: ARG001 - the form has nothing but its button
            await self.api.call(req, "POST", f"/jobs/{job_id}/retry")

        if await self.act(req, resp, job_id, "retry", retry):
            self.to_job(req, resp, job_id, "retried")


class JobReschedule(JobAction):
    """/console/jobs/{job_id}/reschedule: another start or another priority, if the job still is what the form shows."""

    @page()
    async def on_post(self, req: Request, resp: Response, job_id: str) -> None:
        async def change(form: dict[str, str]) -> None:
            headers = {"if-match": form.get("etag", '""')}
            await self.api.call(req, "PATCH", f"/jobs/{job_id}", body=patch_of(form), headers=headers)

        if await self.act(req, resp, job_id, "reschedule", change):
            self.to_job(req, resp, job_id, "changed")


class JobDiscard(JobAction):
    """/console/jobs/{job_id}/discard: asks first."""

    @page(Scope.DEAD_LETTERS_WRITE)
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        if seen := await self.see(req, resp, job_id):
            self.show(req, resp, "job_discard.html", title="Discard a dead letter", seen=seen, job=seen.job)

    @page(Scope.DEAD_LETTERS_WRITE)
    async def on_post(self, req: Request, resp: Response, job_id: str) -> None:
        async def discard(form: dict[str, str]) -> None:  # noqa: ARG001 - as above
            await self.api.call(req, "DELETE", f"/dead-letters/{job_id}")

        if await self.act(req, resp, job_id, "discard", discard):
            self.done(req, resp, "/jobs?status=failed", "discarded")


def patch_of(form: dict[str, str]) -> dict[str, object]:
    """Return the changes that a form asks for. A start that is the one that was shown stays as it is, to the second."""
    patch: dict[str, object] = {}
    wanted = form.get("run_at", "")
    if "now" in form:
        # A date in the past means at once. PostgreSQL's clock decides, so it must be past there, too.
        patch["run_at"] = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    elif wanted and wanted != form.get("shown_run_at"):
        patch["run_at"] = _in_utc(wanted)
    if (priority := form.get("priority", "")) != form.get("shown_priority", ""):
        patch["priority"] = int(priority) if priority.isascii() and priority.isdigit() else priority
    return patch


def _in_utc(date: str) -> str:
    """Return what was typed as the API takes it: the form's dates are in UTC. It refuses what is no date."""
    found = _LOCAL_DATE.fullmatch(date)
    return f"{found[1]}{found[2] or ':00'}Z" if found else date
