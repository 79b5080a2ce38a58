"""What is JSON, and what of it is accepted."""

import json

import pytest

from jobs_service.api import request_body
from jobs_service.errors import InvalidRequest, MalformedBody


@pytest.mark.parametrize(
    "text",
    [
        '{"a":[1,2.5,null,true,"ä"]}',
        '\ufeff{"a":1}',
        "0",
        "-0",
        "-0.0e5",
        "0.000",
        "0e-64",
        "9" * 64,
        "-" + "9" * 64,
        "9.9e63",
        "1.1e-64",
        "9" * 64 + "." + "9" * 900,
        "0.123456789012345678",
        "9223372036854775808",
        "[" * 32 + "]" * 32,
    ],
)
def test_plain_json_is_accepted(text):
    request_body.check(text.encode())


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not JSON"),
        (b"[1", "not JSON"),
        (b'{"a":NaN}', "NaN is not a JSON number"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON number"),
        (b'{"a":1,"a":2}', "'a' occurs more than once"),
        (b'{"a":{"b":1,"b":2}}', "'b' occurs more than once"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\n"}', "not JSON"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 32 deep"),
        (b'{"a":' * 100_000, "nested more than 32 deep"),
    ],
)
def test_what_is_not_acceptable_json_is_malformed(raw, says):
    with pytest.raises(MalformedBody, match=says):
        request_body.check(raw)


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"payload": {"a": "x\0y"}}, "/payload/a"),
        ({"payload": ["\0"]}, "/payload/0"),
        ({"payload": {"x\0y": 1}}, "/payload"),
        ({"payload": {"a/b": {"~": "\ud800"}}}, "/payload/a~1b/~0"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_pointer(value, pointer):
    with pytest.raises(InvalidRequest) as caught:
        request_body.check(json.dumps(value).encode())

    assert pointer == caught.value.pointer
    assert not isinstance(caught.value, MalformedBody)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("1e999", "between 1e-64 and 1e64"),
        ("-1e400", "between 1e-64 and 1e64"),
        ("1" + "0" * 64, "between 1e-64 and 1e64"),
        ("-" + "9" * 65, "between 1e-64 and 1e64"),
        ("1e64", "between 1e-64 and 1e64"),
        ("1e-64", "between 1e-64 and 1e64"),
        ("0.0001e-64", "between 1e-64 and 1e64"),
        ("1e" + "9" * 30, "between 1e-64 and 1e64"),
        ("1e-" + "9" * 30, "between 1e-64 and 1e64"),
        # PostgreSQL cannot read them, or writes all their zeros.
        ("0e99999", "between 1e-64 and 1e64"),
        ("0e-20000", "between 1e-64 and 1e64"),
        ("1" * 5_000, "at most 1000 characters"),
        ("1." + "1" * 999, "at most 1000 characters"),
        ("1e" + "0" * 5_000, "at most 1000 characters"),
    ],
)
def test_a_number_beyond_the_limits_is_named_by_its_pointer(number, says):
    with pytest.raises(InvalidRequest, match=says) as caught:
        request_body.check(f'{{"payload":{{"a":[0,{number}]}}}}'.encode())

    assert "/payload/a/1" == caught.value.pointer
    assert not isinstance(caught.value, MalformedBody)
