"""What each route takes and answers. Requests are checked against these definitions, and they are `/openapi.json`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import EnumType
from http import HTTPStatus
from typing import Any, TypeVar, get_args, get_origin

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
class Content:
    """A body of one media type. Of a type that is not JSON, the form is `str` for text and `bytes` for anything."""

    form: Any
    example: object = None


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
    #: Media type -> what the body is in that type, where it differs from `form`.
    other_contents: Mapping[str, Content] = field(default_factory=dict)

    @property
    def contents(self) -> dict[str, Content]:
        """Every media type of the body."""
        media_types = self.media_types or [self.media_type]
        main = {} if self.form is None else dict.fromkeys(media_types, Content(self.form, self.example))
        return {**main, **self.other_contents}


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
    #: Media type -> what the body is in that type, where it differs from `body`.
    other_bodies: Mapping[str, Content] = field(default_factory=dict)
    #: Whether a request without a body means something else than one with it.
    body_is_optional: bool = False
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
    """Return the query parameters as the struct `form`. Raises `InvalidRequest`, which points to a parameter.

    A parameter of a list's type may come several times; any other only once.
    """
    known = {item.encode_name: item for item in msgspec.structs.fields(form)}
    for name in params:
        if name not in known:
            raise InvalidRequest(_unknown(known), pointer=name[:64])
    values = {name: _value(known[name], value) for name, value in params.items()}
    try:
        query = msgspec.convert(values, form, strict=False)
    except msgspec.ValidationError as error:
        problem = invalid(error)
        name = problem.pointer.split("/")[1]
        raise InvalidRequest(_expected(known[name]) or problem.detail, pointer=name) from None
    for name in values:
        # msgspec reads the text "null" as None.
        if getattr(query, known[name].name) is None:
            raise InvalidRequest(_expected(known[name]) or "leave it out to have no such limit", pointer=name)
    return query


def _value(item: msgspec.structs.FieldInfo, value: str | list[str]) -> str | list[str]:
    if any(get_origin(form) in (list, tuple, set, frozenset) for form in _parts(item.type)):
        return value if isinstance(value, list) else [value]
    if isinstance(value, list):
        raise InvalidRequest(f"send {item.encode_name} only once", pointer=item.encode_name)
    if datetime in _parts(item.type) and value[4:5] != "-":  # msgspec takes a number for seconds since 1970
        raise InvalidRequest("expected a date with a time zone, such as 2026-11-26T09:30:00Z", pointer=item.encode_name)
    return value


def _expected(item: msgspec.structs.FieldInfo) -> str:
    """Return what a parameter of a closed list may be; "" for one of another kind."""
    lists = [form for form in _parts(item.type) if isinstance(form, EnumType)]
    return f"expected one of {', '.join(lists[0])}" if lists else ""


def _parts(form: Any) -> Iterator[Any]:  # noqa: ANN401 - any annotation
    """Yield a type and all that it is made of."""
    yield form
    for part in get_args(form):
        yield from _parts(part)


def _unknown(known: Mapping[str, object]) -> str:
    if not known:
        return "unknown query parameter; this route has none"
    return f"unknown query parameter; expected one of {', '.join(sorted(known))}"
