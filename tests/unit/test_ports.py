"""A port that was handed out stays free for its server: no other process gets it in between."""

import errno
import socket
import subprocess
import sys

import pytest

from devstack import ports

HOST = "127.0.0.1"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a port for a server")


@pytest.fixture
def port():
    port = ports.free_port()
    yield port
    ports.release(port)


def test_a_port_that_was_handed_out_refuses_connections_until_its_server_listens(port):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=30)

    assert ports.is_free(port)
    with socket.create_server((HOST, port)), socket.create_connection((HOST, port), timeout=30):
        assert not ports.is_free(port)


def test_its_server_may_go_and_come_back(port):
    for _ in range(2):
        with socket.create_server((HOST, port)) as server, socket.create_connection((HOST, port), timeout=30) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""


def test_no_other_process_is_handed_the_same_port(port):
    code = f"from devstack import ports; ports._CANDIDATES = [{port}]; ports.free_port()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert f"[Errno {errno.EADDRINUSE}]" in done.stderr


def test_a_released_port_is_anybodys(port):
    ports.release(port)

    with socket.socket() as other:
        other.bind((HOST, port))
    assert port not in ports._held


def test_every_server_of_the_tests_listens_on_a_port_that_is_held_for_it(postgres, valkey, mail):
    for server in (postgres, valkey, mail):
        for port in server.ports():
            assert port in ports._held
            assert not ports.is_free(port)
