"""Request bodies: JSON, and only JSON that PostgreSQL can keep and every reader understands alike."""

import json
import math
from collections import Counter
from typing import Any, NoReturn, TypeVar

import falcon
import msgspec
from gunicorn.http.errors import ParseException

from jobs_service.errors import InvalidRequest, MalformedBody
from jobs_service.typed import invalid, without_nulls

#: How deep arrays and objects may be nested.
MAX_DEPTH = 32

#: PostgreSQL's JSON writes every digit out: 300 zeros for 1e300, fifty times what was sent.
SMALLEST, LARGEST = 1e-64, 1e64

_INT64 = range(-(2**63), 2**63)

T = TypeVar("T")


def read(req: falcon.Request, form: type[T], *, max_bytes: int) -> T:
    """Return the body as `form`. Raises `InvalidRequest` with a pointer, or Falcon's 411, 413 and 415."""
    value = parse(_bytes(req, max_bytes))
    try:
        return msgspec.convert(without_nulls(value, form), form)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


def parse(raw: bytes) -> object:
    """Return the JSON value. Raises `MalformedBody`, or `InvalidRequest` for what is JSON but cannot be kept."""
    try:
        # A byte order mark says nothing in UTF-8 and may be ignored (RFC 8259, section 8.1).
        value = json.loads(
            raw.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except RecursionError:
        raise MalformedBody(f"the body is nested more than {MAX_DEPTH} deep") from None
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    except ValueError as error:
        # Python refuses to read whole numbers of thousands of digits, with advice that is not for clients.
        fact = "a number has too many digits" if "set_int_max_str_digits" in str(error) else str(error)
        raise MalformedBody(f"the body is not JSON: {fact}") from None
    _check(value, "", MAX_DEPTH)
    return value


def _bytes(req: falcon.Request, max_bytes: int) -> bytes:
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise falcon.HTTPUnsupportedMediaType(description="Send the body as Content-Type: application/json.")
    if (req.get_header("Content-Encoding") or "identity").strip().lower() != "identity":
        raise falcon.HTTPUnsupportedMediaType(
            # What would be taken: RFC 9110, section 12.5.3.
            description="Send the body without a Content-Encoding.",
            headers={"Accept-Encoding": "identity"},
        )
    if req.content_length is None and "chunked" not in (req.get_header("Transfer-Encoding") or "").lower():
        raise falcon.HTTPLengthRequired(description="Send a body, with its Content-Length.")
    if (req.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    body = _read(req, max_bytes + 1 if req.content_length is None else req.content_length)
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _read(req: falcon.Request, count: int) -> bytes:
    """Read up to `count` bytes."""
    try:
        body: bytes = req.stream.read(count)
    except (OSError, ParseException):
        raise MalformedBody("the body is cut off, or its chunks are malformed") from None
    if req.content_length is not None and len(body) < req.content_length:
        raise MalformedBody("the body is shorter than its Content-Length")
    return body


def _too_large(max_bytes: int) -> falcon.HTTPContentTooLarge:
    return falcon.HTTPContentTooLarge(description=f"The body may have at most {max_bytes} bytes.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)
        raise ValueError(f"the name {times.most_common(1)[0][0][:64]!r} stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _check(value: object, pointer: str, depth: int) -> None:
    """Refuse what JSON allows and PostgreSQL or JSON's other readers do not."""
    if isinstance(value, str):
        _check_text(value, pointer)
    elif isinstance(value, int) and value not in _INT64:
        raise InvalidRequest("a whole number must fit in 64 bits", pointer=pointer)
    elif isinstance(value, float) and value and not SMALLEST < abs(value) < LARGEST:
        raise InvalidRequest(f"a number must lie between {SMALLEST:g} and {LARGEST:g}", pointer=pointer)
    elif isinstance(value, (dict, list)):
        if depth == 0:
            raise MalformedBody(f"the body is nested more than {MAX_DEPTH} deep")
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_text(str(name), pointer)
            _check(item, f"{pointer}/{escape(str(name))}", depth - 1)


def _check_text(text: str, pointer: str) -> None:
    if "\0" in text:
        raise InvalidRequest("NUL characters cannot be stored", pointer=pointer)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidRequest("a lone surrogate is not a character", pointer=pointer)


def escape(name: str) -> str:
    """Return a name as a step of a JSON pointer (RFC 6901, section 3), fit to be shown."""
    return name.replace("~", "~0").replace("/", "~1").encode("utf-8", "replace").decode()[:128]
