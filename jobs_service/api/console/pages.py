"""What the pages of the console have in common: the frame, notices, forms, and what is shown when something fails."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import falcon
import jinja2
import msgspec
from falcon.asgi import App, Request, Response
from markupsafe import Markup

from jobs_service.api import problems
from jobs_service.api.access.guard import CONSOLE, Guard, is_console
from jobs_service.api.callers import ANONYMOUS, Scope
from jobs_service.api.console.assets import Assets
from jobs_service.api.console.calls import ApiCalls, CallRefused
from jobs_service.api.console.formats import FILTERS, moment
from jobs_service.api.console.grafana import Dashboards
from jobs_service.api.console.notices import NOTICES
from jobs_service.api.operations import Responder, operation
from jobs_service.api.request_body import LARGE_BYTES, read_bytes
from jobs_service.api.threads import Threads
from jobs_service.config import Settings

#: Nothing but files of this service; no script or style in a page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: Of the console's own answers. With `no-referrer`, browsers would send `Origin: null` with its forms, and without TLS
#: that is all by which `check_origin` knows them. Links to other sites still tell nothing.
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}

_HTML = "text/html; charset=utf-8"
FORM = "application/x-www-form-urlencoded"

#: What stays as it is in an address.
OF_ADDRESS = "/:@!$&'()*+,;=~?%#"

#: How many pages are kept for the time when PostgreSQL does not answer, and how long each may be.
KEPT_PAGES, MAX_KEPT_CHARACTERS = 64, 262_144

#: A number in a notice is no longer than that.
MAX_DIGITS = 12

#: Every how many seconds a page tries again whether PostgreSQL answers.
RETRY_SECONDS = 5

#: The parameters beside `notice` that its text may have.
COUNTS = ("n", "skipped")

#: The links of the frame: path, words, the key that follows `g`, and what other paths belong there.
NAVIGATION = [
    ("", "Overview", "o", ()),
    ("/jobs", "Jobs", "j", ("/actions/",)),
    ("/failures", "Failures", "f", ("/redrives",)),
    ("/queues", "Queues", "q", ()),
    ("/workers", "Workers", "w", ()),
    ("/types", "Job types", "t", ()),
]


def page(scope: Scope | None = Scope.JOBS_READ) -> Callable[[Responder], Responder]:
    """Declare that a responder is a page, and which scope it needs. What it calls may need further ones."""
    return operation(id="", summary="", tag="console", scope=scope, answers={}, query=None)


class _Shown(NamedTuple):
    """What a view shows: rendered behind it, in a thread."""

    template: str
    values: Mapping[str, Any]


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
        #: For what takes the processor long: large pages and forms. Python runs one thread at a time anyway.
        self.threads = Threads(1)
        self._kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("jobs_service.api.console"),
            autoescape=True,
            # They do not change while the service runs, so no request looks at files.
            auto_reload=False,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals.update(navigation=NAVIGATION, dashboards=Dashboards(settings.grafana_url))

    def install(self, app: "App[Any, Any]") -> None:
        """Call this application, and answer what the API refuses."""
        self.api.connect(app)
        app.add_error_handler(CallRefused, _refused)

    def show(self, req: Request, resp: Response, template: str, **values: object) -> None:  # noqa: ARG002
        """Answer with a page, which is rendered when the view has ended. Its template gets `values`.

        `title` is that of the page, `live` the path of the events after which it is to be fetched again, `refresh`
        every how many seconds it is, `forward` where the browser goes on at once.
        """
        req.context.shown = _Shown(template, values)

    async def render(self, req: Request, resp: Response) -> None:
        """Write the page that a view shows into the answer."""
        shown: _Shown = req.context.shown
        content = await self._send(req, resp, shown)
        is_seen = req.method == "GET" and resp.status_code < HTTPStatus.BAD_REQUEST
        if is_seen and len(content) <= MAX_KEPT_CHARACTERS:
            self._keep(req, content)

    async def render_problem(self, req: Request, resp: Response, problem: dict[str, Any], *, is_known: bool) -> None:
        """Answer with a page that says what is wrong.

        While PostgreSQL does not answer, it has the last content of the page, if it is known who asks.
        """
        is_away = problem["code"] == "database_unavailable"
        kept = self._kept.get(_name(req)) if is_away and is_known else None
        values = {
            "title": problem["title"],
            "problem": problem,
            "kept": kept,
            "back": _own_path(req, req.get_header("Referer")) if req.method == "POST" else None,
            "refresh": RETRY_SECONDS if is_away else None,
        }
        await self._send(req, resp, _Shown("problem.html", values))

    async def _send(self, req: Request, resp: Response, shown: _Shown) -> Markup:
        content, resp.data = await self.threads.run(self._rendered, shown, self._of_frame(req, shown.values))
        resp.content_type = _HTML
        return content

    def _of_frame(self, req: Request, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the frame and every template get."""
        caller = req.context.caller
        root = f"{req.root_path}{CONSOLE}"
        # The answer to a form has an address that may not be fetched again.
        is_fetchable = req.method == "GET"
        return {
            "root": root,
            "api_root": req.root_path,
            "path": req.path.removeprefix(CONSOLE),
            "here": _here(req),
            "now": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "caller": caller,
            "may": {scope.name.lower(): scope in caller.scopes for scope in Scope},
            "files": {name: f"{root}/files/{hashed}" for name, hashed in self.assets.names.items()},
            "notice": _notice(req),
            "forward": None,
            "problem": None,
            **values,
            "live": values.get("live") if is_fetchable else None,
            "refresh": values.get("refresh") if is_fetchable else None,
        }

    def _rendered(self, shown: _Shown, values: Mapping[str, Any]) -> tuple[Markup, bytes]:
        """Return the content, and the page. The first call of a template compiles it."""
        # Escaped by the template, but for what is marked as HTML.
        content = Markup(self._templates.get_template(shown.template).render(values))  # noqa: S704
        page = self._templates.get_template("layout.html").render(values, content=content)
        # A text of a job may have half of a surrogate pair, which has no UTF-8.
        return content, page.encode("utf-8", "replace")

    def _keep(self, req: Request, content: Markup) -> None:
        self._kept[_name(req)] = _Kept(content, moment(datetime.now(UTC).isoformat()))
        self._kept.move_to_end(_name(req))
        while len(self._kept) > KEPT_PAGES:
            self._kept.popitem(last=False)


class Page:
    """A page. Its methods are declared with `@page()`. HEAD works where GET does."""

    def __init_subclass__(cls) -> None:
        if "on_get" in vars(cls):
            cls.on_head = cls.on_get  # type: ignore[attr-defined]

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
            if len(raw) > LARGE_BYTES:
                return await self.console.threads.run(_fields, raw, with_empty=with_empty)
            return _fields(raw, with_empty=with_empty)
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
        address = quote(path, safe=OF_ADDRESS) + (joint + query if query else "")
        resp.set_header("Location", f"{req.root_path}{CONSOLE}{address}")


class Rendering:
    """Middleware that renders what the console's views show, and shows problems as pages."""

    def __init__(self, console: Console, guard: Guard) -> None:
        self.console = console
        self.guard = guard

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:  # noqa: ARG002
        # Falcon answers an unknown method without calling any middleware's `process_request`.
        if not is_console(req) or not hasattr(req.context, "caller"):
            return
        # The API's own answers below the console's path keep the API's headers: a file that a job wrote is no page.
        if resource is None or isinstance(resource, Page | Assets):
            resp.set_headers(HEADERS)
        if resp.content_type == problems.MEDIA_TYPE:
            if req.client_accepts("text/html"):
                await self._show_problem(req, resp, msgspec.json.decode(resp.data or b"{}"))
        elif hasattr(req.context, "shown"):
            await self.console.render(req, resp)

    async def _show_problem(self, req: Request, resp: Response, problem: dict[str, Any]) -> None:
        if problem["status"] == HTTPStatus.UNAUTHORIZED:
            self._to_sign_in(req, resp, problem["code"])
        else:
            resp.set_headers(HEADERS)
            await self.console.render_problem(req, resp, problem, is_known=self._is_known(req))

    def _is_known(self, req: Request) -> bool:
        """Tell whether the guard has found out who asks, or whoever it is may see everything."""
        return req.context.caller is not ANONYMOUS or self.guard.was_open

    def _to_sign_in(self, req: Request, resp: Response, code: str) -> None:
        wanted = _here(req).removeprefix(req.root_path) if req.method == "GET" else CONSOLE
        # A browser that follows another site's link sends no strict cookie.
        elsewhere = {"from": "elsewhere"} if req.get_header("Sec-Fetch-Site") == "cross-site" else {}
        resp.status, resp.data, resp.content_type = falcon.HTTP_SEE_OTHER, None, None
        resp.delete_header("WWW-Authenticate")
        query = urlencode({"next": wanted, "why": code, **elsewhere})
        resp.set_headers({**HEADERS, "Location": f"{req.root_path}{CONSOLE}/sign-in?{query}"})


def _fields(raw: bytes, *, with_empty: bool) -> list[tuple[str, str]]:
    """Raises ValueError."""
    return parse_qsl(
        raw.decode("ascii"),
        keep_blank_values=with_empty,
        strict_parsing=bool(raw),
        max_num_fields=1_000,
        errors="strict",
    )


async def _refused(req: Request, resp: Response, error: CallRefused, params: object) -> None:  # noqa: ARG001
    """Answer with the problem that the API has answered."""
    resp.status = falcon.code_to_http_status(error.reply.status)
    resp.content_type, resp.data = problems.MEDIA_TYPE, error.reply.content
    if retry_after := error.reply.headers.get("retry-after"):
        resp.set_header("Retry-After", retry_after)


def _name(req: Request) -> tuple[str, ...]:
    """Return by what a kept page is found: what is shown depends on the scopes, too."""
    return (_here(req), req.context.caller.name, *sorted(req.context.caller.scopes))


def _here(req: Request) -> str:
    """Return the path and the query of a page, without its notice."""
    query = [(name, value) for name, value in parse_qsl(req.query_string) if name not in ("notice", *COUNTS)]
    return f"{quote(req.root_path + req.path)}{'?' if query else ''}{urlencode(query)}"


def _notice(req: Request) -> str:
    """Return the notice that the URL names. Nobody can put a text of their own there."""
    given = dict(parse_qsl(req.query_string))
    counts = {name: _count(given.get(name, "")) for name in COUNTS}
    return NOTICES.get(given.get("notice", ""), "").format_map(counts)


def _count(text: str) -> str:
    return f"{int(text):,}" if text.isdecimal() and len(text) <= MAX_DIGITS else "0"


def _own_path(req: Request, url: str | None) -> str | None:
    """Return the path of a page of this console, or None for any other address."""
    parts = urlsplit(url or "")
    is_own = parts.netloc == req.get_header("Host") and parts.path.startswith(f"{req.root_path}{CONSOLE}")
    return f"{parts.path}?{parts.query}" if is_own and parts.query else parts.path if is_own else None
