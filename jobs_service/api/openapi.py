"""The OpenAPI 3.1 document, made from the operations of the routes and the types that check requests."""

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple, TypeGuard, cast
from uuid import UUID

import msgspec
from msgspec import Meta

from jobs_service.api import problem_types
from jobs_service.api.callers import Scope
from jobs_service.api.operations import RETRY_AFTER, Answer, Content, Header, Operation, operation_of
from jobs_service.api.problem_types import PROBLEM_TYPES
from jobs_service.api.problems import MEDIA_TYPE
from jobs_service.jobs.job_types import JobType
from jobs_service.jobs.representation import EXAMPLE
from jobs_service.submission.submit import Submission

#: The version of the contract: the first number changes when a client has to.
VERSION = "1.0.0"

REF = "#/components/schemas/{name}"

#: The problems of every operation, and of every operation with a body.
COMMON = ("bad_request", "uri_too_long", "headers_too_large", "internal_error", "too_many_unfinished_requests")
#: Those of every operation with a scope.
OF_CALLERS = (
    "unauthenticated",
    "invalid_key",
    "key_expired",
    "scope_missing",
    "rate_limited",
    "database_unavailable",
    "database_not_migrated",
)
#: In addition, of those that change something.
OF_CHANGES = ("cross_origin",)
OF_QUERIES = ("invalid_request",)
OF_BODIES = (
    "malformed_body",
    "request_timeout",
    "length_required",
    "content_too_large",
    "unsupported_media_type",
    "invalid_request",
    "not_implemented",
)
#: The name of the security scheme.
KEY = "key"

#: The headings, in the order of the document.
TAGS: Mapping[str, str] = {
    "jobs": "Submit jobs, read them, and act on them.",
    "events": "What happens to jobs, as it happens.",
    "dead letters": "Jobs that failed for good: look through them, run them again, or discard them.",
    "queues": "Where jobs wait, and whether they are taken from there.",
    "workers": "The processes that run jobs.",
    "job types": "What can be submitted.",
    "stats": "Numbers about all jobs.",
    "health": "Whether the service works, for probes and for Prometheus.",
    "description": "This API, described.",
}

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

    pointer: Annotated[str, Meta(description="A JSON pointer (RFC 6901) into the body, or a query parameter's name.")]
    detail: Annotated[str, Meta(description="What was expected.")]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Problem details (RFC 9457)."""

    type: Annotated[str, Meta(description="Leads to the section about this code.")]
    title: Annotated[str, Meta(description="The name of the status.")]
    status: int
    detail: Annotated[str, Meta(description="What was wrong this time, in a sentence.")]
    code: Annotated[str, Meta(description="What programs distinguish problems by.")]
    instance: Annotated[
        str, Meta(description="The path of the request; absent if it was refused before it was read.")
    ] = ""
    errors: Annotated[list[FieldProblem], Meta(description="For bad input: a problem for each field.")] = []


def document(routes: Iterable[Route], job_types: Iterable[JobType]) -> Json:
    """Return the document. `job_types` are those whose payloads `POST /jobs` accepts."""
    routes, types = list(routes), list(job_types)
    declared = [declared for route in routes for _, declared in route.operations()]
    schemas = _schemas([Problem, *_forms(declared), *_payloads(types)])
    _accept_nulls(schemas, [*_bodies(declared), *_payloads(types)])
    _describe_payloads(schemas, types)
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": "/"}],
        "tags": _tags(declared),
        "paths": {
            route.path: {
                method: _operation(route.path, declared, schemas, routes) for method, declared in route.operations()
            }
            for route in routes
            if any(route.operations())
        },
        "components": {
            "schemas": dict(sorted(_used_components(schemas, declared).items())),
            "headers": {name: _described(HEADERS[name], schemas) for name in _used_headers(declared)},
            "parameters": {header.name: _header_parameter(header, schemas) for header in CORRELATION},
            "examples": {code: {"value": _problem_example(code)} for code in sorted(_used_codes(declared))},
            "securitySchemes": {KEY: _SECURITY_SCHEME},
        },
    }


_INFO = {
    "title": "Async Job System",
    "version": VERSION,
    "summary": "Submit a job: it is never lost, and you can see everything that happens to it.",
    "description": (
        "A job is submitted when the answer to `POST /jobs` arrives: its row is committed, and no failure of a process "
        "or a server loses it.\n\n"
        "- **Times** are RFC 3339 in UTC with milliseconds.\n"
        "- **Errors** are problem details (RFC 9457). Their `code` does not change; their `type` leads to a section "
        "that says what to do.\n"
        "- **`HEAD`** works where `GET` does. A method that a path does not have gets `405` with `Allow`.\n"
        "- **Unknown** fields and query parameters are refused by name. An optional field that is `null` counts as "
        "absent.\n"
        "- **`X-Request-ID`** is returned as it was sent, and is on every log line of the request and of the job's "
        "attempts."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}

_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "prefix.secret",
    "description": (
        "An API key, made by `python -m jobs_service keys create`. Each operation names the scope that it needs. A "
        "service that has no key yet may answer without one."
    ),
}

_REQUEST_ID = Header(
    "X-Request-ID",
    "The id of the request: as it was sent, or a new one.",
    example="7f1c9a52-order-4711",
)

#: The headers of answers that are not an operation's own, by name.
HEADERS: Mapping[str, Header] = {
    header.name: header
    for header in (
        _REQUEST_ID,
        Header("Cache-Control", "What a cache may keep of the answer.", example="no-store"),
        RETRY_AFTER,
        Header("Accept-Encoding", "The content codings that are accepted in requests.", example="identity"),
        Header(
            "Content-Range", "The size of the content, after a range that begins behind its end.", example="bytes */37"
        ),
        Header(
            "RateLimit-Policy",
            "How many requests (q) in how many seconds (w) a caller may send; absent without a limit.",
            example='"default";q=20;w=2',
        ),
        Header(
            "RateLimit",
            "How many more requests may follow now (r), and in how many seconds all may again (t).",
            example='"default";r=19;t=1',
        ),
        Header("WWW-Authenticate", "What is missing (RFC 6750).", example='Bearer error="invalid_token"'),
    )
}
_ALWAYS = ("X-Request-ID", "Cache-Control")
#: Those of operations with a scope (draft-ietf-httpapi-ratelimit-headers).
_OF_LIMITS = ("RateLimit-Policy", "RateLimit")
#: The headers of problems, by status.
_OF_STATUS: Mapping[HTTPStatus, tuple[str, ...]] = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate",),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("Accept-Encoding",),
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: ("Content-Range",),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After",),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After",),
}

#: The headers by which requests are found again. A value that cannot be used is replaced, so none is refused.
CORRELATION = (
    Header("X-Request-ID", "1 to 128 visible ASCII characters: found again in the answer and on every log line."),
    Header("traceparent", "The W3C trace context that the job's attempts continue."),
)


class _Schemas(NamedTuple):
    """The schemas of all types that the operations name."""

    components: Json
    by_form: Mapping[Any, Json]

    def of(self, form: object) -> Json:
        return self.by_form[form]

    def component(self, form: object) -> Json | None:
        """Return the component of a type; None if its schema stands where it is used."""
        name = self.name(form)
        return self.components[name] if name else None

    def name(self, form: object) -> str:
        return str(self.of(form).get("$ref", "")).rpartition("/")[2]


def _forms(declared: Iterable[Operation]) -> Iterator[Any]:
    for operation in declared:
        yield from (form for form in (operation.query, operation.body) if form is not None)
        yield from (content.form for content in operation.other_bodies.values())
        for answer in operation.answers.values():
            yield from (content.form for content in answer.contents.values())
            yield from (header.form for header in answer.headers)
        yield from (header.form for header in (*operation.headers, *operation.path.values()))
    yield from (str, int, bytes, *(header.form for header in _PATH.values()))


def _bodies(declared: Iterable[Operation]) -> Iterator[Any]:
    for operation in declared:
        yield from (form for form in (operation.body,) if form is not None)
        yield from (content.form for content in operation.other_bodies.values())


def _payloads(job_types: Iterable[JobType]) -> Iterator[Any]:
    for job_type in job_types:
        yield from (*job_type.forms, job_type.payload)


def _schemas(forms: Iterable[Any]) -> _Schemas:
    unique = list(dict.fromkeys(forms))
    schemas, components = msgspec.json.schema_components(unique, ref_template=REF)
    return _Schemas(
        {name: _portable(component) for name, component in components.items()},
        {form: _portable(schema) for form, schema in zip(unique, schemas, strict=True)},
    )


def _portable(schema: Any) -> Any:  # noqa: ANN401 - JSON
    r"""Return a schema that every tool reads: closed lists have a type, patterns `$` for Python's `\Z`."""
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    shown = {name: _portable(value) for name, value in schema.items()}
    if "enum" in shown and all(isinstance(value, str) for value in shown["enum"]):
        shown.setdefault("type", "string")
    if shown.get("type") == "object" and not {"properties", "additionalProperties"} & set(shown):
        shown["additionalProperties"] = True  # generators take an object without it for one without members
    if shown.get("default", 0) is None:  # an absent field is not null
        del shown["default"]
    if shown.get("format") == "decimal":
        shown["type"] = ["number", "string"]
    if isinstance(shown.get("pattern"), str):
        shown["pattern"] = shown["pattern"].replace(r"\Z", "$")
    if {} in shown.get("anyOf", ()):  # what may be anything needs no list of what it may be
        del shown["anyOf"]
    return shown


def _accept_nulls(schemas: _Schemas, forms: Iterable[Any]) -> None:
    """Allow `null` in each optional field of what clients send, since it counts as absent."""
    for component in filter(None, map(schemas.component, dict.fromkeys(forms))):
        for name, schema in component.get("properties", {}).items():
            if name not in component["required"]:
                component["properties"][name] = _or_null(schema)


def _or_null(schema: Json) -> Json:
    if not schema or {"type": "null"} in schema.get("anyOf", ()):
        return schema
    apart: Json = {key: schema[key] for key in ("default", "description") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in apart}
    return {"anyOf": [rest, {"type": "null"}], **apart}


def _describe_payloads(schemas: _Schemas, job_types: Iterable[JobType]) -> None:
    """Replace the schema of a submission by one for each job type, which describes the payload of that type."""
    component = schemas.component(Submission) if Submission in schemas.by_form else None
    if component is None:
        return
    of_types = {job_type.name: _submission(component, job_type, schemas) for job_type in job_types}
    refs = {name: REF.format(name=_submission_name(name)) for name in of_types}
    schemas.components.update({_submission_name(name): of_type for name, of_type in of_types.items()})
    schemas.components[schemas.name(Submission)] = {
        "title": component["title"],
        "description": "A job of one of the job types. The names of types ignore case, and `_` is the same as `-`.",
        "oneOf": [{"$ref": ref} for ref in refs.values()],
        "discriminator": {"propertyName": "type", "mapping": refs},
    }


def _submission(component: Json, job_type: JobType, schemas: _Schemas) -> Json:
    kind = {"type": "string", "const": job_type.name, "description": "Other spellings of the name are accepted too."}
    options = [option for form in _payloads([job_type]) for option in _options(schemas.of(form))]
    payload = options[0] if len(options) == 1 else {"anyOf": options}
    example = {} if job_type.example is None else {"examples": [{"type": job_type.name, "payload": job_type.example}]}
    return {
        **component,
        "title": _submission_name(job_type.name),
        "description": f"A job of the type {job_type.name}.",
        "properties": {**component["properties"], "type": kind, "payload": payload},
        **example,
    }


def _options(schema: Json) -> list[Json]:
    return schema["anyOf"] if set(schema) == {"anyOf"} else [schema]


def _submission_name(job_type: str) -> str:
    return "".join(part.capitalize() for part in re.split(r"\W|_", job_type)) + "Submission"


def _tags(declared: Iterable[Operation]) -> list[Json]:
    used = {operation.tag for operation in declared}
    return [{"name": tag, "description": text} for tag, text in TAGS.items() if tag in used]


def _operation(path: str, declared: Operation, schemas: _Schemas, routes: Iterable[Route]) -> Json:
    shown: Json = {
        "operationId": declared.id,
        "summary": declared.summary,
        "tags": [declared.tag],
        # The empty requirement: without a key, as long as none is configured.
        "security": [] if declared.scope is None else [{KEY: [str(declared.scope)]}, {}],
        "parameters": list(_parameters(path, declared, schemas)),
        "responses": _responses(declared, schemas, routes),
    }
    if text := _description(declared):
        shown["description"] = text
    if contents := _request_contents(declared):
        shown["requestBody"] = _request_body(declared, contents, schemas)
    return shown


def _description(declared: Operation) -> str:
    scope = "" if declared.scope is None else f"Needs the scope `{declared.scope}`."
    return "\n\n".join(filter(None, (declared.description, scope)))


def _parameters(path: str, declared: Operation, schemas: _Schemas) -> Iterator[Json]:
    for name in _path_parameters(path):
        header = declared.path.get(name, _PATH.get(name, Header(name, "")))
        yield {**_described(header, schemas), "name": name, "in": "path", "required": True}
    if declared.query is not None:
        yield from _query(declared.query, schemas)
    for header in declared.headers:
        yield _header_parameter(header, schemas)
    if declared.scope is not None:
        own = {header.name for header in declared.headers}
        yield from (
            {"$ref": f"#/components/parameters/{header.name}"} for header in CORRELATION if header.name not in own
        )


def _header_parameter(header: Header, schemas: _Schemas) -> Json:
    return {**_described(header, schemas), "name": header.name, "in": "header", "required": header.is_required}


_PATH = {"job_id": Header("job_id", "The id of a job.", UUID, EXAMPLE["job_id"])}


def _query(form: type[msgspec.Struct], schemas: _Schemas) -> Iterator[Json]:
    schema = schemas.components[schemas.name(form)]
    for field, value in schema["properties"].items():
        shown = {key: part for key, part in value.items() if key != "description"}
        described = {"description": value["description"]} if "description" in value else {}
        required = field in schema.get("required", ())
        yield {"name": field, "in": "query", "required": required, "schema": _without_null(shown), **described}


def _without_null(schema: Json) -> Json:
    """Return the schema without `null`, which no query parameter can be."""
    if "anyOf" not in schema:
        return schema
    options = [option for option in schema["anyOf"] if option != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**options[0], **rest} if len(options) == 1 else {"anyOf": options, **rest}


def _described(header: Header, schemas: _Schemas) -> Json:
    example = {} if header.example is None else {"example": header.example}
    return {"description": header.description, "schema": schemas.of(header.form), **example}


def _request_contents(declared: Operation) -> dict[str, Content]:
    main = {} if declared.body is None else dict.fromkeys(declared.body_media_types, Content(declared.body))
    return {**main, **declared.other_bodies}


def _request_body(declared: Operation, contents: Mapping[str, Content], schemas: _Schemas) -> Json:
    shown = {media_type: _content(media_type, content, schemas) for media_type, content in contents.items()}
    for media_type in declared.body_media_types if declared.body is not None else ():
        if declared.body_examples:
            shown[media_type]["examples"] = {
                name: {"value": _example(media_type, value)} for name, value in declared.body_examples.items()
            }
    return {"required": not declared.body_is_optional, "content": shown}


def _content(media_type: str, content: Content, schemas: _Schemas) -> Json:
    example = {} if content.example is None else {"example": _example(media_type, content.example)}
    return {"schema": _content_schema(media_type, content.form, schemas), **example}


def _content_schema(media_type: str, form: object, schemas: _Schemas) -> Json:
    """Return the schema of a body. No schema describes the values of a text that is not JSON, such as NDJSON."""
    if _is_json(media_type):
        return schemas.of(form)
    return {"type": "string", "format": "binary"} if form is bytes else {"type": "string"}


def _example(media_type: str, value: object) -> object:
    """Return an example as it is sent. A list is a line for each item where the body is NDJSON."""
    if _is_json(media_type) or not isinstance(value, list):
        return value
    return "".join(f"{msgspec.json.encode(item).decode()}\n" for item in value)


def _is_json(media_type: str) -> bool:
    return media_type.endswith(("/json", "+json"))


def _responses(declared: Operation, schemas: _Schemas, routes: Iterable[Route]) -> Json:
    always = _always(declared)
    shown = {str(status.value): _answer(answer, always, schemas, routes) for status, answer in declared.answers.items()}
    for status, codes in _by_status(codes_of(declared)).items():
        key = str(status.value)
        shown[key] = _with_problem(shown.get(key), _problem(status, codes, always))
    return dict(sorted(shown.items()))


def _always(declared: Operation) -> tuple[str, ...]:
    """Return the headers of every answer of an operation."""
    return _ALWAYS if declared.scope is None else (*_ALWAYS, *_OF_LIMITS)


def _with_problem(answer: Json | None, problem: Json) -> Json:
    """Return a problem's answer, joined with an answer of the same status that is not a problem."""
    if answer is None:
        return problem
    return {
        "description": f"{answer['description']}\n\n{problem['description']}",
        "headers": {**problem["headers"], **answer["headers"]},
        "content": {**answer.get("content", {}), **problem["content"]},
        **({"links": answer["links"]} if "links" in answer else {}),
    }


def _answer(answer: Answer, always: Iterable[str], schemas: _Schemas, routes: Iterable[Route]) -> Json:
    own = {header.name: {**_described(header, schemas), **_required(header)} for header in answer.headers}
    shown: Json = {"description": answer.description, "headers": {**_header_refs(always), **own}}
    if contents := answer.contents:
        shown["content"] = {
            media_type: _content(media_type, content, schemas) for media_type, content in contents.items()
        }
    if links := _links(answer.form, routes):
        shown["links"] = links
    return shown


def _required(header: Header) -> Json:
    return {"required": True} if header.is_required else {}


def _header_refs(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _links(form: object, routes: Iterable[Route]) -> Json:
    """Return a link to each operation on what the answer is about: those whose path has one of the answer's fields."""
    fields = {item.encode_name for item in msgspec.structs.fields(form)} if _is_struct(form) else set()
    return {
        declared.id: {"operationId": declared.id, "parameters": {names[0]: f"$response.body#/{names[0]}"}}
        for route in routes
        for _, declared in route.operations()
        if len(names := _path_parameters(route.path)) == 1 and names[0] in fields and names[0].endswith("_id")
    }


def _path_parameters(path: str) -> list[str]:
    return re.findall(r"\{(\w+)", path)


def _is_struct(form: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(form, type) and issubclass(form, msgspec.Struct)


def codes_of(declared: Operation) -> list[str]:
    """Return the codes of all problems that an operation may answer with."""
    caller = OF_CALLERS if declared.scope is not None else ()
    change = OF_CHANGES if declared.scope not in (None, Scope.JOBS_READ) else ()
    query = OF_QUERIES if declared.query is not None else ()
    body = OF_BODIES if _request_contents(declared) else ()
    return list(dict.fromkeys([*COMMON, *caller, *change, *query, *body, *declared.problems]))


def _used_codes(declared: Iterable[Operation]) -> set[str]:
    return {code for operation in declared for code in codes_of(operation)}


def _used_headers(declared: Iterable[Operation]) -> list[str]:
    used = {name for code in _used_codes(declared) for name in _OF_STATUS.get(PROBLEM_TYPES[code].status, ())}
    always = {name for operation in declared for name in _always(operation)}
    return [name for name in HEADERS if name in used or name in always]


def _used_components(schemas: _Schemas, declared: Iterable[Operation]) -> Json:
    """Return the components without those of queries, which are shown as parameters."""
    queries = {schemas.name(operation.query) for operation in declared if operation.query is not None}
    return {name: component for name, component in schemas.components.items() if name not in queries}


def _by_status(codes: Iterable[str]) -> dict[HTTPStatus, list[str]]:
    found: dict[HTTPStatus, list[str]] = {}
    for code in codes:
        found.setdefault(PROBLEM_TYPES[code].status, []).append(code)
    return found


def _of_codes(codes: Iterable[str]) -> tuple[str, ...]:
    """Return the headers of some problems of a status only."""
    return (RETRY_AFTER.name,) if "idempotency_key_in_flight" in codes else ()


def _problem(status: HTTPStatus, codes: list[str], always: Iterable[str]) -> Json:
    """Return the answer of the problems with one status."""
    meanings = [f"- `{code}`: {PROBLEM_TYPES[code].meaning}" for code in codes]
    return {
        "description": "\n".join(meanings),
        "headers": _header_refs((*always, *_OF_STATUS.get(status, ()), *_of_codes(codes))),
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": REF.format(name="Problem")},
                "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
            }
        },
    }


def _problem_example(code: str) -> Json:
    status, meaning = PROBLEM_TYPES[code]
    errors = [FieldProblem("/priority", "Expected `int` <= 9")] if code == "invalid_request" else []
    problem = Problem(
        type=problem_types.uri(code),
        title=status.phrase,
        status=status.value,
        detail="; ".join(f"{error.pointer}: {error.detail}" for error in errors) or meaning,
        code=code,
        instance="/jobs",
        errors=errors,
    )
    return cast("Json", msgspec.to_builtins(problem))
