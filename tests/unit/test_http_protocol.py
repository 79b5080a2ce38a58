"""What a connection gives to the application, and what it refuses: gunicorn's worker without a process of its own."""

import asyncio
import errno
import json
import math
import re
import socket
import struct
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from hypothesis import given, strategies as st

from jobs_service.api import http_protocol
from jobs_service.api.http_protocol import IS_OPEN, MAX_HEAD_BYTES, HttpProtocol, HttpWorker

MAX_BODY_BYTES = 1_024
MAX_BATCH_BYTES = 4_096
BATCH = "/jobs/batch"
#: The tests end what takes longer.
PATIENCE_SECONDS = 60
#: More than the buffers of both sockets take.
MUCH = b"x" * 30_000_000

seen = ContextVar("seen", default="nothing")


class App:
    """An application that keeps what it is called with, and answers when it may."""

    def __init__(self, answer=b"{}"):
        self.answer = answer
        self.requests = []
        self.ended = 0
        self.contexts = []
        self.is_open = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope, receive, send):
        event = await receive()
        assert event["type"] == "http.request"
        assert not event["more_body"]
        self.requests.append((scope["method"], scope["path"], event["body"]))
        self.is_open = scope[IS_OPEN]
        self.contexts.append(seen.get())
        seen.set(scope["path"])
        await self.go.wait()
        self.contexts.append(seen.get())
        length = (b"content-length", str(len(self.answer)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": self.answer})
        self.ended += 1


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    for name, value in {
        "DATABASE_URL": "postgresql://localhost/none",
        "REDIS_URL": "redis://localhost",
        "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "MAX_BATCH_BYTES": str(MAX_BATCH_BYTES),
    }.items():
        monkeypatch.setenv(name, value)


class Server:
    """A worker that listens, and its application."""

    def __init__(self):
        self.app = App()
        config = Config()
        config.set("asgi_loop", "asyncio")
        self.worker = HttpWorker(0, 0, [], None, 30, config, Logger(config))
        self.worker.asgi = self.app
        self.worker.loop = asyncio.get_running_loop()
        self.connections = []
        self.clients = []

    def connection(self):
        self.connections.append(HttpProtocol(self.worker))
        return self.connections[-1]

    async def connect(self, data=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**26)
        self.clients.append(writer)
        writer.write(data)
        return reader, writer

    async def answers(self, data, *, end=True):
        """Send bytes and return everything that comes back until the server closes."""
        reader, writer = await self.connect(data)
        if end:
            writer.write_eof()
        return await reader.read()


@asynccontextmanager
async def listening():
    server = Server()
    listener = await asyncio.get_running_loop().create_server(server.connection, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.app.go.set()
        for writer in server.clients:
            writer.transport.abort()
        for connection in server.connections:
            connection.drop()
        listener.close()


def served(scenario):
    """Run a scenario beside a server."""

    async def run():
        async with listening() as server, asyncio.timeout(PATIENCE_SECONDS):
            return await scenario(server)

    return asyncio.run(run())


async def until(check):
    """Let the loop go on until something is true. A scenario ends if it never is."""
    while not check():  # noqa: ASYNC110 - most of what is waited for is no event
        await asyncio.sleep(0)


def request(*headers, body=b"", version="HTTP/1.1", method="POST", path="/jobs"):
    return "\r\n".join([f"{method} {path} {version}", "Host: a", *headers, "", ""]).encode() + body


def statuses(answers):
    return [int(status) for status in re.findall(rb"HTTP/1\.\d (\d+)", answers)]


def code(answers):
    return json.loads(answers.rpartition(b"\r\n\r\n")[2])["code"]


WHOLE = {
    request(): b"",
    request("Content-Length: 0"): b"",
    request("content-length:5", body=b"12345"): b"12345",
    request("Content-Length: 8", body=b"1\r\n\r\n234"): b"1\r\n\r\n234",
    request("Content-Length: 2", "Expect: 100-continue", body=b"{}"): b"{}",
    request(f"Content-Length: {'0' * 30}2", body=b"{}"): b"{}",
    request("Transfer-Encoding: chunked", body=b"0\r\n\r\n"): b"",
    request(
        "transfer-encoding: gzip, Chunked", body=b"5\r\n12345\r\nA;x=y\r\n0\r\n\r\n45678\r\n0\r\nX: y\r\n\r\n"
    ): b"123450\r\n\r\n45678",
}


@given(st.sampled_from(list(WHOLE)), st.data())
def test_the_application_gets_a_request_with_its_last_byte_and_not_before(data, draw):
    cuts = sorted(draw.draw(st.lists(st.integers(1, len(data) - 1), max_size=5)))

    async def scenario(server):
        connection = server.connection()
        connection.connection_made(Silent())
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            assert server.app.requests == []
            connection.data_received(data[start:end])
            await asyncio.sleep(0)
        await until(lambda: server.app.ended)
        assert server.app.requests == [("POST", "/jobs", WHOLE[data])]
        assert server.worker.room.bytes == 0

    served(scenario)


class Silent(asyncio.Transport):
    """A transport that takes everything."""

    def write(self, data):
        pass

    def writelines(self, parts):
        pass

    def write_eof(self):
        pass

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return 0

    def abort(self):
        pass


@pytest.mark.parametrize(
    ("data", "expected"),
    {
        request(f"Content-Length: {MAX_BODY_BYTES + 1}"): (413, "content_too_large"),
        request(f"Content-Length: {'9' * 5_000}"): (413, "content_too_large"),
        request(f"Content-Length: {MAX_BODY_BYTES + 1}", "Expect: 100-continue"): (413, "content_too_large"),
        request("Transfer-Encoding: chunked", body=b"fff\r\n" + b"x" * 4_095): (413, "content_too_large"),
        request(f"Content-Length: {MAX_BATCH_BYTES + 1}", path=BATCH): (413, "content_too_large"),
        request("Transfer-Encoding: chunked", path=BATCH, body=b"1001\r\n" + b"x" * 4_097): (413, "content_too_large"),
        # The room is that of submitting a batch, not of all that is sent there.
        request(f"Content-Length: {MAX_BODY_BYTES + 1}", path=BATCH, method="GET"): (413, "content_too_large"),
        request(f"Content-Length: {MAX_BODY_BYTES + 1}", path=f"{BATCH}/x"): (413, "content_too_large"),
        request(f"Content-Length: {MAX_BODY_BYTES + 1}", path=f"/x?{BATCH}"): (413, "content_too_large"),
        # No more than the body itself: the rest are extensions of chunks.
        request("Transfer-Encoding: chunked", body=(b"1;a=" + b"x" * 5_000 + b"\r\nx\r\n") * 30): (
            413,
            "content_too_large",
        ),
        request(*[f"X-{number}: {'x' * 7_000}" for number in range(10)]): (431, "headers_too_large"),
        b"\r\n" + b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 90 + b"X: " + b"x" * 9_000: (431, "headers_too_large"),
        request(body=b"", path=f"/{'x' * 5_000}"): (414, "uri_too_long"),
        request("Content-Length: x"): (400, "bad_request"),
        request("Content-Length: 2", "Content-Length: 2", body=b"{}"): (400, "bad_request"),
        request("Content-Length: 2", "Transfer-Encoding: chunked", body=b"{}"): (400, "bad_request"),
        request("Transfer-Encoding: chunked", body=b"zz\r\n"): (400, "malformed_body"),
        request("Content-Length: 9", body=b"{}"): (400, "malformed_body"),
        request("Transfer-Encoding: chunked", body=b"2\r\n{}\r\n"): (400, "malformed_body"),
    }.items(),
)
def test_what_is_refused_does_not_reach_the_application(data, expected):
    async def scenario(server):
        answers = await server.answers(data)
        assert (*statuses(answers), code(answers)) == expected
        assert b"Connection: close" in answers
        assert server.app.requests == []
        assert server.worker.room.bytes == server.worker.batch_room.bytes == 0

    served(scenario)


@pytest.mark.parametrize("target", [BATCH, f"{BATCH}?mode=partial", f"http://a.example{BATCH}", "/jobs/b%61tch"])
def test_a_batch_may_be_larger_than_other_bodies_and_the_next_request_may_not(target):
    async def scenario(server):
        batch = request(f"Content-Length: {MAX_BATCH_BYTES}", path=target, body=b"x" * MAX_BATCH_BYTES)
        answers = await server.answers(batch + request(f"Content-Length: {MAX_BODY_BYTES + 1}"))
        assert statuses(answers) == [200, 413]
        [(_, path, body)] = server.app.requests
        assert (path, len(body)) == (BATCH, MAX_BATCH_BYTES)

    served(scenario)


def test_unfinished_batches_keep_out_further_ones_and_no_other_request():
    async def scenario(server):
        room, batches = server.worker.room, server.worker.batch_room
        batches.max_bytes = 2 * MAX_BATCH_BYTES
        begun = request(f"Content-Length: {MAX_BATCH_BYTES}", path=BATCH, body=b"x" * (MAX_BATCH_BYTES - 1))
        # The head comes in two pieces: until it is whole, nobody knows what it begins.
        _, first = await server.connect(begun[:20])
        await until(lambda: room.bytes == 20)
        first.write(begun[20:])
        await until(lambda: (room.bytes, batches.bytes) == (0, len(begun)))

        refused = await server.answers(begun, end=False)
        assert (*statuses(refused), code(refused)) == (503, "too_many_unfinished_requests")
        assert statuses(await server.answers(request("Content-Length: 2", body=b"{}"))) == [200]

        first.close()
        await until(lambda: batches.bytes == 0)
        assert room.bytes == 0
        assert statuses(await server.answers(begun + b"x")) == [200]

    served(scenario)


def test_a_head_without_end_is_refused_however_it_is_cut():
    async def scenario(server):
        reader, writer = await server.connect(b"POST / HTTP/1.1\r\n")
        line = b"X: " + b"x" * 1_000 + b"\r\n"
        for _ in range(MAX_HEAD_BYTES // len(line) + 1):
            writer.write(line)
        assert code(await reader.read()) == "headers_too_large"

    served(scenario)


@pytest.mark.parametrize("begun", [b"", b"POST /jobs HTT", request()[:-2]])
def test_a_client_that_closes_before_its_request_has_a_head_gets_nothing(begun):
    async def scenario(server):
        assert await server.answers(begun) == b""
        await until(lambda: server.worker.nr_conns == 0)

    served(scenario)


def test_a_client_that_has_closed_its_side_gets_all_its_answers():
    async def scenario(server):
        server.app.go.clear()
        reader, writer = await server.connect(request(path="/1") + request(path="/2"))
        writer.write_eof()
        await until(lambda: server.app.requests)
        server.app.go.set()

        assert statuses(await reader.read()) == [200, 200]
        assert [path for _, path, _ in server.app.requests] == ["/1", "/2"]
        await until(lambda: server.worker.nr_conns == 0)

    served(scenario)


def test_a_client_is_told_once_to_send_its_body():
    async def scenario(server):
        reader, writer = await server.connect(request("Content-Length: 2", "Expect: 100-Continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{")
        await until(lambda: server.worker.room.bytes and server.connections[0]._body == b"{")
        writer.write(b"}")
        writer.write_eof()
        assert statuses(await reader.read()) == [200]

    served(scenario)


def test_a_client_of_http_1_0_is_told_that_its_connection_stays_open():
    async def scenario(server):
        stays = await server.answers(request("Connection: keep-alive", version="HTTP/1.0"))
        closes = await server.answers(request(version="HTTP/1.0"), end=False)
        assert b"connection: keep-alive" in stays
        assert b"keep-alive" not in closes
        assert b"Connection: close" in closes

    served(scenario)


def test_a_target_may_be_a_whole_url():
    async def scenario(server):
        await server.answers(request(path="http://a.example:80/jobs/%41?limit=1"))
        await server.answers(request(path="http://a.example"))
        assert [path for _, path, _ in server.app.requests] == ["/jobs/A", "/"]

    served(scenario)


def test_a_wish_for_a_web_socket_is_not_granted():
    async def scenario(server):
        upgrade = request("Connection: Upgrade", "Upgrade: websocket", method="GET")
        assert statuses(await server.answers(upgrade)) == [200]

    served(scenario)


def test_unfinished_requests_share_their_memory_and_give_it_back():
    async def scenario(server):
        server.worker.room.max_bytes = 2_900
        begun = request("Content-Length: 1000", body=b"x" * 900)
        for _ in range(2):
            await server.connect(begun)
        await until(lambda: server.worker.room.bytes == 2 * len(begun))
        refused = await server.answers(begun + b"x" * 99, end=False)
        assert (*statuses(refused), code(refused)) == (503, "too_many_unfinished_requests")

        server.clients[0].close()
        await until(lambda: server.worker.room.bytes == len(begun))
        assert statuses(await server.answers(begun + b"x" * 100)) == [200]

    served(scenario)


def test_what_follows_a_request_is_not_read_while_that_is_answered():
    async def scenario(server):
        server.app.go.clear()
        _, writer = await server.connect(request())
        await until(lambda: server.app.requests)
        writer.write(MUCH)
        await until(lambda: server.connections[0]._reading_paused)
        # What asyncio reads at a time is the most there is of it.
        assert len(server.connections[0]._callback_parser.remaining()) <= 2**18
        assert writer.transport.get_write_buffer_size() > 0

    served(scenario)


def test_answers_that_are_not_read_share_their_memory(monkeypatch):
    monkeypatch.setattr(http_protocol, "MAX_UNSENT_BYTES", len(MUCH))

    async def scenario(server):
        server.app.answer = MUCH
        await server.connect(request())
        await until(lambda: len(server.worker.sending) == 1)
        first, second = server.connections[0], await server.connect(request())
        await until(lambda: first._conn_lost_handled)
        assert len(server.worker.sending) == 1
        server.app.answer = b"{}"
        assert statuses(await server.answers(request())) == [200]
        assert not second[1].is_closing()

    served(scenario)


def test_a_client_may_read_slowly_but_not_stop():
    async def scenario(server):
        server.app.answer = MUCH
        reader, _ = await server.connect(request("Connection: close"))
        await until(lambda: len(server.worker.sending) == 1)
        [connection] = server.connections
        unsent = connection.unsent_bytes
        await reader.readexactly(len(MUCH) // 2)
        await until(lambda: connection.unsent_bytes < unsent)
        server.worker.sending.expire(math.inf)
        assert len(server.worker.sending) == 1
        # As if nothing had been read since.
        connection._last_unsent_bytes = connection.unsent_bytes
        server.worker.sending.expire(math.inf)
        await until(lambda: server.worker.nr_conns == 0)

    served(scenario)


def test_an_answer_that_was_read_to_its_end_leaves_nothing_behind():
    async def scenario(server):
        server.app.answer = MUCH
        reader, writer = await server.connect(request())
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(MUCH))
        await until(lambda: len(server.worker.idle) == 1)
        assert len(server.worker.sending) == 0
        writer.close()
        await until(lambda: server.worker.nr_conns == 0)
        assert len(server.worker.idle) == 0

    served(scenario)


def test_what_waits_too_long_is_ended():
    async def scenario(server):
        idle, receiving = await server.connect(), await server.connect(request()[:9])
        answered = await server.connect(request())
        await answered[0].readuntil(b"{}")
        await until(lambda: (len(server.worker.idle), len(server.worker.receiving)) == (2, 1))
        server.worker.receiving.expire(math.inf)
        assert code(await receiving[0].read()) == "request_timeout"
        server.worker.idle.expire(math.inf)
        assert await idle[0].read() == b""
        assert await answered[0].read() == b""
        assert len(server.worker.closing) == 3
        # The clients do not close.
        server.worker.closing.expire(math.inf)
        await until(lambda: server.worker.nr_conns == 0)

    served(scenario)


def test_connections_are_looked_at_when_the_first_of_their_times_ends_and_only_then(monkeypatch):
    monkeypatch.setattr(http_protocol, "SWEEP_SECONDS", 0)

    async def scenario(server):
        worker = server.worker
        assert worker._sweep_timer is None
        idle, _ = await server.connect()
        await until(lambda: len(worker.idle) == 1)
        assert worker._sweep_timer.when() == worker.idle.ends_at
        # It began to wait later, and may wait for less long.
        worker.receiving.seconds = worker.closing.seconds = 0
        late, _ = await server.connect(request()[:9])
        assert code(await late.read()) == "request_timeout"
        await until(lambda: worker.nr_conns == 1)
        assert len(worker.idle) == 1
        worker.idle.seconds = 0
        worker._sweep()
        assert await idle.read() == b""
        await until(lambda: worker.nr_conns == 0)
        await until(lambda: worker._sweep_timer is None)

    served(scenario)


def test_a_process_that_stops_ends_idle_connections_by_itself(monkeypatch):
    monkeypatch.setattr(http_protocol, "SWEEP_SECONDS", 0)
    monkeypatch.setattr(http_protocol, "STOP_SECONDS", 0)

    async def scenario(server):
        idle, _ = await server.connect()
        await until(lambda: len(server.worker.idle) == 1)
        server.worker.handle_exit_signal()
        assert await idle.read() == b""

    served(scenario)


def test_what_has_not_waited_long_is_left_alone():
    async def scenario(server):
        await server.connect()
        await server.connect(request()[:9])
        await until(lambda: (len(server.worker.idle), len(server.worker.receiving)) == (1, 1))
        server.worker._sweep()
        assert (len(server.worker.idle), len(server.worker.receiving)) == (1, 1)

    served(scenario)


def test_room_is_made_by_who_is_needed_least():
    async def scenario(server):
        worker = server.worker
        await server.connect(request()[:9])
        await until(lambda: len(worker.receiving) == 1)
        older, newer = await server.connect(), await server.connect()
        await until(lambda: len(worker.idle) == 2)
        server.app.go.clear()
        busy = await server.connect(request())
        await until(lambda: server.app.requests)

        worker.make_room()
        assert await older[0].read() == b""
        worker.make_room()
        assert await newer[0].read() == b""
        worker.make_room()
        assert (len(worker.receiving), len(worker.closing)) == (0, 1)
        worker.make_room()
        worker.make_room()
        server.app.go.set()
        assert await busy[0].readuntil(b"{}")

    served(scenario)


def test_more_connections_than_allowed_close_those_that_are_idle():
    async def scenario(server):
        server.worker.worker_connections = 3
        clients = [await server.connect() for _ in range(6)]
        await until(lambda: server.worker.nr_conns <= 3 and len(server.connections) == 6)
        assert await clients[0][0].read() == b""
        clients[-1][1].write(request())
        assert await clients[-1][0].readuntil(b"{}")

    served(scenario)


def test_connections_that_are_being_answered_take_no_places():
    async def scenario(server):
        server.worker.worker_connections = 3
        server.app.go.clear()
        watching = [await server.connect(request()) for _ in range(6)]
        await until(lambda: len(server.app.requests) == 6)
        idle = [await server.connect() for _ in range(3)]
        await until(lambda: server.worker.nr_conns == 9)
        another = await server.connect()
        assert await idle[0][0].read() == b""
        await until(lambda: server.worker.nr_conns == 9)
        server.app.go.set()
        for reader, _ in watching:
            assert await reader.readuntil(b"{}")
        another[1].write(request())
        assert await another[0].readuntil(b"{}")

    served(scenario)


def test_without_further_files_there_are_fewer_connections():
    async def scenario(server):
        for _ in range(40):
            await server.connect()
        await until(lambda: server.worker.nr_conns == 40)
        error = OSError(errno.EMFILE, "Too many open files")
        for _ in range(100):  # as asyncio does
            server.worker._on_loop_error(server.worker.loop, {"message": "", "exception": error})
        await until(lambda: server.worker.nr_conns == 8)
        assert server.worker.worker_connections == 8

    served(scenario)


@pytest.mark.parametrize("linger", [struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)], ids=["closed", "reset"])
def test_a_request_whose_client_has_gone_is_carried_out(linger):
    async def scenario(server):
        server.app.go.clear()
        _, writer = await server.connect(request())
        await until(lambda: server.app.requests)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        [connection] = server.connections
        await until(lambda: connection._has_ended or connection._closed)
        server.app.go.set()
        await until(lambda: server.app.ended == 1)
        await until(lambda: server.worker.nr_conns == 0)

    served(scenario)


def test_what_a_request_binds_is_seen_by_no_other():
    async def scenario(server):
        server.app.go.clear()
        clients = [await server.connect(request(path=f"/{number}") * 2) for number in range(3)]
        await until(lambda: len(server.app.requests) == 3)
        server.app.go.set()
        for reader, writer in clients:
            writer.write_eof()
            assert statuses(await reader.read()) == [200, 200]

        assert server.app.contexts.count("nothing") == 6
        assert sorted(server.app.contexts)[:6] == ["/0", "/0", "/1", "/1", "/2", "/2"]

    served(scenario)


def test_the_application_is_told_whether_its_client_is_still_there():
    async def scenario(server):
        server.app.go.clear()
        _, writer = await server.connect(request("Content-Length: 0"))
        await until(lambda: server.app.requests)
        assert server.app.is_open()
        writer.transport.abort()
        # Seen when something is sent: while a request is answered, nothing is read.
        [connection] = server.connections
        await until(lambda: connection.transport.write(b"x") or not server.app.is_open())

    served(scenario)
