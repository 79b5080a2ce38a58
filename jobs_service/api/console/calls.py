"""Calls of the REST API from the console, inside of this process: with the caller's scopes, and no network between."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import falcon
import msgspec
from falcon.asgi import Request

from jobs_service.api.callers import CALLER
from jobs_service.observability import tracing


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the API."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - each operation has its own form
        return msgspec.json.decode(self.content) if self.content else None


class CallRefused(Exception):
    """The API answered with a problem (RFC 9457)."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.problem: dict[str, Any] = reply.json
        super().__init__(self.problem["detail"])

    @property
    def code(self) -> str:
        return str(self.problem["code"])


class ApiCalls:
    """Calls operations of the application that `connect` was given."""

    def __init__(self) -> None:
        self._app: Any = None

    def connect(self, app: Any) -> None:  # noqa: ANN401 - an ASGI application
        """Call this application."""
        self._app = app

    async def get(self, req: Request, path: str, **query: object) -> Any:  # noqa: ANN401 - what the operation answers
        """Return the JSON of `GET path`. Query parameters that are None or empty are left out. Raises `CallRefused`."""
        return (await self.call(req, "GET", path, query=query)).json

    async def call(
        self,
        req: Request,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request in the name of the page's caller. `body` is sent as JSON. Raises `CallRefused`."""
        given = {name: value for name, value in (query or {}).items() if value not in (None, "", [])}
        raw = b"" if body is None else msgspec.json.encode(body)
        sent = {**_passed_on(req), **({"content-type": "application/json"} if raw else {}), **(headers or {})}
        scope = {
            **req.scope,
            "method": method,
            "path": path,
            "raw_path": quote(path).encode(),
            "query_string": urlencode(given, doseq=True).encode(),
            "headers": [_encoded(name, value) for name, value in {**sent, "content-length": str(len(raw))}.items()],
            CALLER: req.context.caller,
        }
        # A task, because the API's log fields and span are not those of the page.
        reply = await asyncio.create_task(_answer(self._app, scope, raw))
        if reply.status >= 400:  # noqa: PLR2004 - the classes of RFC 9110, section 15
            raise CallRefused(reply)
        return reply


def _encoded(name: str, value: str) -> tuple[bytes, bytes]:
    """Return a header, which may come from a form. Raises 400 for what no client could send as one."""
    if not value.isascii() or not value.isprintable():
        raise falcon.HTTPBadRequest(description=f"{name} may have printable ASCII characters only.")
    return name.lower().encode(), value.encode("ascii")


def _passed_on(req: Request) -> dict[str, str]:
    """Return the headers by which logs and traces tell that the call is a part of the page's request."""
    headers = {"host": req.get_header("Host") or "localhost", "x-request-id": req.context.origin.request_id}
    if traceparent := tracing.current() or req.get_header("traceparent"):
        headers["traceparent"] = traceparent
    return headers


async def _answer(app: Any, scope: dict[str, Any], body: bytes) -> Reply:  # noqa: ANN401 - as above
    start: dict[str, Any] = {}
    pieces = []
    events = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return events.pop() if events else {"type": "http.disconnect"}

    async def send(event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start":
            start.update(event)
        else:
            pieces.append(event.get("body", b""))

    await app(scope, receive, send)
    headers = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
    return Reply(start["status"], headers, b"".join(pieces))
