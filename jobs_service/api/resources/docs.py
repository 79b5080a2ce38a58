"""/docs: the API described for people, by files that the service serves itself."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, get_args

import falcon
from falcon import ETag
from falcon.asgi import Request, Response

from jobs_service.api.markdown import to_html
from jobs_service.api.operations import Answer, Content, Header, operation

STATIC = Path(__file__).parents[1] / "static"
ERRORS = Path(__file__).parents[3] / "docs" / "errors.md"

#: Nothing but files of this service; no script or style in a page, no eval. Swagger UI has icons in `data:` addresses.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

FileName = Literal["docs.js", "page.css", "swagger-ui-bundle.js", "swagger-ui.css"]
#: The file of each name. docs/decisions/0037 says where those of Swagger UI are from.
FILES: Mapping[str, Path] = {
    name: STATIC / ("swagger-ui" if name.startswith("swagger") else "") / name for name in get_args(FileName)
}
_MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

_HTML = "text/html; charset=utf-8"
_ETAG = Header("ETag", "The version of the file.", example='"3f786850e387550fdab836ed7e6dc881"', is_required=True)
_POLICY = Header("Content-Security-Policy", "What the page may load.", example=POLICY)
_IF_NONE_MATCH = Header("If-None-Match", "The `ETag` of the copy that the client has.")
_UNCHANGED = Answer("The client's copy is up to date.", headers=(_ETAG,))


def _page(description: str) -> dict[HTTPStatus, Answer]:
    found = Answer(description, str, "text/html", headers=(_ETAG, _POLICY), example="<!doctype html>…")
    return {HTTPStatus.OK: found, HTTPStatus.NOT_MODIFIED: _UNCHANGED}


class ApiPage:
    """/docs."""

    @operation(
        id="get_docs",
        summary="This document, as a page",
        tag="description",
        scope=None,
        query=None,
        headers=(_IF_NONE_MATCH,),
        answers=_page("The page."),
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        send(req, resp, self.content, _HTML)

    on_head = on_get

    @cached_property
    def content(self) -> bytes:
        return (STATIC / "docs.html").read_bytes()


class ErrorsPage:
    """/docs/errors: the page that the `type` of each problem leads to."""

    @operation(
        id="get_error_docs",
        summary="What each error means, and what to do",
        tag="description",
        scope=None,
        query=None,
        headers=(_IF_NONE_MATCH,),
        answers=_page("The page, with a section for each `code`."),
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        send(req, resp, self.content, _HTML)

    on_head = on_get

    @cached_property
    def content(self) -> bytes:
        template = (STATIC / "text.html").read_text(encoding="utf-8")
        content = to_html(ERRORS.read_text(encoding="utf-8"))
        return template.format(title="Async Job System: errors", content=content).encode()


class Files:
    """/docs/files/{name}: what the pages load."""

    @operation(
        id="get_docs_file",
        summary="A script or a style sheet of the pages",
        tag="description",
        scope=None,
        query=None,
        path={"name": Header("name", "The name of the file.", FileName, "page.css")},
        headers=(_IF_NONE_MATCH,),
        answers={
            HTTPStatus.OK: Answer(
                "The file.",
                str,
                "text/css",
                headers=(_ETAG,),
                example="body { margin: 0; }",
                other_contents={"text/javascript": Content(str, "const dark = true;")},
            ),
            HTTPStatus.NOT_MODIFIED: _UNCHANGED,
        },
        problems=("not_found",),
    )
    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        path = FILES.get(name)
        if path is None:
            raise falcon.HTTPNotFound(description="There is no such file.")
        send(req, resp, self.contents[name], _MEDIA_TYPES[path.suffix])

    on_head = on_get

    @cached_property
    def contents(self) -> dict[str, bytes]:
        return {name: path.read_bytes() for name, path in FILES.items()}


def send(req: Request, resp: Response, content: bytes, media_type: str) -> None:
    """Answer with a file, or with 304 if the client has it. Caches keep it, and ask each time whether it is current."""
    resp.etag = ETag(hashlib.sha256(content).hexdigest()[:32])
    resp.set_headers(
        {"Cache-Control": "no-cache", "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    )
    if _has_copy(req, resp.etag):
        resp.status = falcon.HTTP_NOT_MODIFIED
    else:
        resp.content_type, resp.data = media_type, content


def _has_copy(req: Request, etag: Any) -> bool:  # noqa: ANN401 - falcon gives a text or an ETag
    return any(tag in ("*", str(etag).strip('"')) for tag in req.if_none_match or ())
