"""Clients that send slowly, or not at all, or do not read, beside a client that wants an answer.

More of each than the API has threads, and all together more than it has connections.
"""

import socket
from contextlib import ExitStack
from http.client import HTTPResponse

import pytest
from eventually import eventually

JOB = b'{"type":"test-effect","payload":{ }}'

THREADS = 4
MANY = 20
#: Fewer than the default, which is more than a test may have open files.
CONNECTIONS = 512


@pytest.fixture
def api(stack):
    """The service, of which the API alone runs while the clients are slow."""
    stack.service.start_api(API_THREADS=str(THREADS), GUNICORN_CMD_ARGS=f"--worker-connections {CONNECTIONS}")
    stack.strike()
    yield stack.service
    stack.service.start_worker()
    # Those too that were accepted from a slow client.
    eventually(lambda: not stack.sql("SELECT FROM jobs WHERE finished_at IS NULL"), what="the end of every job")


@pytest.fixture
def connect(api):
    """Open a connection that is closed after the test, and send its first bytes."""
    with ExitStack() as connections:

        def connect(data=b""):
            connection = socket.create_connection(("127.0.0.1", api.api_port), timeout=30)
            connections.enter_context(connection)
            connection.sendall(data)
            return connection

        yield connect


def head(*lines, path="/jobs", method="POST"):
    start = f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"
    return "\r\n".join([*start, *lines, "", ""]).encode()


WITH_LENGTH = head(f"Content-Length: {len(JOB)}")
CHUNKED = head("Transfer-Encoding: chunked")
BEGINNINGS = {
    "nothing": b"",
    "one byte": b"P",
    "half a head": WITH_LENGTH[:-20],
    "a head": WITH_LENGTH,
    "half a body": WITH_LENGTH + JOB[:10],
    "half a chunk": CHUNKED + b"%x\r\n" % len(JOB) + JOB[:10],
    "a chunk and no end": CHUNKED + b"%x\r\n" % len(JOB) + JOB + b"\r\n",
    "an expectation": head(f"Content-Length: {len(JOB)}", "Expect: 100-continue"),
    "a request and the beginning of another": head(path="/livez", method="GET") + WITH_LENGTH[:-20],
}


def test_clients_that_begin_and_do_not_go_on_hold_nobody_up(stack, connect):
    for beginning in BEGINNINGS.values():
        for _ in range(1_000 // len(BEGINNINGS)):
            connect(beginning)

        assert_answers(stack)


def test_a_body_at_a_byte_now_and_then_holds_nobody_up(stack, connect):
    slow = [connect(WITH_LENGTH) for _ in range(MANY)]
    for position in range(5):
        for connection in slow:
            connection.sendall(JOB[position : position + 1])
        assert_answers(stack)

    for connection in slow:
        connection.sendall(JOB[5:])
    assert {201} == {status(connection) for connection in slow}


def test_clients_that_do_not_close_hold_nobody_up(stack, connect):
    for _ in range(MANY):
        assert 200 == status(connect(head("Connection: close", path="/livez", method="GET")))

    assert_answers(stack)


def test_more_idle_connections_than_a_process_may_have_hold_nobody_up(stack, connect):
    patient = connect()
    patient.sendall(head(path="/livez", method="GET"))
    assert 200 == status(patient)
    for _ in range(CONNECTIONS + 88):
        connect()

    # It may itself be the one that was idle for a moment too long, among so many.
    eventually(stack.submit, what="an answer")
    # The one that was idle longest had to make room.
    assert b"" == patient.recv(1)


def test_clients_that_do_not_read_their_answers_hold_nobody_up(stack, api, connect):
    large = {"type": "test-log", "payload": {"a": "x" * 100_000}}
    for _ in range(20):
        assert 201 == api.request("POST", "/jobs", large)[0]
    for _ in range(MANY):
        connect(head(path="/jobs?limit=200", method="GET") * 20)

    assert_answers(stack)


def test_an_api_with_slow_clients_stops_when_it_is_told_to(stack, api, connect):
    for beginning in BEGINNINGS.values():
        connect(beginning)
    assert_answers(stack)
    [child] = api.children

    assert 0 == child.stop(seconds=60)


def status(connection):
    """Read one answer to its end, in however many pieces it comes, and leave the connection open."""
    with HTTPResponse(connection) as answer:
        answer.begin()
        answer.read()
        return answer.status


def assert_answers(stack):
    """Have it answer a client that opens a connection for each request. A held-up one gives up after 20 s."""
    for _ in range(5):
        assert stack.submit()
