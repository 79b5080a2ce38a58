"""Where a request ends, however its bytes come."""

import pytest
from hypothesis import given, strategies as st

from jobs_service.api.incoming import MAX_HEAD_BYTES, Incoming

MAX_BODY_BYTES = 1_000


def request(*headers, body=b""):
    return "\r\n".join(["POST /jobs HTTP/1.1", "Host: a", *headers, "", ""]).encode() + body


WHOLE = [
    request(),
    request("Content-Length: 0"),
    request("content-length:5", body=b"12345"),
    request("Content-Length: 8", body=b"1\r\n\r\n234"),
    request("Content-Length: 2", "Expect: 100-continue", body=b"{}"),
    request("Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    request("transfer-encoding: gzip, Chunked", body=b"5\r\n12345\r\nA;x=y\r\n0\r\n\r\n45678\r\n0\r\nX: y\r\n\r\n"),
]


def collected(data, max_body_bytes=MAX_BODY_BYTES):
    incoming = Incoming(max_body_bytes)
    incoming.add(data)
    return incoming


@given(st.sampled_from(WHOLE), st.data())
def test_a_request_is_whole_with_its_last_byte_and_not_before(data, draw):
    cuts = sorted(draw.draw(st.lists(st.integers(1, len(data) - 1), max_size=5)))
    incoming = Incoming(MAX_BODY_BYTES)
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        assert not incoming.is_whole()
        incoming.add(data[start:end])

    assert incoming.is_whole()
    assert data == incoming.data


@pytest.mark.parametrize("data", WHOLE)
def test_no_beginning_of_a_request_is_whole(data):
    incoming = Incoming(MAX_BODY_BYTES)
    for position in range(len(data)):
        assert not incoming.is_whole()
        incoming.add(data[position : position + 1])

    assert incoming.is_whole()


@pytest.mark.parametrize("data", WHOLE)
def test_what_follows_changes_nothing(data):
    assert collected(data + b"GET / HTTP").is_whole()


@pytest.mark.parametrize(
    "data",
    [
        request("Content-Length: x"),
        request("Content-Length: -5"),
        request("Transfer-Encoding: chunked", body=b"zz\r\n"),
        request("Transfer-Encoding: chunked", body=b"-5\r\n"),
    ],
)
def test_what_will_be_refused_is_not_waited_for(data):
    assert collected(data).is_whole()


@pytest.mark.parametrize(
    "data",
    [
        request(f"Content-Length: {MAX_BODY_BYTES + 1}"),
        request(f"Content-Length: {'9' * 5_000}"),
        request("Transfer-Encoding: chunked", body=b"ffffff\r\n" + b"x" * 70_000),
    ],
)
def test_a_body_that_is_too_large_is_known_before_it_is_there(data):
    assert collected(data).body_is_too_large


@pytest.mark.parametrize("length", ["0" * 30 + "100", "0" * 5_000 + "100"])
def test_zeros_before_a_length_change_nothing(length):
    incoming = collected(request(f"Content-Length: {length}", body=b"x" * 99))

    assert not incoming.is_whole()
    incoming.add(b"x")
    assert incoming.is_whole()
    assert not incoming.body_is_too_large


def test_a_head_without_end_is_too_large_at_some_point():
    assert not collected(b"x" * MAX_HEAD_BYTES).head_is_too_large
    assert collected(b"x" * (MAX_HEAD_BYTES + 1)).head_is_too_large
    assert not collected(request("Content-Length: 100000", body=b"x" * 99_999), 1_000_000).head_is_too_large


def test_an_expectation_is_met_once():
    data = request("expect:  100-Continue ", "Content-Length: 2")
    incoming = collected(data)

    assert incoming.meet_expectation()
    assert not incoming.meet_expectation()
    assert len(data) == len(incoming.data)
    incoming.add(b"{}")
    assert incoming.is_whole()


def test_an_expectation_in_a_body_is_none():
    assert not collected(request("Content-Length: 99", body=b"\r\nExpect: 100-continue\r\n")).meet_expectation()
