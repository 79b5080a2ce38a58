"""gunicorn's threaded worker, in which a client costs a thread only once its whole request is there.

gunicorn's own hands each connection to a thread, and the thread waits for the client: for the first byte, for the rest
of the head, for the body. Then as many idle or slow clients as there are threads keep the API from everybody else.
Here the main loop collects requests, and threads answer them.
"""

import contextlib
import errno
import os
import selectors
import socket
import struct
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from gunicorn import util
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from jobs_service.api.incoming import Incoming
from jobs_service.config import Settings

#: How long a thread waits for a client to take some of its answer.
ANSWER_SECONDS = 30
#: How long a connection that was answered for the last time stays half open, for the client to read the answer.
LINGER_SECONDS = 2.0
#: What unfinished requests may hold in memory, all together: this, or so many of the largest bodies.
MAX_COLLECTED_BYTES = 67_108_864
MAX_COLLECTED_BODIES = 8

_PIECE_BYTES = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: What accept() says when the client has gone already.
_NOBODY = frozenset({errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK})
_NO_MORE_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class Connection(TConn):  # type: ignore[misc] # gunicorn has no types
    """A client's connection, and what has come of its next request."""

    def __init__(self, *arguments: Any, max_body_bytes: int) -> None:  # noqa: ANN401
        super().__init__(*arguments)
        # By the kernel: Python's own timeout would cost three system calls a request.
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            self.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", ANSWER_SECONDS, 0))
        self._max_body_bytes = max_body_bytes
        self.incoming = Incoming(max_body_bytes)

    def init(self) -> None:
        """Give the parser what was collected. gunicorn calls this in the thread that is to answer."""
        super().init()
        self.parser.unreader.unread(bytes(self.incoming.data))
        self.incoming = Incoming(self._max_body_bytes)

    def receive(self) -> bytes | None:
        """Return what has come, b"" at the end, None when nothing has."""
        try:
            received: bytes = self.sock.recv(_PIECE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        return received

    def tell(self, reply: bytes) -> None:
        """Say something short, to whoever still listens."""
        with contextlib.suppress(OSError):
            self.sock.send(reply)


class HttpWorker(ThreadWorker):  # type: ignore[misc] # as above
    """A connection is idle (`keepalived_conns`), sending (`pending_conns`), with a thread, or leaving.

    Idle ones are closed to make room for new ones, so that no number of them closes the door.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        settings = Settings.from_env(os.environ)
        self._max_body_bytes = settings.max_body_bytes
        self._request_seconds = settings.api_request_timeout_seconds
        self._max_collected_bytes = max(MAX_COLLECTED_BYTES, MAX_COLLECTED_BODIES * self._max_body_bytes)
        self._body_too_large = _problem(
            413, "Content Too Large", "content_too_large", f"The body may have at most {self._max_body_bytes} bytes."
        )
        self._collected_bytes = 0
        self._leaving: deque[Connection] = deque()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        # The name is that of the thread's connection in pg_stat_activity as well.
        return ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="request")

    def accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_MORE_FILES:
                self._make_room()
            elif error.errno not in _NOBODY:
                raise
            return
        self.nr_conns += 1
        arguments = (self.cfg, client, address, listener.getsockname())
        self._keep(Connection(*arguments, max_body_bytes=self._max_body_bytes))
        if self.nr_conns >= self.worker_connections:
            self._make_room()

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        """Begin to collect a request. Nearly always, all of it is there at once."""
        piece = conn.receive()
        if piece is None:
            return
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        if piece:
            self._begin(conn, piece)
        else:
            self._close(conn)

    def on_pending_socket_readable(self, conn: Connection, client: socket.socket) -> None:  # noqa: ARG002
        piece = conn.receive()
        if piece is not None:
            self._collect(conn, piece)

    def finish_request(self, conn: Connection, answered: "Future[bool]") -> None:
        """Wait for the connection's next request, or end it. In the main loop, when a thread is done with one."""
        if answered.cancelled() or answered.exception() or not answered.result():
            self._leave(conn)
            return
        try:
            conn.sock.setblocking(False)
            if ahead := conn.parser.unreader.take_buffered():
                self._begin(conn, ahead)
            else:
                self._keep(conn)
        except (OSError, ValueError):  # closed by the thread that had it
            self._close(conn)

    def murder_pending(self) -> None:
        """End what has taken too long."""
        now = time.monotonic()
        while self.pending_conns and self.pending_conns[0].timeout <= now:
            self._refuse(self.pending_conns[0], _TOO_SLOW)
        while self._leaving and self._leaving[0].timeout <= now:
            self._close(self._leaving.popleft())

    def _cap_keepalive(self, deadline: float) -> None:
        """Keep idle clients and unfinished requests no longer than this. gunicorn calls it when the worker stops."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def _keep(self, conn: Connection) -> None:
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        self._watch(conn, self.on_client_socket_readable)
        self.keepalived_conns.append(conn)

    def _begin(self, conn: Connection, piece: bytes) -> None:
        conn.incoming.add(piece)
        if conn.incoming.is_whole():
            self._hand_over(conn)
            return
        conn.timeout = time.monotonic() + self._request_seconds
        self._watch(conn, self.on_pending_socket_readable)
        self.pending_conns.append(conn)
        self._collected_bytes += len(piece)
        self._look_at(conn)

    def _collect(self, conn: Connection, piece: bytes) -> None:
        self._collected_bytes += len(piece)
        conn.incoming.add(piece)
        if not piece or conn.incoming.is_whole():
            self._forget(conn)
            self._hand_over(conn)
        else:
            self._look_at(conn)

    def _look_at(self, conn: Connection) -> None:
        """Do what an unfinished request asks for."""
        if conn.incoming.head_is_too_large:
            self._refuse(conn, _HEAD_TOO_LARGE)
        elif conn.incoming.body_is_too_large:
            # Here, where it costs no thread: gunicorn's would read the body to its end before the next request.
            self._refuse(conn, self._body_too_large)
        elif self._collected_bytes > self._max_collected_bytes:
            self._refuse(conn, _NO_ROOM)
        elif conn.incoming.meet_expectation():
            conn.tell(_CONTINUE)

    def _hand_over(self, conn: Connection) -> None:
        # Or gunicorn would wait for the client here.
        conn.data_ready = True
        self.enqueue_req(conn)

    def _refuse(self, conn: Connection, reply: bytes) -> None:
        self._forget(conn)
        conn.tell(reply)
        self._leave(conn)

    def _forget(self, conn: Connection) -> None:
        self.pending_conns.remove(conn)
        self.poller.unregister(conn.sock)
        self._collected_bytes -= len(conn.incoming.data)

    def _leave(self, conn: Connection) -> None:
        """Say goodbye and wait for the client's (RFC 9112, section 9.6), but not here, where nobody else is served."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the client was faster
            self._close(conn)
            return
        conn.timeout = time.monotonic() + LINGER_SECONDS
        self._leaving.append(conn)
        self._watch(conn, self._on_leaving_readable)

    def _on_leaving_readable(self, conn: Connection, client: socket.socket) -> None:  # noqa: ARG002
        if conn.receive() == b"":
            self._leaving.remove(conn)
            self._close(conn)

    def _make_room(self) -> None:
        """Close whoever is missed least: who was answered, has been idle longest, has been sending longest."""
        if self._leaving:
            self._close(self._leaving.popleft())
        elif self.keepalived_conns:
            self._close(self.keepalived_conns.popleft())
        elif self.pending_conns:
            self._refuse(self.pending_conns[0], _TOO_SLOW)

    def _watch(self, conn: Connection, on_readable: Any) -> None:  # noqa: ANN401
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(on_readable, conn))

    def _close(self, conn: Connection) -> None:
        with contextlib.suppress(KeyError, ValueError):  # not watched
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()


def _problem(status: int, reason: str, code: str, detail: str) -> bytes:
    """Return a whole answer in the form of `api/problems.py`, for what never reaches the application."""
    problem = {"type": "about:blank", "title": reason, "status": status, "detail": detail, "code": code}
    body = msgspec.json.encode(problem)
    headers = f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"HTTP/1.1 {status} {reason}\r\n{headers}\r\n\r\n".encode() + body


_TOO_SLOW = _problem(408, "Request Timeout", "request_timeout", "The whole request did not come in time.")
_HEAD_TOO_LARGE = _problem(
    431, "Request Header Fields Too Large", "headers_too_large", "The request's headers are too large."
)
_NO_ROOM = _problem(
    503, "Service Unavailable", "too_many_unfinished_requests", "Too many requests are being sent at once; try again."
)


def _write_refusal(client: socket.socket, status: int, reason: str, detail: str) -> None:
    """Send what gunicorn refuses by itself, as a problem too."""
    code = "headers_too_large" if status == _TOO_LARGE else reason.lower().replace(" ", "_")
    util.write_nonblock(client, _problem(int(status), reason, code, detail or reason))


_TOO_LARGE = 431
# gunicorn words all its refusals there, and has no setting for it.
util.write_error = _write_refusal
