"""Decodes JSON into typed values: what null means, and which field a validation error is about."""

import re
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from jobs_service.errors import InvalidRequest

_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
#: These two messages name a field that the path does not include: it ends at the object around the field.
_NAMED = re.compile(r"(?:missing required|contains unknown) field `(?P<name>[^`]*)`$")

_encoder = msgspec.json.Encoder(decimal_format="number")


def encoded(value: object) -> bytes:
    """Return a value as JSON. A `Decimal` becomes a number with all its digits."""
    return _encoder.encode(value)


def decoded(text: bytes, form: Any, *, decimals: bool = False) -> Any:  # noqa: ANN401 - any type that msgspec takes
    """Decode JSON as the type `form`. If that is a struct, an optional field that is null counts as absent.

    Where the type does not say otherwise, a number with a point or an exponent becomes a `float` or, with `decimals`, a
    `Decimal`, which keeps all digits. Raises `msgspec.ValidationError`.
    """
    return _decoder(form, decimals=decimals).decode(_without_nulls(text, form))


@lru_cache(256)
def _decoder(form: Any, *, decimals: bool) -> "msgspec.json.Decoder[Any]":  # noqa: ANN401 - as above
    return msgspec.json.Decoder(form, float_hook=Decimal if decimals else None)


def _without_nulls(text: bytes, form: object) -> bytes:
    if not (b"null" in text and isinstance(form, type) and issubclass(form, msgspec.Struct)):
        return text
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return text  # not an object: decoding it as `form` reports that
    optional = {field.encode_name for field in msgspec.structs.fields(form) if not field.required}
    return encoded({name: raw for name, raw in members.items() if bytes(raw) != b"null" or name not in optional})


def invalid(error: msgspec.ValidationError, *, below: str = "") -> InvalidRequest:
    """Return the error for the client: the message, and a JSON pointer that starts with `below`."""
    message, pointer = str(error), below
    if found := _PATH.search(message):
        message = message[: found.start()]
        pointer += "".join(f"/{step['name'] or step['index']}" for step in _STEP.finditer(found["path"]))
    if named := _NAMED.search(message):
        pointer += f"/{named['name'][:64]}"
    return InvalidRequest(message, pointer=pointer)
