"""What commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: The shape and the colour of each status. The word is always there as well.
_STATUSES = {
    "pending": ("○", "bright_black"),
    "processing": ("◐", "blue"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("⊘", "magenta"),
}

Column = tuple[str, str]

#: Columns whose texts may be of any length.
_LONG = frozenset({"error", "message", "state", "queues", "type", "name", "queue", "host", "error_class"})

#: The width of what is written to a file or another program.
_WIDTH = 250


class Form(StrEnum):
    """The forms of what is printed."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"


class Printer:
    """Prints on stdout, and what is about the command itself on stderr. Colours are for terminals."""

    def __init__(self, form: Form) -> None:
        self.form = form
        width = None if sys.stdout.isatty() else _WIDTH
        self.out = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
        self.err = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    @property
    def is_for_people(self) -> bool:
        return self.form is Form.TABLE

    def rows(self, rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], *, empty: str) -> None:
        """Print rows; `columns` are keys and headings. `empty` is said of no rows."""
        if self.form is Form.NDJSON:
            for row in rows:
                self.line(row)
        elif self.form is Form.JSON:
            self._raw(json.dumps(plain(list(rows)), indent=2, ensure_ascii=False))
        else:
            self._table(list(rows), columns, empty)

    def facts(self, facts: Mapping[str, Any], shown: Sequence[Column]) -> None:
        """Print one thing. For people only what is `shown`, without what is empty."""
        if not self.is_for_people:
            indent = None if self.form is Form.NDJSON else 2
            self._raw(json.dumps(plain(facts), indent=indent, ensure_ascii=False))
            return
        grid = Table.grid(padding=(0, 2))
        for key, heading in shown:
            if facts.get(key) not in (None, [], ""):
                grid.add_row(Text(heading, style="bright_black"), cell(key, facts[key]))
        self.out.print(grid)

    def line(self, value: object) -> None:
        """Print JSON in a line."""
        self._raw(json.dumps(plain(value), ensure_ascii=False))

    def say(self, text: str) -> None:
        """Print a sentence about what was done, for people."""
        if self.is_for_people:
            self.out.print(Text(text))

    def note(self, text: str) -> None:
        """Print a sentence on stderr."""
        self.err.print(Text(text))

    def _table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], empty: str) -> None:
        if not rows:
            self.note(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for key, heading in columns:
            is_number = any(isinstance(row.get(key), int | float) for row in rows)
            # What is long is cut, and ids, which are there to be copied, are not.
            least = max(len(cell(key, row.get(key))) for row in rows) if key not in _LONG else 8
            table.add_column(
                heading, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis", min_width=least
            )
        for row in rows:
            table.add_row(*(cell(key, row.get(key)) for key, _ in columns))
        self.out.print(table, soft_wrap=False)

    def _raw(self, text: str) -> None:
        self.out.file.write(f"{text}\n")


def cell(key: str, value: Any) -> Text:  # noqa: ANN401 - a value of the API
    """Return a value as it is shown to people. It can change neither colours nor the terminal."""
    if value is None:
        return Text("—", style="bright_black")
    if key == "status":
        shape, colour = _STATUSES.get(value, ("", ""))
        return Text(f"{shape} {value}", style=colour)
    if key in ("pid", "id"):
        return Text(str(value))
    return Text(ago(value) if key.endswith("_at") else visible(_words(value)))


def _words(value: Any) -> str:  # noqa: ANN401 - as above
    match value:
        case list():
            return ", ".join(map(str, value))
        case float():
            return f"{value:,.1f}"
        case int():
            return f"{value:,}"
    return str(value)


def visible(text: str) -> str:
    """Return a text in one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def ago(time: str | datetime) -> str:
    """Return how long ago a time was, or in how long it comes."""
    moment = time if isinstance(time, datetime) else datetime.fromisoformat(time)
    seconds = (datetime.now(UTC) - moment).total_seconds()
    text = duration(abs(seconds))
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def duration(seconds: float) -> str:
    """Return 84 ms, 4 s, 3 min, 2 h or 4 d."""
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    for limit, size, unit in ((60, 1, "s"), (3_600, 60, "min"), (86_400, 3_600, "h")):
        if seconds < limit:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 86_400:.0f} d"


def plain(value: object) -> Any:  # noqa: ANN401 - any JSON
    """Return structs, dates and ids as JSON has them."""
    return msgspec.to_builtins(value)
