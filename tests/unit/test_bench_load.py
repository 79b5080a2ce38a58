"""The load generator, against a server that answers what it is told to."""

import socket
import threading

import pytest

from bench.load import BODY, Load, content_length

CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def server():
    """Answer each request with what `answers` yields for it; note the requests."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Server(listener)


class Server:
    def __init__(self, listener):
        self.listener = listener
        self.port = listener.getsockname()[1]
        self.requests = []
        self.connections = 0
        self.answer = CREATED
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            while request := connection.recv(65536):
                self.requests.append(request)
                connection.sendall(self.answer)
                if b"Connection: close" in self.answer:
                    return


def test_every_job_is_posted_once_over_kept_connections(server):
    seen = Load(server.port, jobs=50).run(concurrency=4)

    assert 50 == len(server.requests) == len(seen["answer_seconds"])
    assert 4 == server.connections
    assert all(request.endswith(b"\r\n\r\n" + BODY) for request in server.requests)
    assert seen["began_at"] < seen["answered_at"]


def test_a_closing_server_gets_a_new_connection(server):
    server.answer = CREATED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    seen = Load(server.port, jobs=6).run(concurrency=2)

    assert 6 == len(seen["answer_seconds"])


def test_no_more_connections_than_jobs_are_opened(server):
    Load(server.port, jobs=1).run(concurrency=32)

    assert 1 == server.connections


def test_an_error_ends_the_load(server):
    server.answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"

    with pytest.raises(SystemExit, match="503 Service Unavailable"):
        Load(server.port, jobs=5).run(concurrency=1)


def test_the_length_is_found_in_any_case():
    assert 17 == content_length(b"HTTP/1.1 201 Created\r\ncontent-LENGTH: 17")
