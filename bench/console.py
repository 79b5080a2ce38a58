"""`python -m bench.console`: how soon the first byte of each page comes, with an empty table and with a large one.

Two stacks of real processes share one PostgreSQL and one Valkey, and are asked in turn, so that both see the same
machine. Without keys and without workers: what is measured is the page, its calls of the API, and their statements.
"""

import argparse
import contextlib
import http
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import command
from bench.backlog import Side, side_of
from bench.errors import Failed
from bench.rounds import percentile
from bench.servers import Servers

#: Requests of a page that are not counted: templates are compiled, statements prepared, pages of tables cached.
WARM_UP = 5

#: The jobs of the table that counts as empty.
SHOWN = 60

#: The pages that need no id. Those that this version does not have are left out, and named.
PAGES = (
    "/console",
    "/console/jobs",
    "/console/jobs?status=failed",
    "/console/jobs?status=completed&type=csv-generation",
    "/console/jobs?q=alice",
    "/console/jobs/new",
    "/console/jobs/{job_id}",
    "/console/failures",
    "/console/queues",
    "/console/queues/default",
    "/console/workers",
    "/console/types",
    "/console/types/csv-generation",
)


def _first_byte(side: Side, path: str) -> tuple[int, float]:
    """Return the status, and the milliseconds until the answer begins."""
    with contextlib.closing(side.stack.connect()) as connection:
        connection.connect()
        began_at = time.perf_counter()
        connection.request("GET", path, headers={"Accept": "text/html"})
        reply = connection.getresponse()
        took = (time.perf_counter() - began_at) * 1000
        reply.read()
        return reply.status, took


def _measured(sides: Sequence[Side], path: str, requests: int) -> list[list[float]] | None:
    """Return each side's times in milliseconds; None if there is no such page."""
    paths = [path.format(job_id=side.jobs.run("SELECT id::text FROM jobs ORDER BY id DESC LIMIT 1")) for side in sides]
    found: list[list[float]] = [[] for _ in sides]
    for number in range(WARM_UP + requests):
        asked = list(zip(sides, paths, found, strict=True))
        # Each is the first one half of the times.
        for side, own_path, times in asked if number % 2 else asked[::-1]:
            status, took = _first_byte(side, own_path)
            if status == http.HTTPStatus.NOT_FOUND:
                return None
            if status != http.HTTPStatus.OK:
                raise Failed(f"GET {own_path} was answered with {status}\n{side.stack.log()}")
            if number >= WARM_UP:
                times.append(took)
    return found


def _lines(sides: Sequence[Side], requests: int, title: str) -> Iterator[str]:
    yield f"{'first byte, ms':52}{'empty p50':>10}{'p99':>8}  {title + ' p50':>26}{'p99':>8}{'ratio of p50':>14}"
    for path in PAGES:
        measured = _measured(sides, path, requests)
        if measured is None:
            yield f"{path:52}  no such page"
            continue
        (empty, empty_p99), (full, full_p99) = ((statistics.median(times), percentile(times, 99)) for times in measured)
        yield f"{path:52}{empty:>10.1f}{empty_p99:>8.1f}  {full:>26.1f}{full_p99:>8.1f}{full / empty:>14.2f}"


def measure(options: argparse.Namespace, running: Servers, folder: Path) -> list[str]:
    """Return the lines of the report."""
    kind, count = ("finished", options.finished) if options.finished else ("waiting", options.rows)
    with side_of("empty", 0, running, folder) as empty, side_of(kind, 1, running, folder) as full:
        # As many as a page shows, so that the pages are of equal length.
        empty.fill(SHOWN)
        (full.fill_finished if options.finished else full.fill)(count)
        return list(_lines((empty, full), options.requests, f"{count:,} {kind}"))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.console", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="jobs that wait (default 1,000,000)")
    parser.add_argument("--finished", type=int, default=0, help="completed jobs in the table instead (default 0)")
    parser.add_argument("--requests", type=int, default=200, help="requests of each page and side (default 200)")
    return command.run(parser, arguments, measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
