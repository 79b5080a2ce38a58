"""What each route takes and answers. Requests are checked against these definitions, and they are `/openapi.json`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import EnumType
from http import HTTPStatus
from typing import Any, TypeVar, get_args

import msgspec
from falcon.asgi import Request, Response

from jobs_service.api.callers import Scope
from jobs_service.errors import InvalidRequest
from jobs_service.jobs.validation import invalid


@dataclass(frozen=True)
class Header:
    """A header of requests or answers."""

    name: str
    description: str
    #: The type of its value.
    form: Any = str
    example: str | int | None = None
    is_required: bool = False


RETRY_AFTER = Header("Retry-After", "Try again after so many seconds.", int, 2)


@dataclass(frozen=True)
class Answer:
    """An answer that is not a problem."""

    description: str
    #: The type of its body. None: it has none.
    form: Any = None
    media_type: str = "application/json"
    #: Where it may have one of several.
    media_types: Sequence[str] = ()
    headers: Sequence[Header] = ()
    example: object = None


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query parameter."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A method of a route."""

    #: Its `operationId`, from which generated clients make the name of a function.
    id: str
    summary: str
    #: The further text, in Markdown.
    description: str = ""
    #: The heading below which it stands: jobs, dead letters, queues, …
    tag: str
    #: None: anyone may call it.
    scope: Scope | None
    answers: Mapping[HTTPStatus, Answer]
    #: The codes of its problems, without those that every operation has.
    problems: Sequence[str] = ()
    #: A struct with a field for each query parameter. None: parameters are ignored.
    query: type[msgspec.Struct] | None = NoQuery
    #: The type of the body. None: it takes none.
    body: Any = None
    body_media_types: Sequence[str] = ("application/json",)
    #: Name -> a body.
    body_examples: Mapping[str, object] = field(default_factory=dict)
    headers: Sequence[Header] = ()
    #: Descriptions of path parameters other than job_id.
    path: Mapping[str, Header] = field(default_factory=dict)


Responder = TypeVar("Responder", bound=Callable[..., Any])


def operation(**definition: Any) -> Callable[[Responder], Responder]:  # noqa: ANN401 - the fields of `Operation`
    """Declare what a responder (`on_get`, `on_post`, …) takes and answers."""
    declared = Operation(**definition)

    def declare(responder: Responder) -> Responder:
        responder.operation = declared  # type: ignore[attr-defined]
        return responder

    return declare


def operation_of(resource: object, method: str) -> Operation | None:
    """Return the operation of a method of a resource, or None: it has no such method, or declares nothing."""
    found: Operation | None = getattr(getattr(resource, f"on_{method.lower()}", None), "operation", None)
    return found


class Contract:
    """Middleware that checks query parameters by the operation's definition; `req.context.query` has them."""

    async def process_resource(self, req: Request, resp: Response, resource: object, params: object) -> None:  # noqa: ARG002
        declared = operation_of(resource, req.method)
        if declared is not None and declared.query is not None and (req.query_string or declared.query is not NoQuery):
            req.context.query = parsed(req.params, declared.query)


Query = TypeVar("Query", bound=msgspec.Struct)


def parsed(params: Mapping[str, Any], form: type[Query]) -> Query:
    """Return the query parameters as the struct `form`. Raises `InvalidRequest`, which points to a parameter."""
    known = {item.encode_name: item for item in msgspec.structs.fields(form)}
    for name, value in params.items():
        if name not in known:
            raise InvalidRequest(_unknown(known), pointer=name[:64])
        if isinstance(value, list):
            raise InvalidRequest(f"send {name} only once", pointer=name)
    try:
        return msgspec.convert(params, form, strict=False)
    except msgspec.ValidationError as error:
        problem = invalid(error)
        name = problem.pointer.removeprefix("/")
        raise InvalidRequest(_expected(known[name]) or problem.detail, pointer=name) from None


def _expected(item: msgspec.structs.FieldInfo) -> str:
    """Return what a parameter of a closed list may be; "" for one of another kind."""
    lists = [form for form in (item.type, *get_args(item.type)) if isinstance(form, EnumType)]
    return f"expected one of {', '.join(lists[0])}" if lists else ""


def _unknown(known: Mapping[str, object]) -> str:
    if not known:
        return "unknown query parameter; this route has none"
    return f"unknown query parameter; expected one of {', '.join(sorted(known))}"
