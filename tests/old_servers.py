"""Servers that are too old to be installed here: they say their version, as the real ones do, and nothing else."""

import socketserver
import struct
import threading
from contextlib import contextmanager

HOST = "127.0.0.1"


@contextmanager
def old_postgres(version, *, encoding="UTF8"):
    """A PostgreSQL that lets everybody in; yields its URL."""

    class Session(socketserver.StreamRequestHandler):
        def handle(self):
            if not (head := self.rfile.read(4)):
                return
            self.rfile.read(struct.unpack("!i", head)[0] - 4)
            names = {"server_version": version, "server_encoding": encoding, "client_encoding": "UTF8"}
            names |= {"DateStyle": "ISO, MDY", "standard_conforming_strings": "on", "integer_datetimes": "on"}
            self.wfile.write(_message(b"R", struct.pack("!i", 0)))
            for name, value in names.items():
                self.wfile.write(_message(b"S", f"{name}\0{value}\0".encode()))
            self.wfile.write(_message(b"Z", b"I"))
            self.rfile.read()

    with _serving(Session) as port:
        yield f"postgresql://user:password@{HOST}:{port}/jobs_db?sslmode=disable&gssencmode=disable"


@contextmanager
def old_redis(version):
    """A Redis that knows PING and INFO; yields its URL."""

    class Client(socketserver.StreamRequestHandler):
        def handle(self):
            while head := self.rfile.readline():
                words = [self._word() for _ in range(int(head[1:]))]
                self.wfile.write(self._answer(words[0].upper()))

        def _word(self):
            length = int(self.rfile.readline()[1:])
            return self.rfile.read(length + 2)[:-2].decode()

        def _answer(self, command):
            if command == "PING":
                return b"+PONG\r\n"
            if command == "INFO":
                info = f"# Server\r\nredis_version:{version}\r\n".encode()
                return b"$%d\r\n%s\r\n" % (len(info), info)
            return f"-ERR unknown command '{command}'\r\n".encode()

    with _serving(Client) as port:
        yield f"redis://{HOST}:{port}/0?protocol=2"


def _message(kind, content):
    return kind + struct.pack("!i", len(content) + 4) + content


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def _serving(handler):
    with _Server((HOST, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
