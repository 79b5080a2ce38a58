"""The proxy does what the faults rely on: each of its faults, seen from a client."""

import contextlib
import socket
import threading

import pytest
from eventually import eventually
from proxy import HOST, Proxy


class Echo:
    """A server that sends back what it gets, and keeps it."""

    def __enter__(self):
        self.received = []
        self._connections = []
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def say(self, data):
        """Send what was not asked for, on every connection."""
        for connection in self._connections:
            connection.sendall(data)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                self.received.append(data)
                connection.sendall(data)


@pytest.fixture
def echo():
    with Echo() as server:
        yield server


@pytest.fixture
def proxy(echo):
    with Proxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy):
    with connect(proxy) as connection:
        assert b"hello" == exchange(connection, b"hello")
        yield connection


def connect(proxy):
    return socket.create_connection((HOST, proxy.port), timeout=30)


def exchange(connection, data):
    connection.sendall(data)
    return connection.recv(65_536)


def test_it_passes_on_what_it_gets_and_the_end_too(client):
    client.shutdown(socket.SHUT_WR)

    assert b"" == client.recv(1)


def test_it_refuses_new_connections_and_keeps_the_old(proxy, client):
    proxy.refuse()

    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert b"still here" == exchange(client, b"still here")

    proxy.heal()
    with connect(proxy) as again:
        assert b"welcome" == exchange(again, b"welcome")


def test_it_resets_every_connection_and_welcomes_new_ones(proxy, client):
    proxy.cut()

    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxy) as again:
        assert b"welcome" == exchange(again, b"welcome")


def test_a_reply_is_lost_after_its_request_was_carried_out(proxy, client, echo):
    proxy.lose_reply(b"COMMIT", spared=1)
    assert b"COMMIT" == exchange(client, b"COMMIT")

    with pytest.raises(ConnectionResetError):
        exchange(client, b"COMMIT again")

    assert [b"hello", b"COMMIT", b"COMMIT again"] == echo.received
    assert 1 == proxy.lost
    with connect(proxy) as again:
        assert b"COMMIT" == exchange(again, b"COMMIT")


def test_a_request_is_found_where_it_comes_in_pieces(proxy, client):
    proxy.lose_reply(b"COMMIT")
    assert b"COM" == exchange(client, b"COM")

    with pytest.raises(ConnectionResetError):
        exchange(client, b"MIT")


def test_a_blackhole_swallows_and_delivers_when_it_is_over(proxy, client, echo):
    proxy.blackhole()
    client.sendall(b"lost?")
    client.settimeout(0.1)

    with pytest.raises(TimeoutError):
        client.recv(1)
    assert [b"hello"] == echo.received

    proxy.heal()
    client.settimeout(30)
    assert b"lost?" == client.recv(65_536)


def test_answers_alone_are_swallowed_while_requests_are_carried_out(proxy, client, echo):
    proxy.blackhole(requests=False)
    client.sendall(b"heard")
    eventually(lambda: [b"hello", b"heard"] == echo.received, what="a request that was carried out")
    client.settimeout(0.1)

    with pytest.raises(TimeoutError):
        client.recv(1)

    proxy.heal()
    client.settimeout(30)
    assert b"heard" == client.recv(65_536)


def test_requests_alone_are_swallowed_while_answers_arrive(proxy, client, echo):
    proxy.blackhole(answers=False)
    client.sendall(b"lost?")
    echo.say(b"meanwhile")

    assert b"meanwhile" == client.recv(65_536)
    assert [b"hello"] == echo.received

    proxy.heal()
    assert b"lost?" == client.recv(65_536)


def test_latency_holds_each_piece_back(proxy, client):
    proxy.latency_seconds = 60
    client.sendall(b"late")
    client.settimeout(0.1)

    with pytest.raises(TimeoutError):
        client.recv(1)


def test_a_throttled_stream_comes_in_small_pieces(proxy, client):
    proxy.bytes_per_second = 200
    client.sendall(b"x" * 40)
    pieces = []
    while sum(map(len, pieces)) < 40:
        pieces.append(client.recv(65_536))

    assert len(pieces) > 1


def test_a_dead_server_is_a_dead_connection(free_port):
    with Proxy(free_port()) as proxy, connect(proxy) as connection, contextlib.suppress(ConnectionResetError):
        assert b"" == connection.recv(1)
