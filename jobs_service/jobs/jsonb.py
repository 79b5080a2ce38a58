"""What PostgreSQL's `jsonb` changes in a JSON text, and what it cannot store."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any, NoReturn

#: The maximum length of a number. PostgreSQL's `numeric` ends at 16,383 digits after the decimal point.
MAX_NUMBER_CHARACTERS = 1_000

#: The maximum power of ten: more than a float has, and far less than PostgreSQL's `numeric`.
_MAX_EXPONENT = 400


def preserves(text: str) -> bool:
    """Tell whether `jsonb` would return the text with its names in the same order and its numbers spelled the same.

    Spaces between values, and needless escapes in strings, are not compared.
    """
    try:
        _DIFFERENCES.decode(text)
    except (_Differs, RecursionError):
        return False
    return True


def check_storable(text: str) -> None:
    """Raise `ValueError` unless the text is a JSON value that `jsonb` can store. Characters are not checked."""
    _STORABLE.decode(text)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of an object. Raises `ValueError` for a duplicate name: `jsonb` would keep just one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)
        raise ValueError(f"the name {times.most_common(1)[0][0][:64]!r} occurs more than once in one object")
    return found


def no_constant(name: str) -> NoReturn:
    """Raise `ValueError` for NaN and Infinity, which Python's parser accepts."""
    raise ValueError(f"{name} is not a JSON number")


class _Differs(Exception):
    """Stops the parser at the first difference."""


def _in_order(pairs: list[tuple[str, Any]]) -> None:
    places = [_place(name) for name, _ in pairs]
    if any(place >= following for place, following in pairwise(places)):
        raise _Differs


def _place(name: str) -> tuple[int, bytes]:
    """Return the key by which `jsonb` sorts the names of an object."""
    encoded = name.encode("utf-8", "surrogatepass")
    return len(encoded), encoded


def _in_plain_digits(number: str) -> None:
    """Check a number. `jsonb` expands exponents and has no negative zero; it keeps all other digits."""
    if "e" in number or "E" in number or (number[0] == "-" and not number.strip("-0.")):
        raise _Differs


def _in_range(number: str) -> None:
    if len(number) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"a number has more than {MAX_NUMBER_CHARACTERS} characters")
    if abs(int(number.lower().partition("e")[2] or 0)) > _MAX_EXPONENT:
        raise ValueError(f"a number's exponent must be from -{_MAX_EXPONENT} to {_MAX_EXPONENT}")


_DIFFERENCES = json.JSONDecoder(
    object_pairs_hook=_in_order, parse_float=_in_plain_digits, parse_int=_in_plain_digits, parse_constant=no_constant
)
_STORABLE = json.JSONDecoder(
    object_pairs_hook=unique, parse_float=_in_range, parse_int=_in_range, parse_constant=no_constant
)
