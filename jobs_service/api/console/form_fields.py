"""Fields of forms: those for the properties of a JSON Schema, and what is typed as JSON and back.

Numbers keep their digits and JSON its spelling: what is typed stays text until the API reads it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

import msgspec

from jobs_service.api.console.formats import local_time, utc_time

#: A text that may be longer has room for several lines.
LINE_CHARACTERS = 1_000

#: Patterns that Python and browsers read in the same way: characters and ranges of them, with a repetition.
_PORTABLE = re.compile(
    r"\^((?:(?:[A-Za-z0-9_]|\[(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_])+\])(?:[+*?]|\{\d+(?:,\d*)?\})?)+)\$"
)

#: A number as JSON spells it (RFC 8259, section 6).
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")

#: A date as a browser's field takes it.
_DATE = re.compile(r"\d{4}-\d\d-\d\d")

#: What a text has to be, by the `format` of JSON Schema.
_FORMATS = {
    "date-time": "a date and time, such as 2026-11-26T09:30:00Z",
    "time": "a time, such as 09:30:00Z",
    "duration": "a duration, such as PT1H30M",
    "uuid": "a UUID",
    "decimal": "a decimal number",
}


class Kind(StrEnum):
    """How a field is shown and read."""

    TEXT = "text"
    LONG_TEXT = "long text"
    NUMBER = "number"
    CHECKBOX = "checkbox"
    #: One of a closed list. Its texts are JSON.
    CHOICE = "choice"
    DATE = "date"
    #: A date and a time in UTC.
    MOMENT = "moment"
    #: A list of texts, one on each line.
    LINES = "lines"
    JSON = "json"
    #: A text as it is, or JSON that begins with a bracket.
    TEXT_OR_JSON = "text or json"


class Choice(msgspec.Struct, frozen=True):
    """A value that a field can have: its JSON, and what is shown for it."""

    text: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of a form: a property of a payload, or an option of a submission."""

    name: str
    kind: Kind
    is_required: bool = False
    #: What is shown in place of the name.
    label: str = ""
    description: str = ""
    #: What else is said about it: limits, format, default.
    hints: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    minimum: float | None = None
    maximum: float | None = None
    #: Whether the number is an integer.
    is_whole: bool = False
    #: For the browser, "" where only the API can check it.
    pattern: str = ""
    default: Any = None

    def json_of(self, text: str) -> bytes | None:
        """Return what was typed as JSON; None: the payload has no such member. Raises `ValueError` with a sentence."""
        text = text.replace("\r\n", "\n")
        if self.kind is Kind.CHECKBOX:
            return b"true" if text else b"false" if self.is_required or self.default is True else None
        if not text.strip() and (not text or self.kind not in (Kind.TEXT, Kind.LONG_TEXT)):
            return None
        return _READERS[self.kind](text)

    def text_of(self, value: bytes) -> str:
        """Return the text that stands for this JSON in the field."""
        return "" if value == b"null" else _WRITERS[self.kind](value)


def fields_of(schema: Mapping[str, Any]) -> list[Field] | None:
    """Return the fields for the payloads of a JSON Schema, None if they are not objects with known properties."""
    definitions = schema.get("$defs", {})
    whole = _resolved(schema, definitions)
    if not whole.get("properties") or whole.get("type") != "object":
        return None
    required = whole.get("required", ())
    return [_field(name, part, definitions, name in required) for name, part in whole["properties"].items()]


def initial_texts(fields: Sequence[Field]) -> dict[str, str]:
    """Return what an untouched form has: checks for what is true by default."""
    return {item.name: "on" for item in fields if item.kind is Kind.CHECKBOX and item.default is True}


def payload_of(fields: Sequence[Field], typed: Mapping[str, str]) -> tuple[msgspec.Raw, dict[str, str]]:
    """Return the payload that was typed, as JSON, and what is wrong with it by the names of fields."""
    members, wrong = {}, {}
    for item in fields:
        try:
            found = item.json_of(typed.get(item.name, ""))
        except ValueError as error:
            wrong[item.name] = str(error)
            continue
        if found is not None:
            members[item.name] = msgspec.Raw(found)
    return msgspec.Raw(msgspec.json.encode(members)), wrong


def texts_of(fields: Sequence[Field], payload: bytes) -> dict[str, str] | None:
    """Return the texts that stand for a payload, None where a form cannot have all of it as it is."""
    try:
        members = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return None
    named = {item.name: item for item in fields}
    if not members.keys() <= named.keys():
        return None
    typed = initial_texts(fields) | {name: named[name].text_of(bytes(raw)) for name, raw in members.items()}
    # A browser changes these.
    if any("\r" in text or "\0" in text for text in typed.values()):
        return None
    back, wrong = payload_of(fields, typed)
    return None if wrong or not _are_equal(bytes(back), members, named) else typed


def json_text(text: str) -> bytes:
    """Return JSON that was typed, as it is. Raises `ValueError` with a sentence that says where it ends to be JSON."""
    raw = text.encode("utf-8", "replace")
    try:
        return bytes(msgspec.json.decode(raw, type=msgspec.Raw))
    except RecursionError:
        raise ValueError("The JSON is nested too deeply.") from None
    except msgspec.DecodeError as error:
        raise ValueError(_located(str(error), raw)) from None


def pretty_json(raw: bytes) -> str:
    """Return JSON with indented lines, and with the digits that it has."""
    return msgspec.json.format(raw, indent=2).decode("utf-8", "replace")


def _located(sentence: str, raw: bytes) -> str:
    """Return msgspec's sentence with a line and a column in place of a byte."""
    reason = re.sub(r"^JSON is malformed: | \(byte \d+\)$", "", sentence)
    found = re.search(r"\(byte (\d+)\)$", sentence)
    before = raw[: int(found[1])] if found else raw
    line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
    return f"This is not JSON: {reason[:1].lower()}{reason[1:]}, in line {line}, column {column}."


def _are_equal(back: bytes, members: Mapping[str, msgspec.Raw], named: Mapping[str, Field]) -> bool:
    read = msgspec.json.decode(back, type=dict[str, msgspec.Raw])
    given = {name: raw for name, raw in members.items() if bytes(raw) != b"null" or named[name].is_required}
    # A box says what its absence says.
    implied = {name for name in read.keys() - members.keys() if _value(read[name]) == repr(named[name].default)}
    return read.keys() - implied == given.keys() and all(_value(read[name]) == _value(given[name]) for name in given)


def _value(raw: msgspec.Raw) -> str:
    """Return what is equal for equal values, with all the digits of numbers."""
    return repr(msgspec.json.Decoder(float_hook=Decimal).decode(raw))


# ---- From a schema to fields ----


def _field(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any], is_required: bool) -> Field:
    branches = [_resolved(part, definitions) for part in schema.get("anyOf", [schema])]
    branches = [part for part in branches if part.get("type") != "null"]
    only = branches[0] if len(branches) == 1 else {}
    kind = _kind(branches)
    return Field(
        name=name,
        kind=kind,
        is_required=is_required,
        description=schema.get("description") or _inline_description(schema),
        hints=list(_hints(kind, only, schema)),
        choices=_choices(only),
        minimum=only.get("minimum"),
        maximum=only.get("maximum"),
        is_whole=only.get("type") == "integer",
        pattern=_pattern(only),
        default=schema.get("default"),
    )


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref", "")
    found: Mapping[str, Any] = definitions.get(reference.removeprefix("#/$defs/"), schema)
    return found


def _inline_description(schema: Mapping[str, Any]) -> str:
    return next((part["description"] for part in schema.get("anyOf", ()) if "description" in part), "")


def _kind(branches: Sequence[Mapping[str, Any]]) -> Kind:
    if len(branches) == 1:
        return _simple_kind(branches[0])
    types = {part.get("type") for part in branches}
    return Kind.TEXT_OR_JSON if "string" in types and types <= {"string", "array", "object"} else Kind.JSON


def _simple_kind(schema: Mapping[str, Any]) -> Kind:
    if "enum" in schema or "const" in schema:
        return Kind.CHOICE
    match schema.get("type"):
        case "string" if schema.get("format") == "date":
            return Kind.DATE
        case "string":
            return Kind.LONG_TEXT if schema.get("maxLength", 0) > LINE_CHARACTERS else Kind.TEXT
        case "integer" | "number":
            return Kind.NUMBER
        case "boolean":
            return Kind.CHECKBOX
    return Kind.JSON


def _choices(schema: Mapping[str, Any]) -> list[Choice]:
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [
        Choice(msgspec.json.encode(value).decode(), value if isinstance(value, str) else _shown(value))
        for value in values
    ]


def _pattern(schema: Mapping[str, Any]) -> str:
    found = _PORTABLE.fullmatch(schema.get("pattern", ""))
    return found[1] if found else ""


def _hints(kind: Kind, schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[str]:
    if kind is Kind.TEXT_OR_JSON:
        yield "a text, or JSON that begins with a bracket"
    if kind is Kind.JSON:
        yield "JSON"
    yield from _limits(schema)
    if schema.get("format") in _FORMATS:
        yield _FORMATS[schema["format"]]
    if "contentEncoding" in schema:
        yield schema["contentEncoding"]
    if "pattern" in schema:
        yield f"of the form {schema['pattern']}"
    if whole.get("default") not in (None, False) and kind is not Kind.CHECKBOX:
        yield f"default: {_shown(whole['default'])}"


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    if sentence := _range(schema.get("minLength") or None, schema.get("maxLength")):
        yield f"{sentence} characters"
    if sentence := _range(schema.get("minimum"), schema.get("maximum")):
        yield sentence
    for name, words in (
        ("exclusiveMinimum", "more than"),
        ("exclusiveMaximum", "less than"),
        ("multipleOf", "a multiple of"),
    ):
        if name in schema:
            yield f"{words} {_shown(schema[name])}"


def _range(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f"{_shown(least)} to {_shown(most)}"
    if least is not None:
        return f"at least {_shown(least)}"
    return "" if most is None else f"at most {_shown(most)}"


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


# ---- Between texts and JSON ----


def _text_json(text: str) -> bytes:
    return msgspec.json.encode(text)


def _number_json(text: str) -> bytes:
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return text.encode()
    # Not spelled as JSON: .5, +3.
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise ValueError("This is not a number.")
    return str(number).encode()


def _moment_json(text: str) -> bytes:
    return _text_json(utc_time(text))


def _lines_json(text: str) -> bytes:
    return msgspec.json.encode([line.strip() for line in text.split("\n") if line.strip()])


def _text_or_json(text: str) -> bytes:
    if text.lstrip()[:1] in ("[", "{"):
        return json_text(text)
    return _text_json(text)


def _string(value: bytes) -> str:
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.DecodeError:
        return ""


def _date(value: bytes) -> str:
    text = _string(value)
    return text if _DATE.fullmatch(text) else ""


def _text_or_pretty(value: bytes) -> str:
    text = _string(value)
    return "" if text.lstrip()[:1] in ("[", "{") else text or pretty_json(value)


_READERS = {
    Kind.TEXT: _text_json,
    Kind.LONG_TEXT: _text_json,
    Kind.DATE: _text_json,
    Kind.MOMENT: _moment_json,
    Kind.LINES: _lines_json,
    Kind.NUMBER: _number_json,
    Kind.CHOICE: json_text,
    Kind.JSON: json_text,
    Kind.TEXT_OR_JSON: _text_or_json,
}

_WRITERS = {
    Kind.TEXT: _string,
    Kind.LONG_TEXT: _string,
    Kind.DATE: _date,
    Kind.MOMENT: lambda value: local_time(_string(value)),
    Kind.LINES: lambda value: "\n".join(msgspec.json.decode(value, type=list[str])),
    Kind.NUMBER: lambda value: value.decode(),
    Kind.CHECKBOX: lambda value: "on" if value == b"true" else "",
    Kind.CHOICE: lambda value: msgspec.json.encode(msgspec.json.decode(value)).decode(),
    Kind.JSON: pretty_json,
    Kind.TEXT_OR_JSON: _text_or_pretty,
}
