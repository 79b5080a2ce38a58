"""What the pages of the console have in common: the frame, notices, forms, and what is shown when something fails."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import falcon
import jinja2
import msgspec
from falcon.asgi import App, Request, Response
from markupsafe import Markup

from jobs_service.api import problems
from jobs_service.api.access.guard import CONSOLE, is_console
from jobs_service.api.callers import Scope
from jobs_service.api.console.assets import Assets
from jobs_service.api.console.calls import ApiCalls, CallRefused
from jobs_service.api.console.formats import FILTERS, moment
from jobs_service.api.console.notices import NOTICES
from jobs_service.api.operations import Responder, operation
from jobs_service.api.request_body import read_bytes
from jobs_service.config import Settings

#: Nothing but files of this service; no script or style in a page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_HTML = "text/html; charset=utf-8"
FORM = "application/x-www-form-urlencoded"

#: How many pages are kept for the time when PostgreSQL does not answer, and how long each may be.
KEPT_PAGES, MAX_KEPT_CHARACTERS = 64, 262_144

#: Every how many seconds a page tries again whether PostgreSQL answers.
RETRY_SECONDS = 5

#: The links of the frame: path, words, and the key that follows `g`.
NAVIGATION = [
    ("", "Overview", "o"),
    ("/jobs", "Jobs", "j"),
    ("/failures", "Failures", "f"),
    ("/queues", "Queues", "q"),
    ("/workers", "Workers", "w"),
    ("/types", "Job types", "t"),
]


def page(scope: Scope | None = Scope.JOBS_READ) -> Callable[[Responder], Responder]:
    """Declare that a responder is a page, and which scope it needs. What it calls may need further ones."""
    return operation(id="", summary="", tag="console", scope=scope, answers={}, query=None)


class _Kept(NamedTuple):
    """The content of a page as it was shown."""

    content: Markup
    at: str


class Console:
    """Renders pages, and calls the API for them. One for a process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.api = ApiCalls()
        self.assets = Assets()
        self._kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("jobs_service.api.console"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals.update(navigation=NAVIGATION)

    def install(self, app: "App[Any, Any]") -> None:
        """Call this application, and answer what the API refuses."""
        self.api.connect(app)
        app.add_error_handler(CallRefused, _refused)

    def show(self, req: Request, resp: Response, template: str, **values: object) -> None:
        """Answer with a page. Its template gets `values`, of which `title` is that of the page.

        `live` is the path of the events after which the page is to be fetched again, `refresh` is every how many
        seconds it is.
        """
        content = self._render(req, template, **values)
        if req.method == "GET" and resp.status_code < 400 and len(content) <= MAX_KEPT_CHARACTERS:  # noqa: PLR2004
            self._keep(req, content)
        self._send(req, resp, content, values)

    def show_problem(self, req: Request, resp: Response, problem: dict[str, Any]) -> None:
        """Answer with a page that says what is wrong; while PostgreSQL does not answer, also with the last content."""
        kept = self._kept.get(_name(req)) if problem["code"] == "database_unavailable" else None
        back = _own_path(req, req.get_header("Referer")) if req.method == "POST" else None
        content = self._render(req, "problem.html", problem=problem, kept=kept, back=back)
        self._send(req, resp, content, {"title": problem["title"], "refresh": RETRY_SECONDS if kept else None})

    def _send(self, req: Request, resp: Response, content: Markup, values: Mapping[str, Any]) -> None:
        of_frame = {name: values.get(name) for name in ("title", "live", "refresh")}
        frame = self._render(req, "layout.html", content=content, **of_frame)
        resp.set_header("Content-Security-Policy", POLICY)
        # A text of a job may have half of a surrogate pair, which has no UTF-8.
        resp.content_type, resp.data = _HTML, frame.encode("utf-8", "replace")

    def _render(self, req: Request, template: str, **values: object) -> Markup:
        caller = req.context.caller
        root = f"{req.root_path}{CONSOLE}"
        rendered = self._templates.get_template(template).render(
            root=root,
            api_root=req.root_path,
            path=req.path.removeprefix(CONSOLE),
            here=req.relative_uri,
            caller=caller,
            may={scope.name.lower(): scope in caller.scopes for scope in Scope},
            files={name: f"{root}/files/{hashed}" for name, hashed in self.assets.names.items()},
            notice=_notice(req),
            **values,
        )
        return Markup(rendered)  # noqa: S704 - the template has escaped what is not ours

    def _keep(self, req: Request, content: Markup) -> None:
        self._kept[_name(req)] = _Kept(content, moment(datetime.now(UTC).isoformat()))
        self._kept.move_to_end(_name(req))
        while len(self._kept) > KEPT_PAGES:
            self._kept.popitem(last=False)


class Page:
    """A page. Its methods are declared with `@page()`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.api = console.api

    def show(self, req: Request, resp: Response, template: str, **values: object) -> None:
        """Answer with a template. Every page has a `title`."""
        self.console.show(req, resp, template, **values)

    async def form(self, req: Request) -> dict[str, str]:
        """Return the fields of a form. One that comes several times counts with its last value."""
        return dict(await self.fields(req))

    async def fields(self, req: Request, *, with_empty: bool = False) -> list[tuple[str, str]]:
        """Return the fields of a form, in its order, without empty ones unless they are asked for."""
        # A payload of MAX_BODY_BYTES may need three characters for each byte.
        raw = await read_bytes(req, 3 * self.console.settings.max_body_bytes + 65_536, (FORM,))
        try:
            return parse_qsl(
                raw.decode("ascii"),
                keep_blank_values=with_empty,
                strict_parsing=bool(raw),
                max_num_fields=1_000,
                errors="strict",
            )
        except ValueError:
            raise falcon.HTTPBadRequest(description="This is not a form of the console.") from None

    def done(
        self, req: Request, resp: Response, path: str, notice: str = "", count: int = 0, *, skipped: int = 0
    ) -> None:
        """Send the browser to a page of the console (with GET), which shows a notice of `notices.py`."""
        counts = {name: value for name, value in (("n", count), ("skipped", skipped)) if value}
        query = urlencode({"notice": notice, **counts}) if notice else ""
        joint = "&" if "?" in path else "?"
        resp.status = falcon.HTTP_SEE_OTHER
        resp.set_header("Location", f"{req.root_path}{CONSOLE}{path}{joint + query if query else ''}")


class Problems:
    """Middleware that shows problems as pages, below the console's path."""

    def __init__(self, console: Console) -> None:
        self.console = console

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:  # noqa: ARG002
        if not is_console(req) or resp.content_type != problems.MEDIA_TYPE or not req.client_accepts("text/html"):
            return
        problem = msgspec.json.decode(resp.data or b"{}")
        if problem["status"] == falcon.http_status_to_code(falcon.HTTP_UNAUTHORIZED):
            self._to_sign_in(req, resp, problem["code"])
        else:
            self.console.show_problem(req, resp, problem)

    def _to_sign_in(self, req: Request, resp: Response, code: str) -> None:
        wanted = req.relative_uri.removeprefix(req.root_path) if req.method == "GET" else CONSOLE
        query = urlencode({"next": wanted, "why": code})
        resp.status, resp.data, resp.content_type = falcon.HTTP_SEE_OTHER, None, None
        resp.set_header("Location", f"{req.root_path}{CONSOLE}/sign-in?{query}")


async def _refused(req: Request, resp: Response, error: CallRefused, params: object) -> None:  # noqa: ARG001
    """Answer with the problem that the API has answered."""
    resp.status = falcon.code_to_http_status(error.reply.status)
    resp.content_type, resp.data = problems.MEDIA_TYPE, error.reply.content
    if retry_after := error.reply.headers.get("retry-after"):
        resp.set_header("Retry-After", retry_after)


def _name(req: Request) -> tuple[str, ...]:
    """Return by what a kept page is found: what is shown depends on the scopes, too."""
    return (req.relative_uri, req.context.caller.name, *sorted(req.context.caller.scopes))


def _notice(req: Request) -> str:
    """Return the notice that the URL names. Nobody can put a text of their own there."""
    text = NOTICES.get(req.get_param("notice") or "", "")
    counts = {name: req.get_param_as_int(name, default=0) if f"{{{name}}}" in text else 0 for name in ("n", "skipped")}
    return text.format_map({name: f"{count:,}" for name, count in counts.items()}) if text else ""


def _own_path(req: Request, url: str | None) -> str | None:
    """Return the path of a page of this console, or None for any other address."""
    parts = urlsplit(url or "")
    is_own = parts.netloc == req.get_header("Host") and parts.path.startswith(f"{req.root_path}{CONSOLE}")
    return f"{parts.path}?{parts.query}" if is_own and parts.query else parts.path if is_own else None
