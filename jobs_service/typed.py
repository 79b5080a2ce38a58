"""Typed values from JSON: what a null means, and which field a validation error is about."""

import re
from typing import Any

import msgspec

from jobs_service.errors import InvalidRequest

_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
#: These two name a field that the path, which ends at the object around it, leaves out.
_NAMED = re.compile(r"(?:missing required|contains unknown) field `(?P<name>[^`]*)`$")


def without_nulls(value: object, form: Any) -> object:  # noqa: ANN401 - any type that msgspec takes
    """Return `value` without the optional fields that are null: null means absent. Only where `form` is a struct."""
    if not (isinstance(value, dict) and isinstance(form, type) and issubclass(form, msgspec.Struct)):
        return value
    optional = {field.encode_name for field in msgspec.structs.fields(form) if not field.required}
    return {name: item for name, item in value.items() if item is not None or name not in optional}


def invalid(error: msgspec.ValidationError, *, below: str = "") -> InvalidRequest:
    """Return what the client is told: the fact, and a JSON pointer that starts with `below`."""
    message, pointer = str(error), below
    if found := _PATH.search(message):
        message = message[: found.start()]
        pointer += "".join(f"/{step['name'] or step['index']}" for step in _STEP.finditer(found["path"]))
    if named := _NAMED.search(message):
        pointer += f"/{named['name'][:64]}"
    return InvalidRequest(message, pointer=pointer)
