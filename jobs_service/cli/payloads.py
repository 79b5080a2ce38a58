"""Payloads on the command line: `name=Alice score:=95`, or a file."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

#: A word with one of these is a field: a text, JSON, the text of a file, the JSON of a file. The longest come first.
_SEPARATORS = (":=@", ":=", "=@", "=")


def payload_of(words: Sequence[str]) -> Any:  # noqa: ANN401 - any JSON
    """Return the payload that words describe. Raises `typer.BadParameter`.

    `name=Alice` is a text, `score:=95` is JSON, `body=@letter.txt` and `rows:=@rows.json` are read from files. A single
    `@payload.json` is the whole payload.
    """
    if len(words) == 1 and words[0].startswith("@"):
        return _json(_file(words[0][1:]), words[0])
    return dict(_field(word) for word in words)


def lines_of(source: Iterable[str]) -> Iterator[Any]:
    """Yield the JSON of each line that is not empty (NDJSON). Raises `typer.BadParameter`."""
    for number, line in enumerate(source, 1):
        if line.strip():
            yield _json(line, f"line {number}")


def _field(word: str) -> tuple[str, Any]:
    found = [(word.find(separator), separator) for separator in _SEPARATORS if separator in word]
    if not found:
        raise typer.BadParameter(f"{word!r} is no field: write name=text, name:=json, name=@file or name:=@file.json")
    place = min(place for place, _ in found)
    # Of those that begin there; ":=" begins a character before "=".
    separator = next(separator for at, separator in found if at <= place)
    name, _, value = word.partition(separator)
    text = _file(value) if separator.endswith("@") else value
    return name, _json(text, word) if separator.startswith(":") else text


def _file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}") from None


def _json(text: str, where: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{where[:80]}: not JSON: {error}") from None
