"""From a validation error of msgspec to the field it is about."""

import re

import msgspec

from jobs_service.errors import InvalidRequest

_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
#: These two name a field that the path, which ends at the object around it, leaves out.
_NAMED = re.compile(r"(?:missing required|contains unknown) field `(?P<name>[^`]*)`$")


def invalid(error: msgspec.ValidationError, *, below: str = "") -> InvalidRequest:
    """Return what the client is told: the fact, and a JSON pointer that starts with `below`."""
    message, pointer = str(error), below
    if found := _PATH.search(message):
        message = message[: found.start()]
        pointer += "".join(f"/{step['name'] or step['index']}" for step in _STEP.finditer(found["path"]))
    if named := _NAMED.search(message):
        pointer += f"/{named['name'][:64]}"
    return InvalidRequest(message, pointer=pointer)
