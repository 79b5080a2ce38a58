"""What PostgreSQL's `jsonb` forgets of a JSON text, and what it cannot hold."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any, NoReturn

#: A number with more characters is not taken. PostgreSQL's numbers end at 16,383 digits behind the point.
MAX_NUMBER_CHARACTERS = 1_000

#: Powers of ten: more than a float has, far less than PostgreSQL's numbers.
_MAX_EXPONENT = 400


def gives_back(text: str) -> bool:
    """Tell whether the text would come back with its names in their order and its numbers in their spelling.

    Blanks between values, and escapes of characters that need none, make no difference.
    """
    try:
        _DIFFERENCES.decode(text)
    except (_Differs, RecursionError):
        return False
    return True


def check_storable(text: str) -> None:
    """Raise `ValueError` for what is no JSON value that `jsonb` holds. Characters are not looked at."""
    _STORABLE.decode(text)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of an object. Raises `ValueError` for a name that stands twice: `jsonb` keeps one of them."""
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)
        raise ValueError(f"the name {times.most_common(1)[0][0][:64]!r} stands twice in one object")
    return found


def no_constant(name: str) -> NoReturn:
    """Raise `ValueError` for the constants that Python's reader takes."""
    raise ValueError(f"{name} is not a JSON number")


class _Differs(Exception):
    """The way out of a reader that needs to read no further."""


def _in_order(pairs: list[tuple[str, Any]]) -> None:
    places = [_place(name) for name, _ in pairs]
    if any(place >= following for place, following in pairwise(places)):
        raise _Differs


def _place(name: str) -> tuple[int, bytes]:
    """Return what `jsonb` sorts the names of an object by."""
    encoded = name.encode("utf-8", "surrogatepass")
    return len(encoded), encoded


def _in_plain_digits(number: str) -> None:
    """`jsonb` writes exponents out and has no negative zero; all other digits it keeps, trailing zeros as well."""
    if "e" in number or "E" in number or (number[0] == "-" and not number.strip("-0.")):
        raise _Differs


def _in_range(number: str) -> None:
    if len(number) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"a number has more than {MAX_NUMBER_CHARACTERS} characters")
    if abs(int(number.lower().partition("e")[2] or 0)) > _MAX_EXPONENT:
        raise ValueError(f"a number's exponent is beyond {_MAX_EXPONENT}")


_DIFFERENCES = json.JSONDecoder(
    object_pairs_hook=_in_order, parse_float=_in_plain_digits, parse_int=_in_plain_digits, parse_constant=no_constant
)
_STORABLE = json.JSONDecoder(
    object_pairs_hook=unique, parse_float=_in_range, parse_int=_in_range, parse_constant=no_constant
)
