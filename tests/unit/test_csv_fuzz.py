"""csv-generation with payloads nobody would think of."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable

from hypothesis import example, given, strategies as st

from actors.generate_csv import to_csv
from jobs_service.jobs.job_types import registry

#: Any text that a request body may hold: the parser refuses NUL, UTF-8 has no lone surrogates.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
#: Text made of what matters here, which `TEXT` would rarely put together.
NASTY = st.text(st.sampled_from("=+-@\uff1d\uff0b\uff0d\uff20\t\r\n \u00a0\ufeff\u200b\u2028'\",;a1.eE"), max_size=8)
STRINGS = TEXT | NASTY
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.dictionaries(STRINGS, VALUES, max_size=5)


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def assert_says(cell: str, value: object) -> None:
    """Compare a cell with its value, the guarding apostrophes aside. A text may bring apostrophes of its own."""
    if value is None:
        assert "" == cell
    elif isinstance(value, str):
        assert value.replace("'", "") == cell.replace("'", "")
    elif isinstance(value, float):
        assert value == float(cell)
        assert "e" not in cell.lower()
    else:
        assert same(value, json.loads(cell))


def same(value: object, read: object) -> bool:
    """Compare as JSON does, except that a float's digits may read as a whole number, the last of them as zeros."""
    if isinstance(value, float):
        return value == float(read)
    if isinstance(value, list):
        return len(value) == len(read) and all(map(same, value, read))
    if isinstance(value, dict):
        return list(value) == list(read) and all(map(same, value.values(), read.values()))
    return value == read


def runs(line: str) -> bool:
    """Tell, in other words than the code under test, whether a spreadsheet may run what begins like this."""
    while line and unicodedata.category(line[0])[0] in "CZ":
        line = line[1:]
    return line.startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"))


def assert_harmless(cell: str, value: object) -> None:
    if not isinstance(value, int | float) and not re.fullmatch(r"[+-][0-9.,]+([eE][+-]?[0-9]+)?", cell):
        assert not cell.startswith(("\t", "\r"))
        assert not any(map(runs, cell.splitlines()))


def assert_row(row: list[str], values: Iterable[object]) -> None:
    for cell, value in zip(row, values, strict=True):
        assert_says(cell, value)
        assert_harmless(cell, value)


@given(ROWS)
@example({"=": "=", "\t": "\r", "x": {"\u2028=": ["\x85="]}})
def test_every_entry_of_an_object_reads_back_as_a_row(payload):
    header, *rows = read(to_csv(payload))

    assert ["key", "value"] == header
    for row, entry in zip(rows, payload.items(), strict=True):
        assert_row(row, entry)


@given(st.lists(ROWS.filter(bool), min_size=1, max_size=5))
@example([{"a": 1}, {"=": "\n=1"}])
@example([{"": ""}])
def test_every_object_of_a_list_reads_back_as_a_row(payload):
    columns = list(dict.fromkeys(key for record in payload for key in record))

    header, *rows = read(to_csv(payload))

    assert_row(header, columns)
    for row, record in zip(rows, payload, strict=True):
        assert_row(row, map(record.get, columns))


@given(st.lists(ROWS, max_size=5), st.lists(STRINGS, min_size=1, max_size=4, unique=True), st.sampled_from(",;\t|"))
@example([{"ID": "a;b"}], ["ID"], ";")
@example([], ["I", "D"], ",")
def test_a_table_of_chosen_columns_reads_back_with_its_delimiter(rows, columns, delimiter):
    text = to_csv({"rows": rows, "columns": columns, "delimiter": delimiter})

    header, *lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    assert_row(header, columns)
    for line, row in zip(lines, rows, strict=True):
        assert_row(line, map(row.get, columns))
    assert not text.startswith("ID")


@given(ROWS | st.lists(ROWS, max_size=5))
def test_whatever_is_accepted_can_be_written(payload):
    accepted = registry.get("csv-generation").parse(payload)

    text = to_csv(accepted)

    assert text.encode().decode() == text
    assert text.endswith("\n") or not text


@given(ROWS | st.lists(ROWS, max_size=5))
def test_the_same_payload_makes_the_same_file(payload):
    """A second attempt overwrites the first one's file with the same bytes."""
    assert to_csv(payload) == to_csv(json.loads(json.dumps(payload)))
