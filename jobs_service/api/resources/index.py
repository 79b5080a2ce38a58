"""/ and /openapi.json."""

from collections.abc import Iterable
from functools import cached_property
from http import HTTPStatus
from typing import Any

import falcon
import msgspec
from falcon.asgi import Request, Response

from jobs_service.api import openapi
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.jobs.job_types import JobType

#: Where `GET /` sends browsers.
PAGE = "/console"

_VARY = Header("Vary", "The answer depends on this header of the request.", example="Accept", is_required=True)
_LOCATION = Header("Location", "The path of the page.", example=PAGE, is_required=True)


class Index(msgspec.Struct, frozen=True):
    """Where to go from here: the name of a resource and its path."""

    links: dict[str, str]


class Root:
    """/."""

    def __init__(self, links: dict[str, str]) -> None:
        """`links` are names and paths."""
        self.links = links

    @operation(
        id="get_index",
        summary="Links to everything else",
        tag="description",
        scope=None,
        description="A client that prefers HTML is sent to the page that a person would look for.",
        answers={
            HTTPStatus.OK: Answer("The links.", Index, headers=(_VARY,), example={"links": {"jobs": "/jobs"}}),
            HTTPStatus.SEE_OTHER: Answer("To the page.", headers=(_VARY, _LOCATION)),
        },
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.append_header("Vary", "Accept")
        if req.client_prefers(("application/json", "text/html")) == "text/html":
            resp.status = falcon.HTTP_SEE_OTHER
            resp.set_header("Location", f"{req.root_path}{PAGE}")
            return
        resp.data = msgspec.json.encode(Index({name: req.root_path + path for name, path in self.links.items()}))

    on_head = on_get


class OpenApi:
    """/openapi.json."""

    def __init__(self, routes: Iterable[openapi.Route], job_types: Iterable[JobType]) -> None:
        self.routes = routes
        self.job_types = job_types

    @operation(
        id="get_openapi",
        summary="This document",
        tag="description",
        scope=None,
        query=None,
        answers={HTTPStatus.OK: Answer("The OpenAPI 3.1 document.", dict[str, Any], example={"openapi": "3.1.0"})},
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data = msgspec.json.encode({**self.document, "servers": [{"url": req.root_path or "/"}]})

    on_head = on_get

    @cached_property
    def document(self) -> openapi.Json:
        return openapi.document(self.routes, self.job_types)
