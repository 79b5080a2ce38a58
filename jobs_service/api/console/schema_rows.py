"""A JSON Schema as the rows of a table: one for each field, those of nested objects below their own."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

Schema = Mapping[str, Any]

#: Rows of a table, levels of nesting, and values of an enumeration that are listed.
MAX_ROWS, MAX_DEPTH, MAX_VALUES = 200, 6, 30

#: What a schema says of a value -> a sentence about it.
_RULES = {
    "format": "format {}",
    "pattern": "matches {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "{} or more",
    "maximum": "{} or less",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minProperties": "at least {} members",
    "maxProperties": "at most {} members",
}


#: The types that have another word here.
_WORDS = {None: "anything", "string": "text"}

#: Of these, 1 has a simpler sentence.
_LEAST = ("minLength", "minItems", "minProperties")


class Row(NamedTuple):
    """A field: `name` is its path, with [] for the items of an array. The payload itself has the name "payload"."""

    name: str
    type: str
    is_required: bool
    rules: list[str]
    default: str
    description: str


def rows(schema: Schema) -> list[Row]:
    """Return the rows of a payload's schema, as msgspec writes it: no more than `MAX_ROWS`."""
    table = _Table(schema.get("$defs", {}))
    root = table.resolved(schema)
    own = [] if "properties" in root else [table.row("payload", root, is_required=True)]
    return [*own, *islice(table.fields("", root, ()), MAX_ROWS - len(own))]


class _Table:
    """Follows the references of one schema."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self.definitions = definitions

    def resolved(self, schema: Schema) -> Schema:
        """Return what a reference leads to, and any other schema as it is."""
        for _ in range(MAX_DEPTH):
            name = schema.get("$ref", "").removeprefix("#/$defs/")
            if name not in self.definitions:
                break
            schema = {**self.definitions[name], **{key: value for key, value in schema.items() if key != "$ref"}}
        return schema

    def fields(self, path: str, schema: Schema, above: tuple[str, ...]) -> Iterator[Row]:
        """Yield the fields of the objects that a value may be, be contained in, or have as items."""
        for place, form in self._objects(path, schema):
            title = str(form.get("title", ""))
            if len(above) >= MAX_DEPTH or (title and title in above):
                continue
            required = form.get("required", ())
            for name, child in form["properties"].items():
                field, found = f"{place}.{name}" if place else name, self.resolved(child)
                yield self.row(field, found, is_required=name in required)
                yield from self.fields(field, found, (*above, title))

    def row(self, name: str, schema: Schema, *, is_required: bool) -> Row:
        default = json.dumps(schema["default"], ensure_ascii=False) if schema.get("default") is not None else ""
        return Row(
            name,
            self.words(schema),
            is_required,
            self._all_rules(schema),
            default,
            str(schema.get("description", "")),
        )

    def words(self, schema: Schema, depth: int = 0) -> str:
        """Return the type of a value in words, such as: text or array of text."""
        if options := self._options(schema):
            return " or ".join(dict.fromkeys(self.words(option, depth) for option in options if _is_value(option)))
        if "enum" in schema or "const" in schema:
            return "one of a list"
        inner = schema.get("items") or schema.get("additionalProperties")
        name = schema.get("type")
        if isinstance(inner, Mapping) and depth < MAX_DEPTH:
            return f"{name} of {self.words(self.resolved(inner), depth + 1)}"
        return " or ".join(name) if isinstance(name, list) else _WORDS.get(name, str(name))

    def _all_rules(self, schema: Schema) -> list[str]:
        """Return the rules for a value, without those for its items that hold for the value itself, too."""
        found = dict.fromkeys(self._rules(schema))
        return [rule for rule in found if rule.removeprefix("each ") not in found or not rule.startswith("each ")]

    def _rules(self, schema: Schema) -> Iterator[str]:
        values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if values:
            yield _listed(values)
        yield from (_rule(name, schema[name]) for name in _RULES if name in schema)
        for option in self._options(schema):
            yield from self._rules(option)
        for contained in self._contained(schema):
            yield from (f"each {rule}" for rule in self._rules(contained))

    def _objects(self, path: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
        """Yield (path, schema) of the objects with fields that a value may be, or have as its items."""
        if "properties" in schema:
            yield path, schema
        for option in self._options(schema):
            yield from self._objects(path, option)
        for contained in self._contained(schema):
            yield from self._objects(f"{path}[]", contained)

    def _options(self, schema: Schema) -> list[Schema]:
        return [self.resolved(option) for option in schema.get("anyOf") or schema.get("oneOf") or ()]

    def _contained(self, schema: Schema) -> list[Schema]:
        """Return the schemas of an array's items and of an object's further members, where they say something."""
        found = (schema.get("items"), schema.get("additionalProperties"))
        return [self.resolved(contained) for contained in found if isinstance(contained, Mapping)]


def _rule(name: str, value: Any) -> str:  # noqa: ANN401 - a number or a text
    if name in _LEAST and value == 1:
        return "not empty"
    return _RULES[name].format(value if isinstance(value, str) else f"{value:,}")


def _is_value(schema: Schema) -> bool:
    """Tell whether a schema is for more than null, which an optional field may be."""
    return schema.get("type") != "null"


def _listed(values: Iterable[object]) -> str:
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    return ", ".join(texts[:MAX_VALUES]) + (f", and {len(texts) - MAX_VALUES} more" if len(texts) > MAX_VALUES else "")
