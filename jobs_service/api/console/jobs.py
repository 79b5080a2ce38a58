"""/console/jobs: the list of jobs."""

from falcon.asgi import Request, Response

from jobs_service.api.console.pages import Page, page

#: The parameters of the page that are those of the API's list.
FILTERS = ("status", "type", "queue", "tag", "q", "created_after", "created_before", "attempts_min", "cursor")


class Jobs(Page):
    """/console/jobs."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        filters = {name: req.get_param(name) or "" for name in FILTERS}
        found = await self.api.get(req, "/jobs", **filters)
        self.show(req, resp, "jobs.html", title="Jobs", filters=filters, found=found, live="/events")
