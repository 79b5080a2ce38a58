"""The OpenAPI document: complete, and about this code."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from jobs_service.api import openapi
from jobs_service.api.app import LINKS, create_app
from jobs_service.api.callers import Scope
from jobs_service.api.operations import parsed
from jobs_service.config import Settings
from jobs_service.errors import InvalidRequest
from jobs_service.jobs.job_types import registry
from jobs_service.jobs.lifecycle import Status

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def resources():
    """The resource of each path."""

    def below(nodes):
        for node in nodes:
            if node.resource is not None:
                yield node.uri_template, node.resource
            yield from below(node.children)

    settings = {"DATABASE_URL": "postgresql://x@localhost/x", "REDIS_URL": "redis://localhost"}
    return dict(below(create_app(Settings.from_env(settings))._router._roots))


def api(resources):
    """Return what is not a page of the console."""
    return [(path, resource) for path, resource in resources.items() if not path.startswith("/console")]


@pytest.fixture(scope="module")
def document(resources):
    return resources["/openapi.json"].document


@pytest.fixture(scope="module")
def operations(document):
    return {shown["operationId"]: shown for methods in document["paths"].values() for shown in methods.values()}


def test_every_responder_is_described(resources, document):
    responders = {
        (method, path)
        for path, resource in api(resources)
        for method in ("get", "post", "put", "patch", "delete")
        if hasattr(resource, f"on_{method}")
    }

    assert responders == {(method, path) for path, methods in document["paths"].items() for method in methods}


def test_operations_have_names_of_their_own(document, operations):
    assert len(operations) == sum(len(methods) for methods in document["paths"].values())
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in operations)


def test_every_heading_is_described(operations):
    assert {tag for shown in operations.values() for tag in shown["tags"]} <= set(openapi.TAGS)


def test_every_body_has_an_example(operations):
    bodies = {
        (name, status, media_type): content
        for name, shown in operations.items()
        for status, answer in [*shown["responses"].items(), ("request", shown.get("requestBody", {}))]
        for media_type, content in answer.get("content", {}).items()
    }

    assert [where for where, content in bodies.items() if not {"example", "examples"} & set(content)] == []


def test_every_header_and_parameter_is_described(document, operations):
    components = document["components"]
    shown = {
        **components["headers"],
        **components["parameters"],
        **{
            (name, header): described
            for name, operation in operations.items()
            for answer in operation["responses"].values()
            for header, described in answer["headers"].items()
        },
        **{
            (name, parameter["name"]): parameter
            for name, operation in operations.items()
            for parameter in operation["parameters"]
            # The name of a filter is that of the field.
            if "$ref" not in parameter and parameter["in"] != "query"
        },
    }

    assert [
        where for where, described in shown.items() if not (described.get("description") or "$ref" in described)
    ] == []


def test_every_reference_leads_somewhere(document):
    def targets(node):
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from targets(value)
        elif isinstance(node, list):
            for value in node:
                yield from targets(value)

    found = set(targets(document))
    assert found
    for target in found:
        node = document
        for step in target.removeprefix("#/").split("/"):
            node = node[step]


def test_an_operation_with_a_scope_needs_a_key_with_it(resources, operations):
    scopes = {
        declared.id: declared.scope
        for path, resource in api(resources)
        for _, declared in openapi.Route(path, resource).operations()
    }

    assert Scope.JOBS_WRITE in scopes.values()
    for name, scope in scopes.items():
        required = [{"key": [scope]}, {}] if scope else []
        assert operations[name]["security"] == required, name


def test_every_answer_with_a_problem_has_an_example_for_each_code(operations, document):
    for name, operation in operations.items():
        for status, answer in operation["responses"].items():
            problems = answer.get("content", {}).get("application/problem+json", {"examples": {}})
            for code in problems["examples"]:
                example = document["components"]["examples"][code]["value"]
                assert (str(example["status"]), example["code"]) == (status, code), name
                assert example["type"] == f"/docs/errors#{code}"


def test_a_submission_is_described_for_each_job_type(document):
    schemas = document["components"]["schemas"]
    names = [name for name in registry.names if not name.startswith("test-")]

    mapping = schemas["Submission"]["discriminator"]["mapping"]
    assert set(names) <= set(mapping)
    for name in names:
        shown = schemas[mapping[name].rpartition("/")[2]]
        assert shown["properties"]["type"]["const"] == name
        assert shown["properties"]["payload"] != {}
        assert {"type", "payload"} == set(shown["required"])
        assert shown["additionalProperties"] is False


def test_the_example_of_each_job_type_is_accepted(document):
    schemas = document["components"]["schemas"]

    for ref in schemas["Submission"]["discriminator"]["mapping"].values():
        for example in schemas[ref.rpartition("/")[2]].get("examples", ()):
            registry.get(example["type"]).parse(example["payload"])
    assert all(registry.get(name).example is not None for name in ("csv-generation", "EMAIL_SEND"))


def test_optional_fields_of_a_submission_may_be_null(document):
    shown = document["components"]["schemas"]["CsvGenerationSubmission"]

    for name, schema in shown["properties"].items():
        is_nullable = {"type": "null"} in schema.get("anyOf", ())
        assert is_nullable == (name not in shown["required"]), name


def test_what_is_read_from_a_job_leads_to_its_operations(operations):
    links = operations["submit_job"]["responses"]["201"]["links"]

    assert {"get_job", "cancel_job", "retry_job"} <= set(links)
    assert set(links) <= set(operations)


def test_no_pattern_is_for_python_alone(document):
    assert r"\Z" not in msgspec.json.encode(document).decode()


def test_the_index_leads_to_everything_that_can_be_read_without_an_id(resources):
    readable = {path for path, resource in api(resources) if hasattr(resource, "on_get") and "{" not in path}

    assert (readable - {"/"}) | {"/console"} == set(LINKS.values())


class Filters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    status: Annotated[list[Status], Meta(max_length=2)] = []
    limit: int | None = None
    created_after: Annotated[datetime, Meta(tz=True)] | None = None


def test_a_list_comes_as_a_parameter_that_is_repeated():
    assert parsed({"status": "failed"}, Filters).status == [Status.FAILED]
    assert parsed({"status": ["failed", "pending"]}, Filters).status == [Status.FAILED, Status.PENDING]


def test_a_date_comes_as_rfc_3339():
    assert parsed({"created_after": "2026-11-26T09:30:00Z"}, Filters).created_after == datetime(
        2026, 11, 26, 9, 30, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("params", "pointer", "detail"),
    [
        ({"status": ["failed", "lost"]}, "status", "expected one of pending, processing, completed, failed, cancelled"),
        ({"limit": ["1", "2"]}, "limit", "send limit only once"),
        ({"limit": "null"}, "limit", "leave it out"),
        ({"limits": "1"}, "limits", "unknown query parameter; expected one of created_after, limit, status"),
        ({"created_after": "0.5"}, "created_after", "expected a date with a time zone"),
        ({"created_after": "2026-11-26T09:30:00"}, "created_after", "Expected `datetime` with a timezone"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(params, pointer, detail):
    with pytest.raises(InvalidRequest) as raised:
        parsed(params, Filters)

    assert raised.value.pointer == pointer
    assert detail in raised.value.detail
