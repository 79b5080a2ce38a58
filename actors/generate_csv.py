r"""csv-generation: a flat object becomes a file of keys and values, a list of objects a table.

UTF-8 without a byte order mark, comma separated, lines end in "\n". Quoting is RFC 4180's.
"""

import csv
import json
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from jobs_service.errors import InvalidRequest
from jobs_service.registry import Attempt, job

Row = dict[str, Any]
Payload = Row | list[Row]

#: Rows times columns. Small rows with a different key each would otherwise grow, as a table, with the square of
#: their number: one request of a megabyte could ask for ten thousand million empty cells.
MAX_CELLS = 5_000_000

#: What makes a spreadsheet read a cell as a formula. Compared after NFKC, so the full-width forms are among them.
FORMULA_STARTS = frozenset("=+-@")


def fits(payload: Payload) -> None:
    """Refuse a table too sparse to be written out. Raises `InvalidRequest`."""
    if isinstance(payload, dict):
        return
    rows, columns = len(payload), len(_columns(payload))
    if rows * columns > MAX_CELLS:
        sentence = f"{rows} rows under {columns} different keys are more than {MAX_CELLS} cells"
        raise InvalidRequest(sentence, pointer="/payload")


@job("csv-generation", payload=Payload, check=fits)
def generate_csv(payload: Payload, attempt: Attempt) -> str:
    """Write the file and return its reference, "output/<job-id>.csv"."""
    return attempt.outputs.write(f"{attempt.job_id}.csv", to_csv(payload).encode())


def to_csv(payload: Payload) -> str:
    lines = _Lines()
    writer = csv.writer(lines)
    writer.writerows([_cell(value) for value in row] for row in _rows(payload))
    return "".join(lines)


def _rows(payload: Payload) -> Iterator[Iterable[object]]:
    if isinstance(payload, dict):
        yield "key", "value"
        yield from payload.items()
    elif columns := _columns(payload):
        yield columns
        yield from ([row.get(column) for column in columns] for row in payload)


def _columns(table: list[Row]) -> list[str]:
    """Return the union of the rows' keys, in the order in which they are first seen."""
    return list(dict.fromkeys(key for row in table for key in row))


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
#: The line breaks that JSON leaves as they are. Behind one, a formula could begin inside a JSON text.
_LINE_BREAKS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})


def _cell(value: object) -> str:
    """Return the cell's text. Only strings can be formulas: a number is a number, and a JSON text starts as one."""
    if value is None:
        return ""
    if isinstance(value, bool | list | dict):
        return _encode(value).translate(_LINE_BREAKS)
    return neutralise(value) if isinstance(value, str) else str(value)


def neutralise(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would run as a formula.

    Looked for at the start and, because some programs split a quoted cell at its line breaks, at the start of each
    line of the text, after any blank or invisible characters. A TAB or CR in front counts by itself.
    """
    if text[:1].isalnum() and text.isprintable():  # nearly every text: one line that begins with a letter or a digit
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

    def write(self, row: str) -> None:
        self.append(row.removesuffix("\r\n") + "\n")
