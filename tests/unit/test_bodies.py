"""What is JSON, and what of it is accepted."""

import json

import pytest

from jobs_service.errors import InvalidRequest, MalformedBody
from jobs_service.resources import bodies


def test_plain_json_is_parsed():
    assert {"a": [1, 2.5, None, True, "ä"]} == bodies.parse('{"a":[1,2.5,null,true,"ä"]}'.encode())


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not JSON"),
        (b"[1", "not JSON"),
        (b'{"a":NaN}', "NaN is not a JSON number"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON number"),
        (b'{"a":1e999}', "too large"),
        (b'{"a":1,"a":2}', "'a' stands twice"),
        (b'{"a":{"b":1,"b":2}}', "'b' stands twice"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\n"}', "not JSON"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 32 deep"),
        (b'{"a":' * 100_000, "nested more than 32 deep"),
        (b"1" * 5_000, "not JSON"),
    ],
)
def test_what_is_not_acceptable_json_is_malformed(raw, says):
    with pytest.raises(MalformedBody, match=says):
        bodies.parse(raw)


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"payload": {"a": "x\0y"}}, "/payload/a"),
        ({"payload": ["\0"]}, "/payload/0"),
        ({"payload": {"x\0y": 1}}, "/payload"),
        ({"payload": {"a/b": {"~": "\ud800"}}}, "/payload/a~1b/~0"),
        ({"payload": 2**63}, "/payload"),
        ({"payload": [1, -(2**63) - 1]}, "/payload/1"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_pointer(value, pointer):
    with pytest.raises(InvalidRequest) as caught:
        bodies.parse(json.dumps(value).encode())

    assert pointer == caught.value.pointer
    assert not isinstance(caught.value, MalformedBody)


def test_a_depth_of_32_is_accepted():
    assert bodies.parse(b"[" * 32 + b"]" * 32)
