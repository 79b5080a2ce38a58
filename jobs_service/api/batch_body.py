"""The bodies of `POST /jobs/batch`, a JSON array or NDJSON. Their jobs are decoded one by one, not all at once."""

import codecs
import re
from collections.abc import Iterator

import msgspec

from jobs_service.api.request_body import READER, check_value, decode
from jobs_service.errors import InvalidRequest, MalformedBody
from jobs_service.jobs.validation import decoded, invalid
from jobs_service.submission.submit import Submission

#: The route. Its requests have a limit of their own (`http_protocol.py`).
PATH = "/jobs/batch"

JSON, NDJSON = "application/json", "application/x-ndjson"

#: What JSON ignores between values (RFC 8259, section 2).
_BLANKS = re.compile(r"[ \t\n\r]*")

Item = Submission | InvalidRequest


def items(raw: bytes, media_type: str, *, max_bytes: int) -> Iterator[Item]:
    """Yield each job of a body, or what is wrong with it. A job may have `max_bytes`.

    Raises `InvalidRequest` where the rest of the body cannot be read.
    """
    return _lines(raw, max_bytes) if media_type == NDJSON else _elements(raw, max_bytes)


def _lines(raw: bytes, max_bytes: int) -> Iterator[Item]:
    """Yield the jobs of NDJSON. Empty lines are ignored."""
    start = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
    while start < len(raw):
        end = raw.find(b"\n", start)
        end = len(raw) if end < 0 else end
        if end - start > max_bytes:
            yield _too_large(max_bytes)
        elif line := raw[start:end].strip():
            yield _line(line)
        start = end + 1


def _line(line: bytes) -> Item:
    try:
        return decode(line, Submission)
    except InvalidRequest as error:
        return error


def _elements(raw: bytes, max_bytes: int) -> Iterator[Item]:
    """Yield the jobs of a JSON array."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    place = _after_blanks(text, 0)
    if text[place : place + 1] != "[":
        _decoded(text, place)  # if it is no JSON either, that is what is wrong with it
        raise InvalidRequest("expected an array of jobs")
    place = _after_blanks(text, place + 1)
    goes_on = text[place : place + 1] != "]"
    while goes_on:
        value, end = _decoded(text, place)
        yield _element(value, text[place:end], max_bytes)
        place = _after_blanks(text, end)
        if goes_on := text[place : place + 1] == ",":
            place = _after_blanks(text, place + 1)
    if text[place : place + 1] != "]" or _after_blanks(text, place + 1) < len(text):
        raise MalformedBody(
            f"the body is not JSON: the array is not closed at character {place}, or does not end there"
        )


def _decoded(text: str, place: int) -> tuple[object, int]:
    """Return the JSON value that begins at this place, and where it ends."""
    try:
        return READER.raw_decode(text, place)
    except RecursionError:
        raise MalformedBody("the body is nested too deep") from None
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from None


def _element(value: object, text: str, max_bytes: int) -> Item:
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) > max_bytes:
        return _too_large(max_bytes)
    try:
        check_value(value)
        submission: Submission = decoded(encoded, Submission)
    except msgspec.ValidationError as error:
        return invalid(error)
    except InvalidRequest as error:
        return error
    return submission


def _after_blanks(text: str, place: int) -> int:
    found = _BLANKS.match(text, place)
    return found.end() if found else place


def _too_large(max_bytes: int) -> InvalidRequest:
    return InvalidRequest(f"a job must have at most {max_bytes} bytes")
