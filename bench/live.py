"""`python -m bench.live`: how soon clients that watch and wait are told, of one API process.

Every time is counted from the one that the row or the event has: that of the transaction, just before its commit.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from bench import command, systems
from bench.errors import Failed
from bench.load import BODY
from bench.observer import Observer
from bench.rounds import percentile
from bench.servers import Servers
from bench.systems import Stack

#: A job that no worker takes meanwhile: only its being submitted is told.
LATER = b'{"type":"csv-generation","payload":{},"delay_seconds":3600}'
STREAMS_PATH = "/events?type=csv-generation&status=pending"


async def _connect(port: int, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request. The connection is open as long as its writer exists."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    return reader, writer


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()


def _post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _ask(port: int, request: bytes) -> tuple[float, dict]:
    """Return when the whole answer had come, and its JSON."""
    reader, writer = await _connect(port, request)
    answer = await reader.read()
    writer.close()
    status, _, body = answer.partition(b"\r\n\r\n")
    if b" 20" not in status[:16]:
        raise Failed(f"a request was answered with {status[:200]!r}")
    return time.time(), json.loads(body)


async def _wait(port: int, job_id: str) -> float:
    """Return how long after the job's end the answer came, in seconds."""
    answered_at, job = await _ask(port, _get(f"/jobs/{job_id}?wait=60"))
    return answered_at - _seconds(job["finished_at"])


def _seconds(date: str) -> float:
    return datetime.fromisoformat(date).timestamp()


async def _single_waits(port: int, jobs: int) -> list[float]:
    """Submit a job and wait for it, one after the other."""
    submitted = _post("/jobs", BODY)
    return [await _wait(port, (await _ask(port, submitted))[1]["job_id"]) for _ in range(jobs)]


async def _crowd_waits(port: int, jobs: int) -> list[float]:
    """Have a client wait for each of so many jobs, which then run as fast as the workers can."""
    await _ask(port, _post("/queues/default/pause", b'{"reason":"they begin when all clients wait"}'))
    batch = b"[%b]" % b",".join([BODY] * jobs)
    _, answer = await _ask(port, _post("/jobs/batch", batch))
    waits = [asyncio.create_task(_wait(port, result["job_id"])) for result in answer["results"]]
    # Until they are there: none ends before.
    await asyncio.wait(waits, timeout=5)
    await _ask(port, _post("/queues/default/resume", b""))
    return await asyncio.gather(*waits)


async def _stream_delays(port: int, streams: int, events: int) -> list[list[float]]:
    """Return for each of some events how long after it each stream was told, in seconds."""
    clients = await asyncio.gather(*(_connect(port, _get(STREAMS_PATH)) for _ in range(streams)))
    for reader, _ in clients:
        await reader.readuntil(b"\nid: ")
    told = []
    for _ in range(events):
        following = [asyncio.create_task(_next(reader)) for reader, _ in clients]
        await _ask(port, _post("/jobs", LATER))
        told.append(await asyncio.gather(*following))
    return told


async def _next(reader: asyncio.StreamReader) -> float:
    while not (line := await reader.readline()).startswith(b"data: "):
        if not line:
            raise Failed("a stream has ended")
    return time.time() - _seconds(json.loads(line.removeprefix(b"data: "))["at"])


async def _measure(port: int, options: argparse.Namespace) -> list[str]:
    return [
        _line("one client waits", await _single_waits(port, 50)),
        _line(f"{options.waits:,} clients wait, all jobs at once", await _crowd_waits(port, options.waits)),
        *(
            _line(f"{options.streams:,} streams, one event", delays)
            for delays in await _stream_delays(port, options.streams, 5)
        ),
    ]


def _line(name: str, seconds: Sequence[float]) -> str:
    shown = (f"{name} {value * 1000:4.0f} ms" for name, value in _figures(seconds))
    return f"{name:<44}{', '.join(shown)}"


def _figures(seconds: Sequence[float]) -> list[tuple[str, float]]:
    ordered = sorted(seconds)
    return [("p50", percentile(ordered, 50)), ("p99", percentile(ordered, 99)), ("last", ordered[-1])]


def measure(options: argparse.Namespace, running: Servers, folder: Path) -> list[str]:
    """Return the lines of the report."""
    system = systems.ours(API_PROCESSES="1")
    with Observer(running, "bench_live"), Stack(system, running, "bench_live", folder / "live") as stack:
        return asyncio.run(_measure(stack.port, options))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=__doc__)
    parser.add_argument("--waits", type=int, default=1_000, help="clients that wait for a job (default 1,000)")
    parser.add_argument("--streams", type=int, default=2_000, help="streams (default 2,000)")
    return command.run(parser, arguments, measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
