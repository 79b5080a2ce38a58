"""/console/failures: failed jobs in groups of equal errors; one group, and what is decided about it."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.console.calls import CallRefused
from jobs_service.api.console.formats import parsed
from jobs_service.api.console.pages import Page, page
from jobs_service.jobs.dead_letters import GroupState

#: How many hours the picture of a group shows.
HOURS = 12

#: How many groups a page of the API has, how many of them a page of the console shows, and how far each is counted.
#: They are shown in the order in which they were last seen, so the first of a few hundred are the last to fail.
LOOK, SHOWN, COUNT_TO = 200, 40, 1_000

#: For so many seconds after it was first seen a group is new.
NEW_SECONDS = 86_400

#: How many jobs of a group are shown on a page.
JOBS = 20

#: Decision about a group -> the notice after it.
DECISIONS = {"resolve": "group-resolved", "ignore": "group-ignored", "reopen": "group-reopened"}


class Failures(Page):
    """/console/failures."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        state, start = _state(req), req.get_param_as_int("start", min_value=0, default=0)
        filters = {"type": req.get_param("type"), "cursor": req.get_param("cursor")}
        found = await self.api.get(req, "/dead-letters/groups", **filters, limit=LOOK, count_to=COUNT_TO, hours=HOURS)
        groups = [group for group in found["groups"] if state in ("all", group["state"])]
        self.show(
            req,
            resp,
            "failures.html",
            title="Failures",
            live="/events?status=failed",
            refresh=30,
            state=state,
            filters=filters,
            counts=Counter(group["state"] for group in found["groups"]),
            groups=[group | {"is_new": is_new(group)} for group in groups[start : start + SHOWN]],
            start=start,
            following=start + SHOWN if len(groups) > start + SHOWN else None,
            next_cursor=found["next_cursor"],
            count_to=COUNT_TO,
            hours=HOURS,
        )


def _state(req: Request) -> str:
    wanted = req.get_param("state") or GroupState.OPEN
    return wanted if wanted in ("all", *GroupState) else GroupState.OPEN


def is_new(group: dict[str, Any]) -> bool:
    """Tell whether a group was first seen a short time ago, and nobody has decided anything."""
    age = (datetime.now(UTC) - parsed(group["first_seen"])).total_seconds()
    return age < NEW_SECONDS and group["decision"] is None


class _GroupPage(Page):
    """Shows a group."""

    async def show_group(
        self, req: Request, resp: Response, group_id: str, *, wrong: str = "", reason: str = ""
    ) -> None:
        """Answer with the page of a group. `wrong` is what is wrong with a decision, whose reason was `reason`."""
        try:
            group = await self.api.get(req, f"/dead-letters/groups/{group_id}", hours=HOURS)
        except CallRefused as refused:
            if refused.code != "error_group_not_found":
                raise
            resp.status = falcon.HTTP_NOT_FOUND
            self.show(req, resp, "failure_gone.html", title="No failed job", refresh=30)
            return
        jobs = await self.api.get(req, "/dead-letters", group=group["id"], limit=JOBS, cursor=req.get_param("cursor"))
        self.show(
            req,
            resp,
            "failure.html",
            title=f"{group['error_class'][:80]} in {group['type']}",
            # The answer to a form is not at the address of the page.
            live=None if wrong else "/events?status=failed",
            refresh=None if wrong else 10,
            group=group | {"is_new": is_new(group)},
            sample=await self._sample(req, group),
            jobs=jobs,
            cursor=req.get_param("cursor"),
            wrong=wrong,
            reason=reason,
        )

    async def _sample(self, req: Request, group: dict[str, Any]) -> dict[str, Any] | None:
        """Return the last job of a group, with the last attempt as `attempt`; None: it was deleted just now."""
        try:
            job: dict[str, Any] = await self.api.get(req, f"/jobs/{group['sample_job_id']}")
        except CallRefused as refused:
            if refused.code != "job_not_found":
                raise
            return None
        return {**job, "attempt": job["history"][-1] if job["history"] else {}}


class Failure(_GroupPage):
    """/console/failures/{group_id}."""

    @page()
    async def on_get(self, req: Request, resp: Response, group_id: str) -> None:
        await self.show_group(req, resp, group_id)


class FailureDecision(_GroupPage):
    """/console/failures/{group_id}/{decision}."""

    @page()
    async def on_get(self, req: Request, resp: Response, group_id: str, decision: str) -> None:  # noqa: ARG002
        # Where a browser is after a refused form, and where signing in leads back to.
        self.done(req, resp, f"/failures/{group_id}")

    @page()
    async def on_post(self, req: Request, resp: Response, group_id: str, decision: str) -> None:
        if decision not in DECISIONS:
            raise falcon.HTTPNotFound(description="Nothing like this can be decided about a group.")
        reason = (await self.form(req)).get("reason", "")
        body = None if decision == "reopen" else {"reason": reason}
        try:
            await self.api.call(req, "POST", f"/dead-letters/groups/{group_id}/{decision}", body=body)
        except CallRefused as refused:
            if refused.reply.status != falcon.http_status_to_code(falcon.HTTP_UNPROCESSABLE_ENTITY):
                raise
            resp.status = falcon.HTTP_UNPROCESSABLE_ENTITY
            wrong = "Say in up to 1,000 characters why."
            await self.show_group(req, resp, group_id, wrong=wrong, reason=reason)
            return
        self.done(req, resp, f"/failures/{group_id}", DECISIONS[decision])
