"""What no HTTP library would send, to a real gunicorn: a clear 4xx, and never a thread lost."""

import socket
from contextlib import suppress

import pytest
from eventually import eventually

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


def test_any_accept_header_gets_metrics(api):
    accept = "Accept: application/openmetrics-text;version=abc"

    assert 200 == send(api, head(accept, method="GET", path="/metrics"))


def test_clients_that_stop_sending_do_not_hold_the_api(api):
    """Twice as many as there are threads: each holds one for ten seconds, and no longer."""
    slow = [send(api, head("Content-Length: 50"), b"{", wait=False) for _ in range(8)]

    def answers():
        with suppress(OSError):
            return api.request("GET", "/livez")[0] == 200
        return False

    eventually(answers, seconds=60, what="an API that answers")
    for connection in slow:
        connection.close()
