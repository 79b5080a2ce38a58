"""What no HTTP library would send, to a real gunicorn: a clear 4xx, and whoever sends slowly is in tests/chaos."""

import json
import re
import socket

import pytest

JOB = b'{"type":"csv-generation","payload":{"a":1}}'


@pytest.fixture
def api(service):
    service.start_api()
    return service


def send(api, *parts, wait=True):
    """Send bytes as they are. Returns the status, or the open socket if nothing is waited for."""
    connection = socket.create_connection(("127.0.0.1", api.api_port), timeout=20)
    connection.sendall(b"".join(parts))
    if not wait:
        return connection
    with connection:
        return int(connection.recv(65_536).split()[1])


def head(*lines, method="POST", path="/jobs"):
    start = f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"
    return "\r\n".join([*start, *lines, "", ""]).encode()


def test_hostile_requests_get_a_4xx(api):
    chunked = head("Transfer-Encoding: chunked")
    requests = {
        "a method of no resource": head(method="WEBSOCKET"),
        "a chunk size that is none": chunked + b"zz\r\nabc\r\n0\r\n\r\n",
        "a negative chunk size": chunked + b"-5\r\nabc\r\n0\r\n\r\n",
        "a trailer that is none": chunked + b"2\r\n{}\r\n0\r\nX\r\n\r\n",
        "a length that is none": head("Content-Length: x"),
        "two lengths": head("Content-Length: 2", "Content-Length: 3") + b"{}",
        "a length that is negative": head("Content-Length: -5"),
        "a head without end": head()[:-2] + b"X: " + b"x" * 70_000,
        "no HTTP at all": b"\x16\x03\x01 hello\r\n\r\n",
    }

    statuses = {what: send(api, request) for what, request in requests.items()}

    assert all(400 <= status < 500 for status in statuses.values()), statuses


def test_a_body_that_is_cut_off_is_refused(api):
    connection = send(api, head(f"Content-Length: {len(JOB) + 9}"), JOB, wait=False)
    connection.shutdown(socket.SHUT_WR)

    with connection:
        assert b" 400 " in connection.recv(65_536).split(b"\r\n")[0]


def test_a_chunked_body_is_accepted(api):
    size = f"{len(JOB):x}\r\n".encode()

    assert 201 == send(api, head("Transfer-Encoding: chunked"), size, JOB, b"\r\n0\r\n\r\n")


def test_a_client_that_asks_first_is_told_to_send_its_body(api):
    with send(api, head(f"Content-Length: {len(JOB)}", "Expect: 100-continue"), wait=False) as connection:
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == connection.recv(65_536)
        connection.sendall(JOB)
        assert b" 201 " in connection.recv(65_536).split(b"\r\n")[0]


def test_requests_sent_together_are_answered_one_after_the_other(api):
    alive, job = head(method="GET", path="/livez"), head(f"Content-Length: {len(JOB)}") + JOB
    last = head("Connection: close", method="GET", path="/livez")
    with send(api, alive, job, alive, job, job, last, wait=False) as connection:
        answers = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert [b"200", b"201", b"200", b"201", b"201", b"200"] == re.findall(rb"HTTP/1.1 (\d+)", answers)


def test_any_accept_header_gets_metrics(api):
    accept = "Accept: application/openmetrics-text;version=abc"

    assert 200 == send(api, head(accept, method="GET", path="/metrics"))


def refusal(connection):
    """Return the status and the problem that a connection is closed with."""
    with connection:
        head, _, body = b"".join(iter(lambda: connection.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert problem["status"] == int(head.split()[1])
    return problem["status"], problem["code"]


def test_what_is_not_http_is_refused_with_a_problem(api):
    bad, long_line = (400, "bad_request"), (414, "uri_too_long")
    large = (431, "headers_too_large")
    requests = {
        b"nonsense\r\n\r\n": bad,
        b"GET / HTTP/9.9\r\n\r\n": bad,
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nA header: 1\r\n\r\n": bad,
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\r\n folded\r\n\r\n": bad,
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n": bad,
        head(path=f"/jobs?{'x' * 5_000}", method="GET"): long_line,
        head(f"X: {'x' * 9_000}"): large,
        head(*["X: x"] * 101): large,
        head(f"X: {'x' * 90_000}"): large,
        # No byte of the body comes: it is not waited for.
        head("Content-Length: 50000000"): (413, "content_too_large"),
    }

    for request, expected in requests.items():
        assert expected == refusal(send(api, request, wait=False)), request[:80]


@pytest.mark.parametrize(
    "begun",
    [
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\n",
        head("Content-Length: 50") + b"{",
        head("Transfer-Encoding: chunked"),
    ],
    ids=["half a head", "half a body", "no chunk"],
)
def test_slow_clients_are_refused_with_408(service, begun):
    service.start_api(API_REQUEST_TIMEOUT_SECONDS="0.2")

    assert (408, "request_timeout") == refusal(send(service, begun, wait=False))
