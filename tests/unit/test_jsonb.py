"""What is said of `jsonb` without asking PostgreSQL; that it is right, tests/integration/test_as_sent.py asks it."""

import pytest

from jobs_service.jobs import jsonb


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "null",
        '"1e5"',
        "0",
        "-5",
        "1.0",
        "1.50",
        "-0.5",
        "0.123456789012345678",
        "12345678901234567890123",
        '{"name":"Alice","score":95}',
        '{ "b" : 1, "aa" : [ 1.0 ] }',
        '{"a":"\\u00e9","b":"-0","z":{}}',
        # Six bytes each, in UTF-8.
        '{"abcdef":1,"éèê":2}',
        "[" * 900 + "]" * 900,
    ],
)
def test_what_comes_back(text):
    assert jsonb.preserves(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"name":1,"id":2}',
        '{"b":1,"a":2}',
        '{"a":1,"B":2}',
        '[[{"c":[{"last":1,"id":2}]}]]',
        '{"éèê":2,"abcdef":1}',
        '{"a":1,"a":2}',
        "1e5",
        "1E5",
        "2.5e-6",
        "-0",
        "-0.00",
        "-0e0",
        '{"a":[1,{"b":-0.0}]}',
        "[" * 100_000 + "]" * 100_000,
    ],
)
def test_what_would_come_back_in_another_form(text):
    assert not jsonb.preserves(text)


@pytest.mark.parametrize("text", ["1e300", "5e-324", "1E+400", "9" * 1_000, '{"a":{"b":[1.5,"NaN"]},"c":null}'])
def test_what_can_be_stored(text):
    jsonb.check_storable(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[NaN]", "NaN is not a JSON number"),
        ("-Infinity", "-Infinity is not"),
        ('{"a":1,"a":2}', "'a' occurs more than once"),
        ("9" * 1_001, "more than 1000 characters"),
        ("0." + "3" * 999, "more than 1000 characters"),
        ("1E+401", "exponent must be from -400 to 400"),
        ("1E-9999", "exponent must be from -400 to 400"),
        ("0E-99999", "exponent must be from -400 to 400"),
        ("1e" + "9" * 30, "exponent must be from -400 to 400"),
    ],
)
def test_what_cannot_be_stored(text, says):
    with pytest.raises(ValueError, match=says):
        jsonb.check_storable(text)
