"""The OpenAPI 3.1 document, made from the operations of the routes and the types that check requests."""

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, cast

import msgspec

from jobs_service.api.operations import RETRY_AFTER, Answer, Header, Operation, operation_of
from jobs_service.api.problem_types import PROBLEM_TYPES
from jobs_service.api.problems import MEDIA_TYPE
from jobs_service.jobs.job_types import JobType

#: The version of the contract: the first number changes when a client has to.
VERSION = "1.0.0"

REF = "#/components/schemas/{name}"

#: The problems of every operation, and of every operation with a body.
COMMON = ("bad_request", "internal_error")
OF_QUERIES = ("invalid_request",)
OF_BODIES = (
    "malformed_body",
    "request_timeout",
    "length_required",
    "content_too_large",
    "unsupported_media_type",
    "invalid_request",
)

Json = dict[str, Any]


class Route(NamedTuple):
    """A path template and the resource that answers there."""

    path: str
    resource: object

    def operations(self) -> Iterator[tuple[str, Operation]]:
        for method in ("get", "post", "put", "patch", "delete"):
            if declared := operation_of(self.resource, method):
                yield method, declared


class FieldProblem(msgspec.Struct, frozen=True):
    """What is wrong with a field."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    #: Absent where the request was refused before it was read.
    instance: str = ""
    #: For bad input only.
    errors: list[FieldProblem] = []


def document(routes: Iterable[Route], job_types: Iterable[JobType]) -> Json:
    """Return the document. `job_types` are those whose payloads `POST /jobs` accepts."""
    routes, types = list(routes), list(job_types)
    declared = [declared for route in routes for _, declared in route.operations()]
    schemas = _schemas([Problem, *_forms(declared), *(job_type.payload for job_type in types)])
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in declared)],
        "paths": {
            route.path: {method: _operation(route.path, declared, schemas) for method, declared in route.operations()}
            for route in routes
            if any(route.operations())
        },
        "components": {"schemas": schemas.components, "headers": {}},
    }


_INFO = {
    "title": "Async Job System",
    "version": VERSION,
    "description": "Submit a job: it is never lost, and you can see everything that happens to it.",
    "license": {"name": "MIT", "identifier": "MIT"},
}


class _Schemas(NamedTuple):
    """The schemas of all types that the operations name."""

    components: Json
    by_form: Mapping[Any, Json]

    def of(self, form: object) -> Json:
        return self.by_form[form]


def _forms(declared: Iterable[Operation]) -> Iterator[Any]:
    for operation in declared:
        yield from (form for form in (operation.query, operation.body) if form is not None)
        for answer in operation.answers.values():
            if answer.form is not None:
                yield answer.form
            yield from (header.form for header in answer.headers)
        yield from (header.form for header in (*operation.headers, *operation.path.values()))
    yield from (str, int)


def _schemas(forms: Iterable[Any]) -> _Schemas:
    unique = list(dict.fromkeys(forms))
    schemas, components = msgspec.json.schema_components(unique, ref_template=REF)
    return _Schemas(components, dict(zip(unique, schemas, strict=True)))


def _operation(path: str, declared: Operation, schemas: _Schemas) -> Json:
    shown: Json = {
        "operationId": declared.id,
        "summary": declared.summary,
        "tags": [declared.tag],
        "parameters": list(_parameters(path, declared, schemas)),
        "responses": _responses(declared, schemas),
    }
    if declared.description:
        shown["description"] = declared.description
    if declared.body is not None:
        shown["requestBody"] = _body(declared, schemas)
    return shown


def _parameters(path: str, declared: Operation, schemas: _Schemas) -> Iterator[Json]:
    for name in re.findall(r"\{(\w+)\}", path):
        header = declared.path.get(name, _PATH.get(name, Header(name, "")))
        yield {**_described(header, schemas), "name": name, "in": "path", "required": True}
    if declared.query is not None:
        yield from _query(declared.query, schemas)
    for header in declared.headers:
        yield {**_described(header, schemas), "name": header.name, "in": "header", "required": header.is_required}


_PATH = {"job_id": Header("job_id", "The id of a job.", example="0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41")}


def _query(form: type[msgspec.Struct], schemas: _Schemas) -> Iterator[Json]:
    name = schemas.of(form)["$ref"].rpartition("/")[2]
    schema = schemas.components[name]
    for field, value in schema["properties"].items():
        shown = {key: part for key, part in value.items() if key not in ("default", "description")}
        described = {"description": value["description"]} if "description" in value else {}
        required = field in schema.get("required", ())
        yield {"name": field, "in": "query", "required": required, "schema": _without_null(shown), **described}


def _without_null(schema: Json) -> Json:
    """Return the schema without `null`, which no query parameter can be."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**options[0], **rest} if len(options) == 1 else schema


def _described(header: Header, schemas: _Schemas) -> Json:
    example = {} if header.example is None else {"example": header.example}
    return {"description": header.description, "schema": schemas.of(header.form), **example}


def _body(declared: Operation, schemas: _Schemas) -> Json:
    examples = {name: {"value": value} for name, value in declared.body_examples.items()}
    content = {"schema": schemas.of(declared.body), **({"examples": examples} if examples else {})}
    return {"required": True, "content": dict.fromkeys(declared.body_media_types, content)}


def _responses(declared: Operation, schemas: _Schemas) -> Json:
    shown = {str(status.value): _answer(answer, schemas) for status, answer in declared.answers.items()}
    for status, codes in _by_status(_codes(declared)).items():
        shown.setdefault(str(status.value), _problem(status, codes))
    return dict(sorted(shown.items()))


def _answer(answer: Answer, schemas: _Schemas) -> Json:
    shown: Json = {"description": answer.description, "headers": _headers(answer.headers, schemas)}
    if answer.form is not None:
        example = {} if answer.example is None else {"example": answer.example}
        content = {"schema": schemas.of(answer.form), **example}
        shown["content"] = dict.fromkeys(answer.media_types or [answer.media_type], content)
    return shown


def _headers(headers: Iterable[Header], schemas: _Schemas) -> Json:
    return {header.name: _described(header, schemas) for header in (_REQUEST_ID, *headers)}


_REQUEST_ID = Header("X-Request-ID", "The id of the request, as it was sent or made anew.")


def _codes(declared: Operation) -> list[str]:
    query = OF_QUERIES if declared.query is not None else ()
    body = OF_BODIES if declared.body is not None else ()
    return list(dict.fromkeys([*COMMON, *query, *body, *declared.problems]))


def _by_status(codes: Iterable[str]) -> dict[HTTPStatus, list[str]]:
    found: dict[HTTPStatus, list[str]] = {}
    for code in codes:
        found.setdefault(PROBLEM_TYPES[code].status, []).append(code)
    return found


def _problem(status: HTTPStatus, codes: list[str]) -> Json:
    meanings = [f"`{code}`: {PROBLEM_TYPES[code].meaning}" for code in codes]
    headers = {"X-Request-ID": {"schema": {"type": "string"}}}
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        headers[RETRY_AFTER.name] = {"schema": {"type": "integer"}}
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        headers["Content-Range"] = {"schema": {"type": "string"}}
    return cast(
        "Json",
        {
            "description": "\n".join(meanings),
            "headers": headers,
            "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(name="Problem")}}},
        },
    )
