"""/console: what needs a person, the flow of the last hour, and the queues."""

from falcon.asgi import Request, Response

from jobs_service.api.console.pages import Page, page


class Overview(Page):
    """/console."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        stats = await self.api.get(req, "/stats")
        self.show(req, resp, "overview.html", title="Overview", stats=stats, live="/events", refresh=10)
