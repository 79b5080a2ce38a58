"""What of a function's return becomes the job's result."""

from decimal import Decimal

import msgspec
import pytest

from jobs_service.jobs.jsonb import preserves
from jobs_service.worker.actors import MAX_RESULT_BYTES, ResultNotStorable, _encode


class Total(msgspec.Struct):
    net: Decimal
    count: int


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "null"),
        ("output/x.csv", '"output/x.csv"'),
        ({"b": 1, "a": [True, "Zoë"]}, '{"b":1,"a":[true,"Zoë"]}'),
        (Total(Decimal("12345678901234567.890"), 2), '{"net":12345678901234567.890,"count":2}'),
        (Decimal("-0"), "-0"),
        (2**80, "1208925819614629174706176"),
        (1e300, "1e300"),
        (5e-324, "5e-324"),
        (float("nan"), "null"),
        ("x" * (MAX_RESULT_BYTES - 2), f'"{"x" * (MAX_RESULT_BYTES - 2)}"'),
    ],
)
def test_a_result_is_json(result, text):
    assert text == _encode(result)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("a\0b", "NUL"),
        ("x" * (MAX_RESULT_BYTES - 1), "at most 65536 are kept"),
        ("ü" * (MAX_RESULT_BYTES // 2), "at most 65536 are kept"),
        (Decimal("NaN"), "NaN is not a JSON number"),
        (Decimal("-Infinity"), "-Infinity is not a JSON number"),
        (Decimal("1E+500000"), "exponent must be from -400 to 400"),
        (Decimal("1E-500000"), "exponent must be from -400 to 400"),
        (Decimal("0." + "3" * 20_000), "more than 1000 characters"),
        (10**2_000, "more than 1000 characters"),
        ({1: "a", "1": "b"}, "'1' occurs more than once"),
    ],
)
def test_what_postgresql_cannot_hold_fails_the_attempt(result, says):
    with pytest.raises(ResultNotStorable, match=says):
        _encode(result)


@pytest.mark.parametrize("result", [object(), {object()}, "\ud800"])
def test_what_is_no_json_fails_the_attempt(result):
    with pytest.raises((TypeError, UnicodeEncodeError)):
        _encode(result)


@pytest.mark.parametrize("depth", [100, 800, 950, 990, 20_000])
def test_what_is_nested_too_deep_to_be_read_again_fails_the_attempt(depth):
    result: list[object] = []
    for _ in range(depth - 1):
        result = [result]

    try:
        text = _encode(result)
    except (ResultNotStorable, RecursionError):
        assert depth > 100
    else:
        assert "[" * depth + "]" * depth == text
        # Where its verdict is written, no error is to come of it.
        preserves(text)
