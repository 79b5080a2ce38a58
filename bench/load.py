"""The load generator: `python -m bench.load PORT JOBS CONCURRENCY` posts the jobs and prints what it saw as JSON.

It is a separate process, so that its CPU time is not counted. Each connection is kept alive and sends its next request
when the last one is answered (a closed loop). It has one thread and no HTTP library, so that it is not the bottleneck.
"""

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field

BODY = b'{"type":"csv-generation","payload":{"name":"Alice","score":95}}'
TIMEOUT_SECONDS = 60


@dataclass
class Load:
    """Drives the connections and collects the answers."""

    port: int
    jobs: int
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    sent: int = 0
    seconds: list[float] = field(default_factory=list)

    def run(self, concurrency: int) -> dict[str, object]:
        connections = [Connection(self) for _ in range(min(concurrency, self.jobs))]
        began_at = time.monotonic()
        for connection in connections:
            connection.send()
        while len(self.seconds) < self.jobs:
            ready = self.selector.select(TIMEOUT_SECONDS)
            if not ready:
                raise SystemExit(f"no answer in {TIMEOUT_SECONDS} s")
            for key, _ in ready:
                key.data.receive()
        return {"began_at": began_at, "answered_at": time.monotonic(), "answer_seconds": self.seconds}


class Connection:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._request = b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._request += b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._load.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._load.selector.register(self._socket, selectors.EVENT_READ, self)
        self._waiting = False

    def send(self) -> None:
        if self._load.sent == self._load.jobs:
            return
        self._load.sent += 1
        self._answer, self._waiting = b"", True
        self._sent_at = time.monotonic()
        self._socket.sendall(self._request)

    def receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            self._closed()
            return
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if end and len(body) >= content_length(head):
            self._answered(head.lower())

    def _answered(self, head: bytes) -> None:
        if not head.startswith((b"http/1.1 201", b"http/1.0 201")):
            raise SystemExit(f"the API answered: {self._answer.decode(errors='replace')[:500]}")
        self._load.seconds.append(time.monotonic() - self._sent_at)
        self._waiting = False
        if b"\r\nconnection: close" in head:
            self._reconnect()
        self.send()

    def _closed(self) -> None:
        """Fail if the server closes a connection with an unanswered request. It may close an idle one."""
        if self._waiting:
            raise SystemExit("the API closed a connection")
        self._load.selector.unregister(self._socket)

    def _reconnect(self) -> None:
        self._load.selector.unregister(self._socket)
        self._socket.close()
        self._connect()


def content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise SystemExit("the API answered without a Content-Length")


if __name__ == "__main__":
    port, jobs, concurrency = map(int, sys.argv[1:])
    print(json.dumps(Load(port, jobs).run(concurrency)))
