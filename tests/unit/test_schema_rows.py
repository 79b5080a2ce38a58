"""A payload's schema as a table."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from jobs_service.api.console import schema_rows
from jobs_service.api.console.schema_rows import rows
from jobs_service.jobs.job_types import load


class Item(msgspec.Struct):
    """What is ordered."""

    sku: Annotated[str, Meta(min_length=1, max_length=1_000, pattern="^[A-Z]")]
    parts: "list[Item]" = []


class Order(msgspec.Struct, forbid_unknown_fields=True):
    items: Annotated[list[Item], Meta(max_length=20, description="All of it.")]
    speed: Literal["slow", "fast"] = "slow"
    note: str | None = None
    price: Annotated[float, Meta(ge=0)] | None = None
    first: Item | None = None
    labels: dict[str, Annotated[str, Meta(max_length=8)]] = {}


def table(form):
    return {row.name: row for row in rows(msgspec.json.schema(form))}


def test_each_field_has_a_row_and_those_of_items_follow():
    found = table(Order)

    assert ["items", "items[].sku", "items[].parts", "speed", "note", "price", "first"] == list(found)[:7]
    assert ("array of object", True, ["at most 20 items"], "All of it.") == (
        found["items"].type,
        found["items"].is_required,
        found["items"].rules,
        found["items"].description,
    )
    assert ("text", True, ["matches ^[A-Z]", "not empty", "at most 1,000 characters"]) == found["items[].sku"][1:4]
    assert ("one of a list", False, ['"fast", "slow"'], '"slow"') == found["speed"][1:5]
    assert ("number", ["0 or more"]) == (found["price"].type, found["price"].rules)
    assert ("object of text", ["each at most 8 characters"]) == (found["labels"].type, found["labels"].rules)
    assert {"first.sku", "first.parts"} <= found.keys()


def test_a_type_that_contains_itself_ends():
    assert "items[].parts[].sku" not in table(Order)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (dict[str, Any], "object"),
        (list[dict[str, Any]] | dict[str, Any], "object or array of object"),
        (Any, "anything"),
        (int | str | None, "integer or text"),
        (list[Any], "array"),
    ],
)
def test_a_payload_without_fields_is_a_row_of_its_own(form, words):
    [row] = rows(msgspec.json.schema(form))

    assert ("payload", True) == (row.name, row.is_required)
    assert set(words.split(" or ")) == set(row.type.split(" or "))


def test_the_rows_of_a_huge_schema_are_limited(monkeypatch):
    monkeypatch.setattr(schema_rows, "MAX_ROWS", 5)
    huge = msgspec.defstruct("Huge", [(f"field_{number}", int) for number in range(50)])

    assert 5 == len(rows(msgspec.json.schema(huge)))
    values = rows(msgspec.json.schema(Literal[tuple(range(100))]))
    assert values[0].rules[0].endswith(", and 70 more")


def test_every_type_of_the_service_has_rows():
    for job_type in load():
        assert rows(msgspec.json.schema(job_type.payload)) or job_type.is_canary
