"""Request bodies: only JSON that PostgreSQL can store and that all parsers read the same way."""

import codecs
import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TypeVar

import falcon
import msgspec
from falcon.asgi import Request

from jobs_service.api.threads import Threads
from jobs_service.errors import InvalidRequest, MalformedBody
from jobs_service.jobs import jsonb
from jobs_service.jobs.validation import decoded, invalid

#: How deeply arrays and objects may be nested.
MAX_DEPTH = 32

#: Decoding a larger body would stop the event loop for more than a few milliseconds.
LARGE_BYTES = 32_768

#: The limits of a number's absolute value. `jsonb` writes out every digit: 300 zeros for 1e300, fifty times its length.
SMALLEST, LARGEST = Decimal("1e-64"), Decimal("1e64")

#: The media types of bodies, where a route takes no others.
JSON = ("application/json",)

T = TypeVar("T")


class BodyReader:
    """Reads request bodies of at most `max_bytes`. Large ones are decoded in a thread."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        # Not those of other calls: while PostgreSQL does not answer, they may all be occupied.
        self._threads = Threads(1)

    async def read(self, req: Request, form: type[T], *, media_types: Sequence[str] = JSON) -> T:
        """Decode the body as the type `form`. Raises `InvalidRequest` with a pointer, or Falcon's 411, 413 and 415."""
        return await self.decoded(await read_bytes(req, self.max_bytes, media_types), form)

    async def raw(self, req: Request) -> bytes:
        """Return the body as it was sent. Raises `MalformedBody`, or Falcon's 411, 413 and 415."""
        return await read_bytes(req, self.max_bytes)

    async def decoded(self, raw: bytes, form: type[T]) -> T:
        """Decode a body. Raises `InvalidRequest` with a pointer."""
        if len(raw) > LARGE_BYTES:
            return await self._threads.run(decode, raw, form)
        return decode(raw, form)

    async def read_if_any(self, req: Request, form: type[T]) -> T | None:
        """Decode the body like `read`. None: the request has no body."""
        raw = await self.raw_if_any(req)
        return None if raw is None else await self.decoded(raw, form)

    async def raw_if_any(self, req: Request) -> bytes | None:
        """Return the body like `raw`. None: the request has no body."""
        is_chunked = "chunked" in (req.get_header("Transfer-Encoding") or "").lower()
        return await self.raw(req) if req.content_length or is_chunked else None


def decode(raw: bytes, form: type[T]) -> T:
    """Return the body as the type `form`. Raises `InvalidRequest` with a pointer."""
    check(raw)
    try:
        value: T = decoded(raw.removeprefix(codecs.BOM_UTF8), form)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    return value


def check(raw: bytes) -> None:
    """Raise `MalformedBody` if the body is not JSON, and `InvalidRequest` if it is, but cannot be stored."""
    try:
        # A parser may ignore a byte order mark (RFC 8259, section 8.1).
        value = READER.decode(raw.decode("utf-8-sig"))
    except RecursionError:
        raise MalformedBody(f"the body is nested more than {MAX_DEPTH} deep") from None
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from None
    check_value(value)


def check_value(value: object) -> None:
    """Raise `InvalidRequest` if a value that `READER` has decoded cannot be stored."""
    _check(value, None, MAX_DEPTH)


def media_type_of(req: Request) -> str:
    """Return the media type of a request's body, without parameters; "" if it says none."""
    return (req.content_type or "").partition(";")[0].strip().lower()


async def read_bytes(req: Request, max_bytes: int, media_types: Sequence[str] = JSON) -> bytes:
    """Return the body of a request. Raises `MalformedBody`, or Falcon's 411, 413 and 415."""
    if media_type_of(req) not in media_types:
        raise falcon.HTTPUnsupportedMediaType(description=f"Send the body as Content-Type: {' or '.join(media_types)}.")
    if (req.get_header("Content-Encoding") or "identity").strip().lower() != "identity":
        raise falcon.HTTPUnsupportedMediaType(
            # The accepted encodings (RFC 9110, section 12.5.3).
            description="Send the body without a Content-Encoding.",
            headers={"Accept-Encoding": "identity"},
        )
    if req.content_length is None and "chunked" not in (req.get_header("Transfer-Encoding") or "").lower():
        raise falcon.HTTPLengthRequired(description="Send a body with a Content-Length header.")
    if (req.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    body: bytes = await req.stream.read(max_bytes + 1 if req.content_length is None else req.content_length)
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    if req.content_length is not None and len(body) < req.content_length:
        raise MalformedBody("the body is shorter than its Content-Length")
    return body


def _too_large(max_bytes: int) -> falcon.HTTPContentTooLarge:
    return falcon.HTTPContentTooLarge(description=f"Send a body of at most {max_bytes} bytes.")


def _number(digits: str) -> Decimal:
    """Return the number with all its digits: NaN if it has too many, infinity if its exponent has."""
    if len(digits) > jsonb.MAX_NUMBER_CHARACTERS:
        return Decimal("NaN")
    try:
        return Decimal(digits)
    except InvalidOperation:
        return Decimal("Infinity")


def _integer(digits: str) -> int | Decimal:
    """Return a short one, as most are, as what needs no further check."""
    return int(digits) if len(digits) <= _SHORT else _number(digits)


_SHORT = 18

#: Reads JSON that all parsers read in the same way, and raises `ValueError` for any other.
READER = json.JSONDecoder(
    object_pairs_hook=jsonb.unique, parse_constant=jsonb.no_constant, parse_float=_number, parse_int=_integer
)


#: The names and indexes that lead to a value, the last one first. Only what is refused needs them as a pointer.
_Path = tuple["_Path", str | int] | None


def _check(value: object, path: _Path, depth: int) -> None:
    """Refuse values that JSON allows but PostgreSQL or other JSON parsers do not."""
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, Decimal):
        _check_number(value, path)
    elif isinstance(value, (dict, list)):
        if depth == 0:
            raise MalformedBody(f"the body is nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            for name, item in value.items():
                _check_text(name, path)
                _check(item, (path, name), depth - 1)
        else:
            for index, item in enumerate(value):
                _check(item, (path, index), depth - 1)


def _check_number(number: Decimal, path: _Path) -> None:
    if number.is_nan():
        detail = f"a number must have at most {jsonb.MAX_NUMBER_CHARACTERS} characters"
        raise InvalidRequest(detail, pointer=_pointer(path))
    # Zero may have an exponent too.
    is_zero = number.is_zero() and abs(number.adjusted()) <= jsonb.MAX_NUMBER_CHARACTERS
    # Not abs(), because it rounds.
    if not (is_zero or SMALLEST < number.copy_abs() < LARGEST):
        detail = "a number must be 0, or have an absolute value between 1e-64 and 1e64"
        raise InvalidRequest(detail, pointer=_pointer(path))


def _check_text(text: str, path: _Path) -> None:
    if "\0" in text:
        detail = "a text must not contain NUL characters: PostgreSQL cannot store them"
        raise InvalidRequest(detail, pointer=_pointer(path))
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        detail = "a text must not contain lone surrogates: they are not characters"
        raise InvalidRequest(detail, pointer=_pointer(path))


def _pointer(path: _Path) -> str:
    pointer = ""
    while path is not None:
        path, name = path
        pointer = f"/{escape(str(name))}{pointer}"
    return pointer


def escape(name: str) -> str:
    """Return a name as a step of a JSON pointer (RFC 6901, section 3), shortened for display."""
    return name.replace("~", "~0").replace("/", "~1").encode("utf-8", "replace").decode()[:128]
