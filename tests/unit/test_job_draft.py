"""A job as it was typed: the request that it makes, and the fields at which errors are shown."""

import json

import msgspec
import pytest
from job_types.reports import Report

from jobs_service.api.console import form_fields
from jobs_service.api.console.job_draft import Draft, options

TYPE = {
    "name": "test-report",
    "queue": "default",
    "max_attempts": 8,
    "time_limit_seconds": 60.0,
    "example": {"title": "Sales", "recipients": ["a@example.com"]},
    "payload_schema": msgspec.json.schema(Report),
}
FIELDS = form_fields.fields_of(TYPE["payload_schema"])


def draft(fields=FIELDS, **more):
    return Draft(job_type=TYPE, fields=fields, options=options(TYPE, ["default", "mail"]), **more)


def body_of(given):
    body, wrong = given.body()
    return json.loads(msgspec.json.encode(body)), wrong


def test_the_body_has_what_was_typed():
    typed = {
        "p.title": "Sales",
        "queue": '"mail"',
        "priority": "9",
        "delay_seconds": "1.5",
        "expires_at": "2030-01-01T00:00",
        "tags": "a\nb",
        "on_ambiguous": '"hold"',
    }

    body, wrong = body_of(draft(typed=typed))

    assert not wrong
    assert {
        "type": "test-report",
        "payload": {"title": "Sales", "has_cover": False},
        "queue": "mail",
        "priority": 9,
        "delay_seconds": 1.5,
        "expires_at": "2030-01-01T00:00:00Z",
        "tags": ["a", "b"],
        "on_ambiguous": "hold",
    } == body


def test_json_stays_as_it_was_typed():
    body, wrong = draft(None, typed={"payload": '{"price": 1.50}'}).body()

    assert not wrong
    assert b'{"price": 1.50}' in msgspec.json.encode(body)


@pytest.mark.parametrize("text", ["", " ", "{", '1, "type": "other"', '{}, "queue": "mail"'])
def test_nothing_but_one_value_is_a_payload(text):
    assert ["payload"] == [*draft(None, typed={"payload": text}).body()[1]]


def test_a_retry_says_that_there_are_no_tags_any_more():
    """Left out, they would be those of the finished job."""
    body, _ = body_of(draft(None, typed={"payload": "{}"}, retry_of="1"))

    assert {"payload": {}, "tags": []} == body


def test_a_hidden_payload_is_taken_over_unless_another_one_is_typed():
    assert {"tags": []} == body_of(draft(None, retry_of="1", is_hidden=True))[0]
    typed = draft(None, retry_of="1", is_hidden=True, typed={"payload": "[1]"})
    assert {"payload": [1], "tags": []} == body_of(typed)[0]


@pytest.mark.parametrize(
    ("pointer", "key", "sentence"),
    [
        ("/payload/title", "p.title", "Expected so"),
        ("/payload/margins/top", "p.margins", "Expected so (at /top)"),
        ("/payload/margins/a~1b", "p.margins", "Expected so (at /a/b)"),
        ("/queue", "queue", "Expected so"),
        ("/tags/0", "tags", "Expected so (at /0)"),
    ],
)
def test_an_error_is_shown_at_its_field(pointer, key, sentence):
    problem = {"code": "invalid_request", "errors": [{"pointer": pointer, "detail": "expected so"}]}

    refused = draft().refused(problem)

    assert ({key: sentence}, "") == (refused.wrong, refused.problem)


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        ({"errors": [{"pointer": "/payload/other", "detail": "unknown"}]}, "Unknown (at /other)"),
        ({"errors": [{"pointer": "/type", "detail": "unknown"}]}, "/type: unknown"),
        ({"errors": [{"pointer": "", "detail": "expected an object"}]}, "expected an object"),
        ({"detail": "The queue is full."}, "The queue is full."),
    ],
)
def test_any_other_error_is_shown_above_the_form(problem, sentence):
    refused = draft().refused({"code": "any"} | problem)

    assert ({}, sentence) == (refused.wrong, refused.problem)


def test_in_json_every_error_of_the_payload_is_shown_at_it():
    problem = {"code": "invalid_request", "errors": [{"pointer": "/payload/rows/1", "detail": "expected a number"}]}

    assert {"payload": "Expected a number (at /rows/1)"} == draft(None).refused(problem).wrong


def test_an_example_is_a_placeholder_in_one_line():
    shown = {item.field.name: item.placeholder for item in draft().shown_fields()}

    assert ("Sales", '[ "a@example.com" ]', "") == (shown["title"], shown["recipients"], shown["pages"])
