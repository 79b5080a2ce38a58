"""`python -m bench.batch`: compares `POST /jobs/batch` with as many single `POST /jobs`, in one run.

One API of two processes, no worker. Each round submits jobs one by one over one connection and over 32, and in batches
of 10,000 over one connection and over two.
"""

import argparse
import contextlib
import http
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import command, systems
from bench.errors import Failed
from bench.load import BODY
from bench.observer import Observer
from bench.rounds import percentile
from bench.servers import Servers
from bench.systems import ROOT, Stack

CONNECTIONS = 32
STOP_SECONDS = 90
#: How many jobs a batch has.
BATCH = 10_000

SINGLE, MANY = "single, one connection", f"single, {CONNECTIONS} connections"
BATCHES, NDJSON, PARALLEL = "batches, one connection", "the same in NDJSON", "batches, two connections"
RATES = (SINGLE, MANY, BATCHES, NDJSON, PARALLEL)
#: What a batch is compared with: as many connections as are worth while.
AGAINST = {SINGLE: BATCHES, MANY: PARALLEL}


def _singles(stack: Stack, jobs: int, connections: int) -> tuple[float, list[float]]:
    """Submit jobs one by one. Return the jobs per second, and the seconds that each answer took."""
    ran = subprocess.run(
        [sys.executable, "-m", "bench.load", str(stack.port), str(jobs), str(connections)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise Failed(f"{ran.stderr}\n{stack.log()}")
    answers = json.loads(ran.stdout)
    return jobs / (answers["answered_at"] - answers["began_at"]), answers["answer_seconds"]


def _batches(stack: Stack, jobs: int, media_type: str) -> float:
    body = b"\n".join([BODY] * BATCH) if "ndjson" in media_type else b"[%b]" % b",".join([BODY] * BATCH)
    began_at = time.monotonic()
    with contextlib.closing(stack.connect()) as connection:
        for _ in range(jobs // BATCH):
            connection.request("POST", "/jobs/batch", body, {"Content-Type": media_type})
            reply = connection.getresponse()
            answer = json.load(reply)
            if reply.status != http.HTTPStatus.CREATED or len(answer["results"]) != BATCH:
                raise Failed(f"a batch was answered with {reply.status}: {answer.get('detail')}\n{stack.log()}")
    return jobs / (time.monotonic() - began_at)


def _round(stack: Stack, singles: int, batched: int) -> dict[str, float]:
    return {
        SINGLE: _singles(stack, singles, 1)[0],
        MANY: _singles(stack, singles * 4, CONNECTIONS)[0],
        BATCHES: _batches(stack, batched, "application/json"),
        NDJSON: _batches(stack, batched, "application/x-ndjson"),
        PARALLEL: _parallel(stack, batched),
    }


def _parallel(stack: Stack, jobs: int) -> float:
    """Submit so many jobs over each of two connections."""
    began_at = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: _batches(stack, jobs, "application/json"), range(2)))
    return 2 * jobs / (time.monotonic() - began_at)


def measure(options: argparse.Namespace, running: Servers, folder: Path) -> list[str]:
    """Return the lines of the report."""
    with Observer(running, "bench_batch"), Stack(systems.ours(), running, "bench_batch", folder / "batch") as stack:
        stack.stop_worker(STOP_SECONDS)
        _round(stack, 200, BATCH)
        rounds = []
        for number in range(1, options.rounds + 1):
            print(f"round {number}/{options.rounds}", file=sys.stderr, flush=True)
            rounds.append(_round(stack, options.singles, options.batched))
        return [*_table(rounds), "", *_beside_batches(stack, options.singles)]


def _table(rounds: Sequence[dict[str, float]]) -> list[str]:
    lines = [f"{'jobs/s':<26}{'':>9}   batches are faster"]
    for name in RATES:
        rate = statistics.median(found[name] for found in rounds)
        ratio = ""
        if name in AGAINST:
            ratios = sorted(found[AGAINST[name]] / found[name] for found in rounds)
            ratio = f"{statistics.median(ratios):5.1f}x ({ratios[0]:.1f}-{ratios[-1]:.1f}): {AGAINST[name]}"
        lines.append(f"{name:<26}{rate:>9,.0f}   {ratio}".rstrip())
    return lines


def _beside_batches(stack: Stack, jobs: int) -> list[str]:
    """Measure the answers to single jobs over four connections, alone, then while one batch follows the other."""
    _, alone = _singles(stack, jobs, 4)
    ended = threading.Event()

    def submit() -> None:
        while not ended.is_set():
            _batches(stack, BATCH, "application/json")

    with ThreadPoolExecutor(1) as pool:
        batches = pool.submit(submit)
        try:
            _, beside = _singles(stack, jobs, 4)
        finally:
            ended.set()
        batches.result()
    times = {"alone": alone, "beside batches": beside}
    return [
        f"single job answered, {name}: p50 {percentile(seconds, 50) * 1000:.1f} ms, "
        f"p99 {percentile(seconds, 99) * 1000:.1f} ms"
        for name, seconds in times.items()
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.batch", description=__doc__)
    parser.add_argument("--singles", type=int, default=1_000, help="jobs over one connection in a round; 4 x over 32")
    parser.add_argument("--batched", type=int, default=3 * BATCH, help="jobs in batches in a round (default 30,000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    return command.run(parser, arguments, measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
