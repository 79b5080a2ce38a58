"""A TCP proxy on loopback that a test puts between the service and one of its servers, and then makes fail."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Self

from devstack.ports import free_port, release

HOST = "127.0.0.1"

_PIECE = 65_536
#: Closing a socket with this option sends a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)
#: Pieces a second in which a throttled stream is passed on: fewer would be bursts, more would be rounding.
_THROTTLED_PIECES = 20


@dataclass(eq=False)
class _Link:
    """One client's connection and the proxy's own one to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    #: The end of what the client sent, in which the next piece may complete a match.
    tail: bytes = b""
    reply_is_lost: bool = False

    def reset(self) -> None:
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


@dataclass
class _Loss:
    """The order to lose the replies to requests that hold `request`: `times` of them, after the first `spared`."""

    request: bytes
    times: int
    spared: int

    def strikes(self) -> bool:
        self.spared -= 1
        if self.spared >= 0:
            return False
        self.times -= 1
        return self.times >= 0


@dataclass
class Proxy:
    """Passes everything on until it is told otherwise; `heal` ends every fault. A context manager, thread-safe.

    `blackhole` is what TCP makes of a network that drops every packet: both ends keep their connection, nothing
    arrives, and what was sent meanwhile arrives when it is over, even from a client that has long given up. It may drop
    those of one direction only: then the server carries out requests whose answers do not arrive, or it gets none
    while what it had begun to say still arrives.
    """

    target_port: int
    port: int = field(default_factory=free_port)
    #: Seconds by which each piece is late, in each direction.
    latency_seconds: float = 0.0
    #: None: as fast as it goes. Counts in each direction.
    bytes_per_second: float | None = None
    #: How many replies were lost so far.
    lost: int = 0

    def __enter__(self) -> Self:
        self._links: set[_Link] = set()
        self._losses: list[_Loss] = []
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._requests_flow, self._answers_flow = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}")
        self._thread.start()
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        release(self.port)

    def heal(self) -> None:
        """End every fault. Connections that were cut stay cut."""
        self.latency_seconds, self.bytes_per_second = 0.0, None
        self._losses.clear()
        self._do(self._flow(requests=True, answers=True))
        self._do(self._listen())

    def refuse(self) -> None:
        """Refuse new connections, as a port without a listener does. Those that there are go on."""
        self._do(self._deafen())

    def cut(self) -> None:
        """Reset every connection. New ones are welcome."""
        self._do(self._reset_all())

    def down(self) -> None:
        """Behave as a killed server's machine: reset every connection and refuse new ones."""
        self.refuse()
        self.cut()

    def blackhole(self, *, requests: bool = True, answers: bool = True) -> None:
        """Deliver nothing of these directions, and say nothing about it, until `heal`. New connections wait too."""
        self._do(self._flow(requests=not requests, answers=not answers))

    def lose_reply(self, request: bytes, *, times: int = 1, spared: int = 0) -> None:
        """Pass on a request that holds these bytes, and cut the connection when its reply comes."""
        self._losses.append(_Loss(request, times, spared))

    @property
    def connections(self) -> int:
        return len(self._links)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, HOST, self.port, limit=_PIECE)

    async def _deafen(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _flow(self, *, requests: bool, answers: bool) -> None:
        for flow, flows in ((self._requests_flow, requests), (self._answers_flow, answers)):
            if flows:
                flow.set()
            else:
                flow.clear()

    async def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _end(self) -> None:
        await self._deafen()
        await self._reset_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            # A connection is made of packets in both directions.
            await self._requests_flow.wait()
            await self._answers_flow.wait()
            from_server, server = await asyncio.open_connection(HOST, self.target_port, limit=_PIECE)
        except OSError:
            client.transport.abort()
            return
        link = _Link(client, server)
        self._links.add(link)
        try:
            await asyncio.gather(self._ask(link, from_client), self._answer(link, from_server))
        except OSError:
            link.reset()  # whoever is left learns of the other's end
        except asyncio.CancelledError:
            pass  # asyncio's streams would report it as an error
        finally:
            self._links.discard(link)
            client.close()
            server.close()

    async def _ask(self, link: _Link, source: asyncio.StreamReader) -> None:
        while data := await self._receive(source, self._requests_flow):
            link.reply_is_lost = link.reply_is_lost or self._matches(link, data)
            await self._send(link.server, data)
        await _finish(link.server)

    async def _answer(self, link: _Link, source: asyncio.StreamReader) -> None:
        while data := await self._receive(source, self._answers_flow):
            if link.reply_is_lost:
                self.lost += 1
                link.reset()
                return
            await self._send(link.client, data)
        await _finish(link.client)

    def _matches(self, link: _Link, data: bytes) -> bool:
        """Look for a request also where its bytes came in two pieces; count it once."""
        struck = False
        for loss in self._losses:
            overlap = link.tail[-(len(loss.request) - 1) :] if len(loss.request) > 1 else b""
            struck = ((overlap + data).count(loss.request) > 0 and loss.strikes()) or struck
        link.tail = (link.tail + data)[-1_024:]
        return struck

    async def _receive(self, source: asyncio.StreamReader, flow: asyncio.Event) -> bytes:
        data = await source.read(_PIECE)
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        await flow.wait()
        return data

    async def _send(self, sink: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            rate = self.bytes_per_second
            size = len(data) if rate is None else max(1, int(rate / _THROTTLED_PIECES))
            sink.write(data[:size])
            await sink.drain()
            data = data[size:]
            if rate is not None:
                await asyncio.sleep(size / rate)


async def _finish(sink: asyncio.StreamWriter) -> None:
    if sink.can_write_eof():
        sink.write_eof()
