r"""csv-generation: writes a flat object as a file of keys and values, and a list of objects as a table.

An object with `rows` is a table with format options. By default the file is UTF-8 without a byte order mark, separated
by commas. Lines end in "\n". Quoting follows RFC 4180.
"""

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from jobs_service.errors import InvalidRequest
from jobs_service.jobs.job_types import JobContext, job
from jobs_service.jobs.validation import invalid

Row = dict[str, Any]
Payload = Row | list[Row]

#: Rows times columns. Otherwise the table of small rows that each have a different key grows with the square of their
#: number: one request of a megabyte could produce ten billion empty cells.
MAX_CELLS = 5_000_000

#: The rows between two reports of the progress.
REPORT_ROWS = 5_000

#: The characters that make a spreadsheet read a cell as a formula. Compared after NFKC, which covers full-width forms.
FORMULA_STARTS = frozenset("=+-@")

#: A text that is only a signed number is no formula, and must stay a number for the spreadsheet.
_SIGNED_NUMBER = re.compile(r"[+-](?:[0-9]+(?:[.,][0-9]+)*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?")

#: Excel takes a file that begins with these two bytes for a SYLK file, and does not open it.
_SYLK = "ID"

_BYTE_ORDER_MARK = "\ufeff"


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload's object form: rows and format options."""

    rows: list[Row]
    #: The columns of the file, in this order. By default, all keys of the rows.
    columns: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    delimiter: Literal[",", ";", "\t", "|"] | None = None
    bom: bool | None = None

    def __post_init__(self) -> None:
        """Check what the types do not express. Raises `InvalidRequest`."""
        rows, header = len(self.rows), self.header
        if len(set(header)) < len(header):
            name = Counter(header).most_common(1)[0][0]
            raise InvalidRequest(f"name the column {name[:64]!r} only once", pointer="/payload/columns")
        if rows * len(header) > MAX_CELLS:
            sentence = f"{rows} rows with {len(header)} different keys make more than {MAX_CELLS} cells"
            raise InvalidRequest(sentence, pointer="/payload")

    @property
    def header(self) -> tuple[str, ...]:
        if self.columns is not None:
            return self.columns
        return tuple(dict.fromkeys(key for row in self.rows for key in row))

    def lines(self) -> Iterator[Iterable[object]]:
        if header := self.header:
            yield header
            yield from ([row.get(column) for column in header] for row in self.rows)


def fits(payload: Payload) -> None:
    """Raise `InvalidRequest` for a table that is invalid or has too many cells."""
    _table(payload)


@job(
    "csv-generation",
    payload=Payload,
    check=fits,
    decimals=True,
    example={"name": "Alice", "score": 95},
    forms=(Table,),
)
def generate_csv(payload: Payload, context: JobContext) -> str:
    """Write the file and return its reference, "output/<job-id>.csv"."""
    content = to_csv(payload, context).encode()
    context.stop_if_cancelled()
    return context.outputs.write(f"{context.job_id}.csv", content)


def to_csv(payload: Payload, context: JobContext | None = None) -> str:
    """Return the file's content. Raises `LeaseLost` if the job of the context is cancelled meanwhile."""
    if table := _table(payload):
        mark = _BYTE_ORDER_MARK if table.bom else ""
        lines = table.lines() if context is None else _watched(table.lines(), len(table.rows), context)
        return mark + _written(lines, table.delimiter or ",")
    return _written([("key", "value"), *payload.items()], ",") if isinstance(payload, dict) else ""


def _watched(lines: Iterator[Iterable[object]], rows: int, context: JobContext) -> Iterator[Iterable[object]]:
    """Yield the lines until the job is cancelled, and report how many of the rows are written; of a few, nothing."""
    for number, line in enumerate(lines):
        context.stop_if_cancelled()
        if number and number % REPORT_ROWS == 0:
            context.progress(number, rows, "rows")
        yield line


def _table(payload: Payload) -> Table | None:
    """Return the payload's table, or None for a flat object. Raises `InvalidRequest`."""
    if isinstance(payload, list):
        return Table(rows=payload)
    if not _has_rows(payload):
        return None
    try:
        return msgspec.convert(payload, Table)
    except msgspec.ValidationError as error:
        raise invalid(error, below="/payload") from None


def _has_rows(payload: Row) -> bool:
    """Tell whether the payload is the object form, and not a flat object that happens to have a key "rows"."""
    rows = payload.get("rows")
    return isinstance(rows, list) and (not rows or isinstance(rows[0], dict))


def _written(rows: Iterable[Iterable[object]], delimiter: str) -> str:
    lines = _Lines(delimiter)
    writer = csv.writer(lines, delimiter=delimiter)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return "".join(lines)


_encode = json.JSONEncoder(ensure_ascii=False).encode
#: The line breaks that JSON does not escape. After one, a formula could begin inside a JSON text.
_LINE_BREAKS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})


def _cell(value: object) -> str:
    """Return the cell's text. Only a string can be a formula: numbers and JSON texts do not begin like one."""
    if value is None:
        return ""
    if isinstance(value, str):
        return neutralise(value)
    return _json(value).translate(_LINE_BREAKS)


def _json(value: object) -> str:
    """Return compact JSON in which every number has all its digits and no exponent.

    Some programs read "1e-05" as text, and the standard library's encoder does not support `Decimal`.
    """
    match value:
        case dict():
            return "{" + ",".join(f"{_encode(name)}:{_json(item)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_json, value)) + "]"
        case float() | Decimal():
            return format(Decimal(str(value)), "f")
        case bool() | str() | None:
            return _encode(value)
        case _:
            return str(value)


def neutralise(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would run as a formula.

    The beginning of every line is checked, since some programs split a quoted cell at its line breaks, after any spaces
    or invisible characters. A leading TAB or CR always gets an apostrophe. A text that is only a number gets none.
    """
    if text[:1].isalnum() and text.isprintable():  # the usual case: one line that begins with a letter or a digit
        return text
    if _SIGNED_NUMBER.fullmatch(text):
        return text
    guarded = "".join(f"'{line}" if _is_formula(line) else line for line in text.splitlines(keepends=True))
    return f"'{guarded}" if guarded.startswith(("\t", "\r")) else guarded


def _is_formula(line: str) -> bool:
    first = next((character for character in line if not _is_invisible(character)), "")
    return unicodedata.normalize("NFKC", first) in FORMULA_STARTS


def _is_invisible(character: str) -> bool:
    """Tell whether a character is a separator, control or format character (zero-width space, byte order mark, …)."""
    return unicodedata.category(character)[0] in "CZ"


class _Lines(list[str]):
    r"""Collects the rows of a `csv.writer`, with "\n" as the line ending.

    `lineterminator` cannot be used: if it is "\n", Python 3.11 and 3.12 do not quote a lone "\r" inside a cell, and
    readers then see an extra row.
    """

    def __init__(self, delimiter: str) -> None:
        super().__init__()
        self._delimiter = delimiter

    def write(self, row: str) -> None:
        line = row.removesuffix("\r\n")
        self.append((line if self else self._guarded(line)) + "\n")

    def _guarded(self, line: str) -> str:
        """Quote the file's first cell if the file would otherwise begin like a SYLK file."""
        if not line.startswith(_SYLK):
            return line
        cell, delimiter, rest = line.partition(self._delimiter)
        return f'"{cell}"{delimiter}{rest}'
