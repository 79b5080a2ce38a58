"""gunicorn's threaded worker, changed so that a client occupies a thread only once its whole request has arrived.

gunicorn's own worker gives each connection to a thread, which waits for the client: for the first byte, the rest of the
head and the body. Then as many idle or slow clients as there are threads block the API for all others. Here the main
loop collects requests, and threads answer them.
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

from jobs_service.api.incoming import MAX_HEAD_BYTES, Incoming
from jobs_service.config import Settings

#: How long a thread waits for a client to read some of its response.
ANSWER_SECONDS = 30
#: How long a connection stays half open after its last response, so that the client can read it.
LINGER_SECONDS = 2.0
#: The memory that all unfinished requests may use together: this many bytes, or this many of the largest bodies.
MAX_COLLECTED_BYTES = 67_108_864
MAX_COLLECTED_BODIES = 8

_PIECE_BYTES = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: The errors of accept() when the client has already disconnected.
_DISCONNECTED = frozenset({errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK})
_NO_MORE_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class Connection(TConn):  # type: ignore[misc] # gunicorn has no types
    """A client's connection, with the bytes received so far of its next request."""

    def __init__(self, *arguments: Any, max_body_bytes: int) -> None:  # noqa: ANN401
        super().__init__(*arguments)
        # The kernel's timeouts: Python's own would cost three system calls per request.
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            self.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", ANSWER_SECONDS, 0))
        self._max_body_bytes = max_body_bytes
        self.incoming = Incoming(max_body_bytes)

    def init(self) -> None:
        """Give the parser the collected bytes. gunicorn calls this in the thread that answers."""
        super().init()
        self.parser.unreader.unread(bytes(self.incoming.data))
        self.incoming = Incoming(self._max_body_bytes)

    def receive(self) -> bytes | None:
        """Return the bytes that have arrived: b"" if the client has closed, None if there are none yet."""
        try:
            received: bytes = self.sock.recv(_PIECE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        return received

    def send(self, reply: bytes) -> None:
        """Send a short reply. A client that has disconnected is ignored."""
        with contextlib.suppress(OSError):
            self.sock.send(reply)


class HttpWorker(ThreadWorker):  # type: ignore[misc] # as above
    """Collects requests in the main loop, and gives whole ones to threads.

    A connection is idle (`keepalived_conns`), sending a request (`pending_conns`), held by a thread, or closing. Idle
    connections are closed to make room for new ones, so that they cannot keep other clients out.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        settings = Settings.from_env(os.environ)
        self._max_body_bytes = settings.max_body_bytes
        self._request_seconds = settings.api_request_timeout_seconds
        self._max_collected_bytes = max(MAX_COLLECTED_BYTES, MAX_COLLECTED_BODIES * self._max_body_bytes)
        self._body_too_large = _problem(
            413, "Content Too Large", "content_too_large", f"Send a body of at most {self._max_body_bytes} bytes."
        )
        self._collected_bytes = 0
        self._closing: deque[Connection] = deque()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        # The thread's name is also that of its connection in pg_stat_activity.
        return ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="request")

    def accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_MORE_FILES:
                self._make_room()
            elif error.errno not in _DISCONNECTED:
                raise
            return
        self.nr_conns += 1
        arguments = (self.cfg, client, address, listener.getsockname())
        self._keep(Connection(*arguments, max_body_bytes=self._max_body_bytes))
        if self.nr_conns >= self.worker_connections:
            self._make_room()

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        """Begin to collect a request. Nearly always the whole request arrives at once."""
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
        """Wait for the connection's next request, or close it. Called in the main loop after a thread has answered."""
        if answered.cancelled() or answered.exception() or not answered.result():
            self._begin_close(conn)
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
        """End connections that have taken too long. Overrides gunicorn's method."""
        now = time.monotonic()
        while self.pending_conns and self.pending_conns[0].timeout <= now:
            self._refuse(self.pending_conns[0], _TOO_SLOW)
        while self._closing and self._closing[0].timeout <= now:
            self._close(self._closing.popleft())

    def _cap_keepalive(self, deadline: float) -> None:
        """Limit how long idle clients and unfinished requests are kept. gunicorn calls this when the worker stops."""
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
        self._check_unfinished(conn)

    def _collect(self, conn: Connection, piece: bytes) -> None:
        self._collected_bytes += len(piece)
        conn.incoming.add(piece)
        if not piece or conn.incoming.is_whole():
            self._forget(conn)
            self._hand_over(conn)
        else:
            self._check_unfinished(conn)

    def _check_unfinished(self, conn: Connection) -> None:
        """Refuse an unfinished request that is too large, or send it 100 Continue if it asks for that."""
        if conn.incoming.head_is_too_large:
            self._refuse(conn, _HEAD_TOO_LARGE)
        elif conn.incoming.body_is_too_large:
            # Refused in the main loop, without a thread. gunicorn would read the whole body before the next request.
            self._refuse(conn, self._body_too_large)
        elif self._collected_bytes > self._max_collected_bytes:
            self._refuse(conn, _NO_ROOM)
        elif conn.incoming.meet_expectation():
            conn.send(_CONTINUE)

    def _hand_over(self, conn: Connection) -> None:
        # Otherwise gunicorn would wait for data from the client.
        conn.data_ready = True
        self.enqueue_req(conn)

    def _refuse(self, conn: Connection, reply: bytes) -> None:
        self._forget(conn)
        conn.send(reply)
        self._begin_close(conn)

    def _forget(self, conn: Connection) -> None:
        self.pending_conns.remove(conn)
        self.poller.unregister(conn.sock)
        self._collected_bytes -= len(conn.incoming.data)

    def _begin_close(self, conn: Connection) -> None:
        """Close the sending side, and wait without blocking until the client closes too (RFC 9112, section 9.6)."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the client has already closed
            self._close(conn)
            return
        conn.timeout = time.monotonic() + LINGER_SECONDS
        self._closing.append(conn)
        self._watch(conn, self._on_closing_readable)

    def _on_closing_readable(self, conn: Connection, client: socket.socket) -> None:  # noqa: ARG002
        if conn.receive() == b"":
            self._closing.remove(conn)
            self._close(conn)

    def _make_room(self) -> None:
        """Close one connection: one that is closing, else the one idle longest, else the one sending longest."""
        if self._closing:
            self._close(self._closing.popleft())
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
    """Return a whole HTTP response with a problem document, for requests that never reach the application."""
    problem = {"type": "about:blank", "title": reason, "status": status, "detail": detail, "code": code}
    body = msgspec.json.encode(problem)
    headers = f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"HTTP/1.1 {status} {reason}\r\n{headers}\r\n\r\n".encode() + body


_TOO_SLOW = _problem(408, "Request Timeout", "request_timeout", "The request did not arrive in time. Send it faster.")
_HEAD_TOO_LARGE = _problem(
    431,
    "Request Header Fields Too Large",
    "headers_too_large",
    f"Send a request line and headers of at most {MAX_HEAD_BYTES} bytes together.",
)
_NO_ROOM = _problem(
    503,
    "Service Unavailable",
    "too_many_unfinished_requests",
    "Too many requests are arriving at the same time. Try again later.",
)


def _write_refusal(client: socket.socket, status: int, reason: str, detail: str) -> None:
    """Send a refusal of gunicorn's own as a problem document."""
    code = "headers_too_large" if status == _TOO_LARGE else reason.lower().replace(" ", "_")
    util.write_nonblock(client, _problem(int(status), reason, code, detail or reason))


_TOO_LARGE = 431
# gunicorn writes all its refusals with this function, and has no setting for it.
util.write_error = _write_refusal
