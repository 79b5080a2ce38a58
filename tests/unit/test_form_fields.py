"""Fields made from a JSON Schema: what is typed becomes JSON with its digits, and back."""

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from job_types.reports import Report
from msgspec import Meta

from jobs_service.api.console import form_fields
from jobs_service.api.console.form_fields import Field, Kind

REPORT = form_fields.fields_of(msgspec.json.schema(Report))
BY_NAME = {item.name: item for item in REPORT}
FILLED = {"title": "Sales", "pages": "12", "paper": '"A4"', "recipients": "alice@example.com", "has_cover": "on"}


def typed(**texts):
    payload, wrong = form_fields.payload_of(REPORT, FILLED | texts)
    return bytes(payload), wrong


def test_each_property_has_a_field_of_its_kind():
    assert {name: item.kind for name, item in BY_NAME.items()} == {
        "title": Kind.TEXT,
        "pages": Kind.NUMBER,
        "paper": Kind.CHOICE,
        "recipients": Kind.TEXT_OR_JSON,
        "scale": Kind.NUMBER,
        "copies": Kind.CHOICE,
        "is_urgent": Kind.CHECKBOX,
        "has_cover": Kind.CHECKBOX,
        "is_signed": Kind.CHECKBOX,
        "code": Kind.TEXT,
        "day": Kind.DATE,
        "notes": Kind.LONG_TEXT,
        "margins": Kind.JSON,
    }


def test_a_field_says_what_the_schema_says():
    assert {"title", "pages", "paper", "recipients"} == {item.name for item in REPORT if item.is_required}
    assert (1, 500, True) == (BY_NAME["pages"].minimum, BY_NAME["pages"].maximum, BY_NAME["pages"].is_whole)
    assert "The heading of the first page." == BY_NAME["title"].description
    assert ["1 to 80 characters"] == BY_NAME["title"].hints
    assert ["more than 0", "less than 2", "default: 1.0"] == BY_NAME["scale"].hints
    assert ['"A4"', '"letter"'] == [choice.text for choice in BY_NAME["paper"].choices]
    assert ["1", "2", "3"] == [choice.text for choice in BY_NAME["copies"].choices]


@pytest.mark.parametrize(
    ("pattern", "for_browsers"),
    [
        ("^[A-Z]{2}[0-9]+$", "[A-Z]{2}[0-9]+"),
        # Browsers read these in another way, or not at all.
        (r"^[a-z]+\Z", ""),
        ("[A-Z]", ""),
        (r"^\d+$", ""),
        ("^[a.]$", ""),
        ("^(a|b)$", ""),
    ],
)
def test_a_pattern_is_left_to_the_browser_where_it_means_the_same_there(pattern, for_browsers):
    class Coded(msgspec.Struct):
        code: Annotated[str, Meta(pattern=pattern)]

    [found] = form_fields.fields_of(msgspec.json.schema(Coded))

    assert for_browsers == found.pattern
    assert [f"of the form {pattern}"] == found.hints


@pytest.mark.parametrize("form", [dict[str, Any] | list[Any], list[int], dict[str, int], str])
def test_a_payload_without_known_properties_has_no_fields(form):
    assert form_fields.fields_of(msgspec.json.schema(form)) is None


def test_what_is_typed_is_the_payload():
    payload, wrong = typed(
        scale=" 1.50 ", notes="two\r\nlines", margins='{"top": 2}', day="2026-11-26", copies="2", is_urgent="on"
    )

    assert not wrong
    assert {
        "title": "Sales",
        "pages": 12,
        "paper": "A4",
        "recipients": "alice@example.com",
        "scale": 1.5,
        "copies": 2,
        "is_urgent": True,
        "has_cover": True,
        "day": "2026-11-26",
        "notes": "two\nlines",
        "margins": {"top": 2},
    } == json.loads(payload)
    assert b'"scale":1.50' in payload
    msgspec.json.decode(payload, type=Report)


def test_what_is_left_blank_is_left_out_and_an_unchecked_box_says_no_where_that_is_not_the_default():
    payload, _ = typed(has_cover="", scale=" ")

    assert {"title", "pages", "paper", "recipients", "has_cover"} == json.loads(payload).keys()
    assert json.loads(payload)["has_cover"] is False


@pytest.mark.parametrize(
    ("text", "number"),
    [("12345678901234567890123", "12345678901234567890123"), ("1e5", "1e5"), ("-0", "-0"), (".5", "0.5"), ("+3", "3")],
)
def test_a_number_keeps_its_digits(text, number):
    assert f'"scale":{number}'.encode() in typed(scale=text)[0]


@pytest.mark.parametrize("text", ["two", "1,5", "NaN", "Infinity", '"5"', "[1]", "0x10", '1,"title":"other"'])
def test_what_is_no_number_is_told_at_its_field(text):
    assert {"scale": "This is not a number."} == typed(scale=text)[1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("alice@example.com", "alice@example.com"),
        ('["a@example.com","b@example.com"]', ["a@example.com", "b@example.com"]),
        ('"Alice" <a@example.com>', '"Alice" <a@example.com>'),
    ],
)
def test_a_text_or_a_list(text, value):
    assert value == json.loads(typed(recipients=text)[0])["recipients"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"top": 2', "line 1"),
        ('{\n "top": two}', "line 2, column 10"),
        ("{}, 1", "line 1, column 4"),
        ("[" * 5_000, ""),
    ],
)
def test_json_that_is_none_is_told_with_its_place(text, place):
    _, wrong = typed(margins=text)

    assert ["margins"] == [*wrong]
    assert place in wrong["margins"]


@pytest.mark.parametrize(
    "payload",
    [
        {"title": "a\nb", "pages": 1, "paper": "letter", "recipients": ["a"], "scale": 1.25, "is_urgent": True},
        {
            "title": "é漢🙂 \\ \" '",
            "pages": 1,
            "paper": "A4",
            "recipients": "a",
            "margins": {"top": 1},
            "day": "2026-11-26",
        },
        {
            "title": "t",
            "pages": 1,
            "paper": "A4",
            "recipients": "a",
            "has_cover": False,
            "is_signed": None,
            "copies": 3,
        },
    ],
)
def test_a_payload_that_fields_can_show_comes_back_as_it_was(payload):
    texts = form_fields.texts_of(REPORT, json.dumps(payload).encode())
    back, wrong = form_fields.payload_of(REPORT, texts)

    assert not wrong
    expected = {name: value for name, value in payload.items() if value is not None}
    assert {"has_cover": True} | expected == json.loads(bytes(back))


def test_the_digits_of_a_payload_stay():
    texts = form_fields.texts_of(
        REPORT, b'{"title":"t","pages":1,"paper":"A4","recipients":"a","scale":1.5000000000000000001}'
    )

    assert "1.5000000000000000001" == texts["scale"]


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"title": "a\rb"},
        {"title": ""},
        {"title": 5},
        {"recipients": "[no list"},
        {"recipients": 5},
        {"day": "tomorrow"},
        {"is_signed": False},
        {"pages": None},
    ],
)
def test_a_payload_that_fields_cannot_show_whole_is_for_json(change):
    payload = {"title": "t", "pages": 1, "paper": "A4", "recipients": "a"} | change

    assert form_fields.texts_of(REPORT, json.dumps(payload).encode()) is None


def test_a_payload_that_is_no_object_is_for_json():
    assert form_fields.texts_of(REPORT, b"[1]") is None


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Kind.MOMENT, "2026-11-26T09:30", "2026-11-26T09:30:00Z"),
        (Kind.MOMENT, "2026-11-26T09:30:00+02:00", "2026-11-26T09:30:00+02:00"),
        (Kind.LINES, " a \r\n\r\nb, c ", ["a", "b, c"]),
        (Kind.LINES, "\n", None),
    ],
)
def test_fields_that_no_schema_has(kind, text, value):
    found = Field(name="x", kind=kind).json_of(text)

    assert value == (None if found is None else json.loads(found))


def test_a_choice_of_one_is_one():
    class Tagged(msgspec.Struct):
        kind: Literal["a"]

    [found] = form_fields.fields_of(msgspec.json.schema(Tagged))

    assert (Kind.CHOICE, ['"a"']) == (found.kind, [choice.text for choice in found.choices])
