r"""csv-generation: a flat object becomes a file of keys and values, a list of objects a table.

An object with `rows` is a table that says how it is to be written. Else the file is UTF-8 without a byte order mark and
comma separated. Lines end in "\n". Quoting is RFC 4180's.
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

#: Rows times columns. Small rows with a different key each would otherwise grow, as a table, with the square of
#: their number: one request of a megabyte could ask for ten thousand million empty cells.
MAX_CELLS = 5_000_000

#: What makes a spreadsheet read a cell as a formula. Compared after NFKC, so the full-width forms are among them.
FORMULA_STARTS = frozenset("=+-@")

#: A signed number and nothing else, which runs nothing: an amount that was sent as a text is to be counted with.
_SIGNED_NUMBER = re.compile(r"[+-](?:[0-9]+(?:[.,][0-9]+)*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?")

#: Excel takes a file whose first two bytes are these for SYLK, and does not open it.
_SYLK = "ID"

_BYTE_ORDER_MARK = "\ufeff"


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload's object form: rows, and how they are to be written."""

    rows: list[Row]
    #: What the file has, in this order; without it, the union of the rows' keys.
    columns: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    delimiter: Literal[",", ";", "\t", "|"] | None = None
    bom: bool | None = None

    def __post_init__(self) -> None:
        """Check what the types cannot say. Raises `InvalidRequest`."""
        rows, header = len(self.rows), self.header
        if len(set(header)) < len(header):
            name = Counter(header).most_common(1)[0][0]
            raise InvalidRequest(f"the column {name[:64]!r} is named twice", pointer="/payload/columns")
        if rows * len(header) > MAX_CELLS:
            sentence = f"{rows} rows under {len(header)} different keys are more than {MAX_CELLS} cells"
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
    """Refuse a table that cannot be written, or is too sparse to be written out. Raises `InvalidRequest`."""
    _table(payload)


@job("csv-generation", payload=Payload, check=fits, decimals=True)
def generate_csv(payload: Payload, context: JobContext) -> str:
    """Write the file and return its reference, "output/<job-id>.csv"."""
    return context.outputs.write(f"{context.job_id}.csv", to_csv(payload).encode())


def to_csv(payload: Payload) -> str:
    if table := _table(payload):
        mark = _BYTE_ORDER_MARK if table.bom else ""
        return mark + _written(table.lines(), table.delimiter or ",")
    return _written([("key", "value"), *payload.items()], ",") if isinstance(payload, dict) else ""


def _table(payload: Payload) -> Table | None:
    """Return the table that is meant; None for an object of entries. Raises `InvalidRequest`."""
    if isinstance(payload, list):
        return Table(rows=payload)
    if not _has_rows(payload):
        return None
    try:
        return msgspec.convert(payload, Table)
    except msgspec.ValidationError as error:
        raise invalid(error, below="/payload") from None


def _has_rows(payload: Row) -> bool:
    """Tell the object form from an object of entries, one of which happens to be called "rows"."""
    rows = payload.get("rows")
    return isinstance(rows, list) and (not rows or isinstance(rows[0], dict))


def _written(rows: Iterable[Iterable[object]], delimiter: str) -> str:
    lines = _Lines(delimiter)
    writer = csv.writer(lines, delimiter=delimiter)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return "".join(lines)


_encode = json.JSONEncoder(ensure_ascii=False).encode
#: The line breaks that JSON leaves as they are. Behind one, a formula could begin inside a JSON text.
_LINE_BREAKS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})


def _cell(value: object) -> str:
    """Return the cell's text. Only strings can be formulas: a number is a number, and a JSON text starts as one."""
    if value is None:
        return ""
    if isinstance(value, str):
        return neutralise(value)
    return _json(value).translate(_LINE_BREAKS)


def _json(value: object) -> str:
    """Return compact JSON in which every number stands with all its digits and without an exponent.

    "1e-05" is a text to some of a file's readers, and the standard library's encoder writes no `Decimal`.
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
    """Put an apostrophe before what a spreadsheet would run as a formula.

    Looked for at the start and, because some programs split a quoted cell at its line breaks, at the start of each
    line of the text, after any blank or invisible characters. A TAB or CR in front counts by itself. A text that is
    wholly a number is one.
    """
    if text[:1].isalnum() and text.isprintable():  # nearly every text: one line that begins with a letter or a digit
        return text
    if _SIGNED_NUMBER.fullmatch(text):
        return text
    guarded = "".join(f"'{line}" if _is_formula(line) else line for line in text.splitlines(keepends=True))
    return f"'{guarded}" if guarded.startswith(("\t", "\r")) else guarded


def _is_formula(line: str) -> bool:
    first = next((character for character in line if not _is_invisible(character)), "")
    return unicodedata.normalize("NFKC", first) in FORMULA_STARTS


def _is_invisible(character: str) -> bool:
    """Tell separators, controls and format characters (zero-width space, byte order mark, …) from ink."""
    return unicodedata.category(character)[0] in "CZ"


class _Lines(list[str]):
    r"""Takes the rows of a `csv.writer` and ends them in "\n".

    Not by its `lineterminator`: with that set to "\n", Python 3.11 and 3.12 leave a lone "\r" inside a cell unquoted,
    and readers then see a row too many.
    """

    def __init__(self, delimiter: str) -> None:
        super().__init__()
        self._delimiter = delimiter

    def write(self, row: str) -> None:
        line = row.removesuffix("\r\n")
        self.append((line if self else self._guarded(line)) + "\n")

    def _guarded(self, line: str) -> str:
        """Quote the file's first cell where the file would else begin as SYLK does."""
        if not line.startswith(_SYLK):
            return line
        cell, delimiter, rest = line.partition(self._delimiter)
        return f'"{cell}"{delimiter}{rest}'
