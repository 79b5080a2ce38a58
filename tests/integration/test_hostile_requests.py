"""What no HTTP library would send, to a real gunicorn: a clear 4xx, and whoever sends slowly is in tests/chaos."""

import json
import re
import socket

import pytest
from databases import TEMPLATE
from service import QUICK, Service

JOB = b'{"type":"csv-generation","payload":{"a":1}}'


@pytest.fixture
def api(service):
    service.start_api()
    return service


@pytest.fixture(scope="module")
def api_of_all(postgres, valkey, tmp_path_factory):
    """An API for the many tests that change nothing."""
    name = "test_hostile_requests"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    folder = tmp_path_factory.mktemp("api")
    environ = {**QUICK, "DATABASE_URL": postgres.url_of(name), "REDIS_URL": f"{valkey.url}/1"}
    service = Service({**environ, "OUTPUT_DIR": str(folder / "output")}, folder)
    service.start_api()
    yield service
    service.end()
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


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


#: Seen by whatever takes the body of the request before it to be shorter than it is, or longer.
SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKS = b"2b\r\n" + JOB + b"\r\n0\r\n\r\n"
CHUNKED, LENGTH = "Transfer-Encoding: chunked", f"Content-Length: {len(JOB)}"

#: Requests whose end two servers in a row could see at different places (RFC 9112, section 11.2).
AMBIGUOUS = {
    "a length and chunks": head(LENGTH, CHUNKED) + CHUNKS,
    "chunks and a length": head(CHUNKED, "Content-Length: 4") + CHUNKS,
    "two lengths that agree": head(LENGTH, LENGTH) + JOB,
    "a list of lengths": head("Content-Length: 43, 43") + JOB,
    "a length with a sign": head("Content-Length: +43") + JOB,
    "a length in hexadecimal": head("Content-Length: 0x2b") + JOB,
    "a length with an underscore": head("Content-Length: 4_3") + JOB,
    "a length in other digits": head("Content-Length: \uff14\uff13") + JOB,
    "an empty length": head("Content-Length:") + JOB,
    "a space before the colon of chunks": head("Transfer-Encoding : chunked") + CHUNKS,
    "a space before the colon of a length": head(f"Content-Length : {len(JOB)}") + JOB,
    "a coding that is none": head("Transfer-Encoding: xchunked") + CHUNKS,
    "chunks that are not the last coding": head("Transfer-Encoding: chunked, identity") + CHUNKS,
    "chunks twice": head(CHUNKED, CHUNKED) + CHUNKS,
    "a coding with a vertical tab": head("Transfer-Encoding: \x0bchunked") + CHUNKS,
    "a folded coding": head("Transfer-Encoding:\r\n chunked") + CHUNKS,
    "chunks in HTTP/1.0": head(CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKS,
    "a header name with NUL": head(LENGTH, "Transfer-Encoding\0: chunked") + JOB,
    "a carriage return alone": head(f"X: a\r{LENGTH}") + JOB,
    "a chunk size with a prefix": head(CHUNKED) + b"0x" + CHUNKS,
    "a chunk size with a sign": head(CHUNKED) + b"+" + CHUNKS,
    "a chunk size with an underscore": head(CHUNKED) + b"2_b\r\n" + JOB + b"\r\n0\r\n\r\n",
    "a chunk size that begins with a space": head(CHUNKED) + b" " + CHUNKS,
    "a chunk size with 17 digits": head(CHUNKED) + b"1000000000000002b\r\n" + JOB + b"\r\n0\r\n\r\n",
    "a chunk extension that ends in a line feed": head(CHUNKED) + b"2b;a\n" + JOB + b"\r\n0\r\n\r\n",
    "a chunk longer than its size": head(CHUNKED) + b"2a\r\n" + JOB + b"\r\n0\r\n\r\n",
    "a chunk without its end": head(CHUNKED) + b"2b\r\n" + JOB + b"0\r\n\r\n",
    "a target of two": head(LENGTH, path="/jobs /livez") + JOB,
    "a request line with a tab": head(LENGTH).replace(b"POST ", b"POST\t") + JOB,
    "lines that end in a line feed alone": head(LENGTH).replace(b"\r\n", b"\n") + JOB,
}


@pytest.mark.parametrize("ambiguous", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_no_request_is_smuggled_behind_an_ambiguous_one(api_of_all, ambiguous):
    """It is refused, and the connection with all that follows is closed: exactly one answer, and no job."""
    before = api_of_all.get("/jobs?limit=1")[1]["jobs"]

    with send(api_of_all, ambiguous, SMUGGLED, wait=False) as connection:
        connection.shutdown(socket.SHUT_WR)
        answers = b"".join(iter(lambda: connection.recv(65_536), b""))

    [status] = re.findall(rb"HTTP/1\.[01] (\d+)", answers)
    # Of an unknown coding (RFC 9112, section 6.1).
    assert 400 <= int(status) < 500 or int(status) == 501, answers
    assert before == api_of_all.get("/jobs?limit=1")[1]["jobs"]


def test_a_body_where_none_is_expected_is_not_the_next_request(api):
    last = head("Connection: close", method="GET", path="/livez")
    with send(
        api, head(f"Content-Length: {len(SMUGGLED)}", method="GET", path="/livez"), SMUGGLED, last, wait=False
    ) as c:
        answers = b"".join(iter(lambda: c.recv(65_536), b""))

    assert 2 == len(re.findall(rb"HTTP/1\.1 200", answers))


#: What makes patterns that backtrack, and parsers that copy, slow.
LONG = [
    "a" * 8_000,
    "a," * 4_000,
    '"' * 8_000,
    "a;q=" * 2_000,
    "=?" * 4_000,
    "\\" * 8_000,
    "0-," * 2_000,
    " \t" * 4_000 + "a",
]
PARSED = [
    "Accept",
    "Authorization",
    "Content-Encoding",
    "Forwarded",
    "Idempotency-Key",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "Last-Event-ID",
    "Range",
    "X-Request-ID",
    "traceparent",
]


def test_long_headers_are_parsed_and_answered(api_of_all):
    paths = ["/", "/jobs?limit=1", "/docs/errors", f"/jobs?cursor={'A' * 3_000}", f"/jobs?type={'a-_' * 1_000}"]
    for path in paths:
        for value in LONG:
            status = send(api_of_all, head(*[f"{name}: {value}" for name in PARSED[:7]], method="GET", path=path))
            assert status < 500, (path, value[:9])
            status = send(api_of_all, head(*[f"{name}: {value}" for name in PARSED[7:]], method="GET", path=path))
            assert status < 500, (path, value[:9])
