"""gunicorn's ASGI worker, changed so that slow, idle and greedy clients neither hold up others nor use up the memory.

gunicorn's own protocol calls the application when a request's head has arrived, and waits for a client as long as the
client likes. This one collects each request within limits of time and size before it calls the application. A request
beyond a limit is refused with a problem document.
"""

import errno
import math
import os
from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import msgspec
from gunicorn.asgi import protocol
from gunicorn.asgi.parser import CallbackRequest
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from jobs_service.api import batch_body, event_loop, problem_types
from jobs_service.api.security_headers import SECURITY_HEADERS
from jobs_service.config import Settings

#: How long a client may leave its response unread before the connection is closed.
ANSWER_SECONDS = 30.0
#: How long a connection stays half open after its last response, so that the client can read it.
LINGER_SECONDS = 2.0
#: How long a process that stops waits for the next request of a client, and for the rest of one that has begun.
STOP_SECONDS = 2.0
#: The least time between two looks for connections whose time is over. While none waits for its client, there are none.
SWEEP_SECONDS = 0.25

#: The maximum size of a request line with its headers. gunicorn's own limits would allow 800 KB.
MAX_HEAD_BYTES = 65_536
#: The bytes that chunked transfer coding may add to a body.
CHUNKING_BYTES = 65_536
#: The memory that all unfinished requests may use together: this many bytes, or this many of the largest bodies.
MAX_COLLECTED_BYTES = 67_108_864
MAX_COLLECTED_BODIES = 8
#: The same for batches of jobs, which have a room of their own: a few slow ones must not keep out other requests.
MAX_COLLECTED_BATCHES = 4
#: The memory that responses may use together while their clients do not read them.
MAX_UNSENT_BYTES = 67_108_864

#: The key of a request's scope for a function: whether the connection is open. On a closed one `send` does nothing, so
#: a long answer would be made to its end for nobody.
IS_OPEN = "jobs.is_open"

#: New connections of one turn of the event loop. More would wait unread, and take the places of each other, when many
#: clients come at once.
ACCEPTED_AT_ONCE = 64

#: Open files that are left for other purposes when the system allows no more of them.
SPARE_FILES = 32

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_MORE_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class Refusal(Exception):
    """Ends the parsing of a request. `reply` is the whole response."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply


class Room:
    """The memory that unfinished requests of one kind may use, each and together."""

    def __init__(self, max_body_bytes: int, max_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self.max_bytes = max_bytes
        #: The bytes that have arrived.
        self.bytes = 0
        self.too_large = _problem(
            413, "Content Too Large", "content_too_large", f"Send a body of at most {max_body_bytes} bytes."
        )


class Waiting:
    """Connections that wait for their clients, in the order in which their time ends."""

    def __init__(self, seconds: float, give_up: "Callable[[HttpProtocol], None]") -> None:
        """`give_up` must remove the connection, or add it anew."""
        self.seconds = seconds
        self._give_up = give_up
        self._since: dict[HttpProtocol, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def add(self, connection: "HttpProtocol", now: float) -> None:
        self._since[connection] = now

    def remove(self, connection: "HttpProtocol") -> None:
        del self._since[connection]

    def first(self) -> "HttpProtocol":
        return next(iter(self._since))

    @property
    def ends_at(self) -> float:
        """When the time of the first connection is over; infinity if there is none."""
        return next(iter(self._since.values()), math.inf) + self.seconds

    def expire(self, now: float) -> None:
        """Give up each connection whose time is over. There are no more of them than connections now."""
        for connection, since in list(self._since.items()):
            if since + self.seconds > now:
                break
            self._give_up(connection)

    def unsent_bytes(self) -> int:
        return sum(connection.unsent_bytes for connection in self._since)


class HttpWorker(gasgi.ASGIWorker):  # type: ignore[misc] # gunicorn has no types
    """Keeps track of what each connection waits for; one that is being answered waits for nothing.

    Idle connections are closed to make room for new ones, so that they cannot keep other clients out.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        settings = Settings.from_env(os.environ)
        self.worker_connections: int
        most = settings.max_body_bytes
        self.room = Room(most, max(MAX_COLLECTED_BYTES, MAX_COLLECTED_BODIES * most))
        most = max(most, settings.max_batch_bytes)
        self.batch_room = Room(most, max(MAX_COLLECTED_BYTES, MAX_COLLECTED_BATCHES * most))
        #: Of both kinds: those that wait for their clients, and those that are being answered.
        self.most_connections = math.inf
        self.idle = Waiting(settings.api_keepalive_seconds, HttpProtocol.finish)
        self.receiving = Waiting(settings.api_request_timeout_seconds, HttpProtocol.refuse_slow)
        self.sending = Waiting(ANSWER_SECONDS, HttpProtocol.check_progress)
        self.closing = Waiting(LINGER_SECONDS, HttpProtocol.drop)
        self._stops_at = math.inf
        self._sweep_timer: TimerHandle | None = None

    def is_full(self) -> bool:
        """Tell whether another connection needs the place of one that waits for its client.

        Those that are being answered do not count, as clients that watch jobs are being answered for hours.
        """
        waiting = sum(map(len, (self.idle, self.receiving, self.sending, self.closing)))
        return waiting >= self.worker_connections or self.nr_conns >= self.most_connections

    def make_room(self) -> None:
        """End one connection: one that is closing, else the one idle longest, else the one sending longest."""
        if self.closing:
            self.closing.first().drop()
        elif self.idle:
            self.idle.first().drop()
        elif self.receiving:
            self.receiving.first().refuse_slow()
        elif self.sending:
            self.sending.first().drop()

    def sweep_by(self, due: float) -> None:
        """Have a look for connections whose time is over at `due`, by the loop's clock, or before."""
        if self._sweep_timer is None or due < self._sweep_timer.when():
            self._set_sweep_timer(due)

    def handle_exit_signal(self) -> None:
        super().handle_exit_signal()
        self._begin_stop()

    async def _shutdown(self) -> None:
        self._begin_stop()  # unless a signal has: gunicorn also stops when its main process is gone
        await super()._shutdown()

    def _begin_stop(self) -> None:
        self._stops_at = min(self._stops_at, self.loop.time() + STOP_SECONDS)
        event_loop.begin_stop()
        self._sweep()

    def _setup_event_loop(self) -> None:
        super()._setup_event_loop()
        self.loop.create_server = partial(self._create_server, self.loop.create_server)
        self.loop.set_exception_handler(self._on_loop_error)

    async def _create_server(self, create_server: Callable[..., Any], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        # asyncio takes the length of the queue of new connections for the number to accept in one turn, too.
        server = await create_server(*arguments, **options, backlog=ACCEPTED_AT_ONCE)
        options["sock"].listen(self.cfg.backlog)
        return server

    def _sweep(self) -> None:
        self._set_sweep_timer(math.inf)
        now: float = self.loop.time()
        until_stop = math.inf if now >= self._stops_at else now
        self.idle.expire(until_stop)
        self.receiving.expire(until_stop)
        self.sending.expire(now)
        self.closing.expire(now)
        self._set_sweep_timer(max(now + SWEEP_SECONDS, self._next_sweep_at()))

    def _next_sweep_at(self) -> float:
        """Return when the next connection's time is over. Of a process that stops it is over at once."""
        if self._stops_at < math.inf:
            return 0.0
        return min(waiting.ends_at for waiting in (self.idle, self.receiving, self.sending, self.closing))

    def _set_sweep_timer(self, due: float) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        self._sweep_timer = None if due == math.inf else self.loop.call_at(due, self._sweep)

    def _on_loop_error(self, loop: AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _NO_MORE_FILES:
            self._keep_files_free()
        else:
            loop.default_exception_handler(context)

    def _keep_files_free(self) -> None:
        """Have fewer connections from now on: no file could be opened for a new one."""
        # asyncio reports the same failure many times in a row.
        most = max(self.nr_conns - SPARE_FILES, 1)
        if most < self.most_connections:
            self.log.warning("No more files can be opened. Connections are limited to %d", most)
            self.most_connections = most
            self.worker_connections = min(self.worker_connections, most)
            for _ in range(SPARE_FILES):
                self.make_room()


class HttpProtocol(ASGIProtocol):  # type: ignore[misc] # as above
    """A client's connection. It gets to the application with whole requests only."""

    transport: Transport
    worker: HttpWorker
    _request_ready: Any

    def __init__(self, worker: HttpWorker) -> None:
        super().__init__(worker)
        #: What this connection waits for, None while it is being answered.
        self._waiting: Waiting | None = None
        #: The bytes received of a request that has not arrived completely, and those of its decoded body.
        self._collected_bytes = 0
        self._body = bytearray()
        #: The room that the request takes: until its head has arrived, the general one.
        self._room = worker.room
        #: Whether the client has closed its sending side.
        self._has_ended = False
        self._last_unsent_bytes = 0
        # No request is read while another is answered, but for what has arrived with that one.
        self._max_buffer_size = 0

    @property
    def unsent_bytes(self) -> int:
        """The bytes of responses that the client has not taken, beside those in the kernel's buffer."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: Transport) -> None:
        if self.worker.is_full():
            self.worker.make_room()
        super().connection_made(transport)
        self._wait(self.worker.idle)

    def data_received(self, data: bytes) -> None:
        if not self._closed:  # else only the end is waited for
            super().data_received(data)

    def eof_received(self) -> bool:
        """Return whether the connection stays open, because a request is being answered."""
        self._has_ended = True
        if self._waiting is self.worker.receiving and self._current_request is not None:
            self._refuse(_BODY_INCOMPLETE)
        return not self._closed and self._waiting not in (self.worker.idle, self.worker.receiving)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        # Otherwise gunicorn would cancel a request that is being answered, whose end must be logged and counted.
        self._task = None
        super().connection_lost(exc)
        self.resume_writing()
        self._request_ready.set()

    def pause_writing(self) -> None:
        """Note that the client does not read its response as fast as it is written. asyncio calls this."""
        super().pause_writing()
        self._wait_for_reading()
        sending = self.worker.sending
        while len(sending) > 1 and sending.unsent_bytes() > MAX_UNSENT_BYTES:
            sending.first().drop()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._waiting is self.worker.sending and not self._closed:
            self._wait(None)

    def finish(self) -> None:
        """Close the connection when what was written has been sent."""
        self._close_transport()

    def drop(self) -> None:
        """Close the connection at once."""
        self._closed = True
        self._wait(None)
        self.transport.abort()

    def refuse_slow(self) -> None:
        """Refuse an unfinished request for which the time is over."""
        self._refuse(_TOO_SLOW)

    def check_progress(self) -> None:
        """Close the connection if its client has not read anything for a while."""
        if self.unsent_bytes in (0, self._last_unsent_bytes):
            self.drop()
        else:
            self._wait_for_reading()

    def _feed_callback_parser(self, data: bytes) -> bool:
        """Parse what has arrived. Return False if the connection is closed."""
        try:
            goes_on = super()._feed_callback_parser(data)
        except Refusal as refusal:
            self._refuse(refusal.reply)
        except ValueError:  # int() refuses a length of thousands of digits
            self._refuse(self._room.too_large)
        else:
            if goes_on and not self._callback_parser.is_complete:
                self._collect(len(data))
        return not self._closed

    def _collect(self, count: int) -> None:
        """Note that a request is unfinished, and refuse it if it is too large."""
        if not self._collected_bytes:
            self._wait(self.worker.receiving)
        self._collected_bytes += count
        self._room.bytes += count
        receiver = self._body_receiver
        if receiver is None and self._collected_bytes > MAX_HEAD_BYTES:
            self._refuse(_HEAD_TOO_LARGE)
        elif self._collected_bytes > MAX_HEAD_BYTES + self._room.max_body_bytes + CHUNKING_BYTES:
            self._refuse(self._room.too_large)
        elif self._room.bytes > self._room.max_bytes:
            self._refuse(_NO_ROOM)
        elif receiver is not None and receiver.expect_continue:
            receiver.expect_continue = False
            self._safe_write(_CONTINUE)

    def _on_headers_complete(self) -> bool:
        # With the event in place, gunicorn would call the application before the body has arrived.
        ready, self._request_ready = self._request_ready, None
        try:
            super()._on_headers_complete()
        finally:
            self._request_ready = ready
        request = self._current_request
        if sum(len(name) + len(value) for name, value in request.headers_bytes) > MAX_HEAD_BYTES:
            raise Refusal(_HEAD_TOO_LARGE)
        _remove_authority(request)
        self._change_room(self._room_for(request))
        if request.content_length > self._room.max_body_bytes:
            # Without a look at the body. gunicorn would read all of it before the next request.
            raise Refusal(self._room.too_large)
        return False

    def _room_for(self, request: CallbackRequest) -> Room:
        is_batch = request.method == "POST" and request.path == batch_body.PATH
        return self.worker.batch_room if is_batch else self.worker.room

    def _change_room(self, room: Room) -> None:
        self._room.bytes -= self._collected_bytes
        room.bytes += self._collected_bytes
        self._room = room

    def _on_body(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > self._room.max_body_bytes:
            raise Refusal(self._room.too_large)

    def _on_message_complete(self) -> None:
        self._wait(None)
        self._body_receiver.feed(bytes(self._body))
        self._body.clear()
        super()._on_message_complete()
        self._request_ready.set()

    def _http1_buffered(self) -> int:
        """Return the bytes of the requests that follow the present one. Above `_max_buffer_size` none are read."""
        return len(self._callback_parser.remaining())

    def _arm_keepalive_timer(self) -> None:
        """Wait for the next request. gunicorn calls this when all that have arrived are answered."""
        if self._has_ended:
            self._close_transport()
        elif not self._collected_bytes:
            self._wait(self.worker.idle)

    def _close_transport(self) -> None:
        """Close the sending side, and wait until the client closes too (RFC 9112, section 9.6)."""
        if self._closed:
            return
        self._closed = True
        self._request_ready.set()
        self._resume_reading()
        with suppress(OSError):  # the client has disconnected
            self.transport.write_eof()
        if self.unsent_bytes:
            self._wait_for_reading()
        else:
            self._wait(self.worker.closing)
        if self._has_ended:
            self.transport.close()

    def _refuse(self, reply: bytes) -> None:
        self._safe_write(reply)
        self._close_transport()

    def _wait(self, waiting: Waiting | None) -> None:
        if self._waiting is not None:
            self._waiting.remove(self)
        self._waiting = waiting
        if waiting is not None:
            now = self.worker.loop.time()
            waiting.add(self, now)
            self.worker.sweep_by(now + waiting.seconds)
        if waiting is not self.worker.receiving:
            self._room.bytes -= self._collected_bytes
            self._collected_bytes = 0
            self._room = self.worker.room

    def _wait_for_reading(self) -> None:
        self._last_unsent_bytes = self.unsent_bytes
        self._wait(self.worker.sending)

    def _send_response_start(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        request: CallbackRequest,
        close: bool = False,
    ) -> None:
        if request.version == (1, 0) and not close:
            # HTTP/1.0 clients take a connection to be closed unless they are told.
            headers = [*headers, (b"connection", b"keep-alive")]
        super()._send_response_start(status, headers, request, close=close)

    def _send_error_response(self, status: int, message: str, extra_headers: Any = ()) -> None:  # noqa: ANN401, ARG002
        """Send a refusal of gunicorn's own as a problem document."""
        reason = HTTPStatus(status).phrase
        self._safe_write(_problem(status, reason, self._code(status), _DETAILS.get(status) or message or reason))

    def _code(self, status: int) -> str:
        if status == HTTPStatus.BAD_REQUEST and self._current_request is not None:
            return "malformed_body"
        return _CODES.get(status) or HTTPStatus(status).phrase.lower().replace(" ", "_")

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:  # noqa: ANN401
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        scope[IS_OPEN] = self.is_open
        return scope

    def is_open(self) -> bool:
        """Return whether what is sent can still reach the client."""
        return not self._closed

    def _is_websocket_upgrade(self, request: Any) -> bool:  # noqa: ANN401, ARG002
        """Answer such a request like any other: no resource is a WebSocket."""
        return False


def _remove_authority(request: Any) -> None:  # noqa: ANN401
    """Take the path from a request target that is a whole URL, which clients may send (RFC 9112, section 3.2.2)."""
    if not request.raw_path.startswith(b"/") and b"://" in request.raw_path:
        path = "/" + request.raw_path.decode("latin-1").partition("://")[2].partition("/")[2]
        request.raw_path, request.path = path.encode("latin-1"), unquote(path)


def _problem(status: int, reason: str, code: str, detail: str) -> bytes:
    """Return a whole HTTP response with a problem document, for requests that never reach the application."""
    problem = {"type": problem_types.uri(code), "title": reason, "status": status, "detail": detail, "code": code}
    body = msgspec.json.encode(problem)
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": len(body),
        "Cache-Control": "no-store",
        "Connection": "close",
        **SECURITY_HEADERS,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body


#: The codes that are not derived from the status's phrase.
_CODES = {414: "uri_too_long", 431: "headers_too_large"}

#: For statuses of which gunicorn's message is no sentence.
_DETAILS = {501: "Send the body with a Content-Length, or with Transfer-Encoding: chunked."}

_TOO_SLOW = _problem(408, "Request Timeout", "request_timeout", "The request did not arrive in time. Send it faster.")
_HEAD_TOO_LARGE = _problem(
    431,
    "Request Header Fields Too Large",
    "headers_too_large",
    f"Send a request line and headers of at most {MAX_HEAD_BYTES} bytes together.",
)
_BODY_INCOMPLETE = _problem(
    400, "Bad Request", "malformed_body", "the body is shorter than its Content-Length, or its chunks are malformed"
)
_NO_ROOM = _problem(
    503,
    "Service Unavailable",
    "too_many_unfinished_requests",
    "Too many requests are arriving at the same time. Try again later.",
)

# gunicorn's worker creates its own protocol, and has no setting for another.
gasgi.ASGIProtocol = HttpProtocol

# Nobody needs to know by what program requests are answered. There is no setting for this either.
protocol._CACHED_SERVER_HEADER = b""  # noqa: SLF001
