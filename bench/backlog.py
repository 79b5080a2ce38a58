"""`python -m bench.backlog`: compares this service with an empty queue and with a million waiting jobs, in one run.

Two stacks of real processes share one PostgreSQL and one Valkey. Each round posts jobs to each of them while it has no
worker, then lets a worker run the same number. The waiting jobs have priorities 0 to 8; jobs of priority 9 overtake
them. With `--finished`, the table holds completed jobs instead of waiting ones.
"""

import argparse
import contextlib
import http
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from bench import command, systems
from bench.errors import Failed
from bench.observer import Observer
from bench.report import Rounds, Row
from bench.rounds import Figures, percentile
from bench.servers import Connection, Servers
from bench.systems import ROOT, Stack
from jobs_service.database import prepared
from jobs_service.jobs import lifecycle
from jobs_service.maintenance import relay
from jobs_service.metrics import queue_stats

#: Pages that are listed, and how often in a round.
_PAGES = {"newest": "/jobs?limit=50", "of type": "/jobs?limit=50&status=completed&type=csv-generation"}
LISTS = 20
#: The maximum memory that Redis may use.
REDIS_MIB = 64
CONNECTIONS = 16
STALLED_SECONDS = 60
STOP_SECONDS = 90

# Rows as the API writes them, a millisecond apart. Priorities are mixed, so that the order of the table does not help.
_FILL = """
INSERT INTO jobs (id, type, payload, priority, run_at)
SELECT (lpad(to_hex((extract(epoch FROM accepted_at) * 1000)::bigint), 12, '0') || '7000'
         || '8' || substr(md5(i::text), 1, 15))::uuid,
       'csv-generation', '{"name": "Alice", "score": 95}', i %% 9, accepted_at
FROM generate_series(1, %s) AS i
CROSS JOIN LATERAL (SELECT now() - (%s - i) * interval '1 ms') AS dates (accepted_at)"""

# Completed jobs of the last three days, which nothing deletes yet.
_FILL_FINISHED = """
INSERT INTO jobs (id, type, status, payload, result, attempts, created_at, updated_at, run_at, publish_at, started_at,
                  finished_at, worker_id, transition_token)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000' || '8'
         || substr(md5(i::text), 1, 15))::uuid,
       'csv-generation', 'completed', '{"name": "Alice", "score": 95}', '"output/01a20e7c-c682-7586-8ed8.csv"', 1,
       timezone('utc', at), timezone('utc', at), at, at, at, at, gen_random_uuid(), gen_random_uuid()
FROM generate_series(1, %s) AS i
CROSS JOIN LATERAL (SELECT now() - interval '3 days' * (1 - i::float8 / %s)) AS dates (at)"""

_COMPLETED = "SELECT count(*) FROM jobs WHERE status = 'completed' AND id > %s"
_RAN = "SELECT json_object_agg(priority, jobs)::text FROM ({}) AS of_each".format(
    "SELECT priority, count(*) AS jobs FROM jobs WHERE status = 'completed' GROUP BY 1 ORDER BY 1 DESC"
)

_EIGHTS_WAIT = "SELECT EXISTS (SELECT FROM jobs WHERE status = 'pending' AND queue = 'default' AND priority = 8)"

# PostgreSQL's time per row of a statement, in microseconds.
_STATEMENT = """
SELECT COALESCE(sum(total_exec_time) * 1000 / NULLIF(sum(rows), 0), 0)::float8
FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid WHERE datname = %s AND query LIKE %s"""

_DONE = {"job_ids": [uuid4()], "leases": [uuid4()], "transitions": [uuid4()], "results": ["null"], "keep_text": [False]}
_ANY_DUE = {
    "queue": "default",
    "type": "csv-generation",
    "priorities": list(range(10)),
    "untils": [math.inf] * 10,
    "far": 40,
    "limit": relay.BATCH,
}

#: The statements to explain on the full table, with their parameters: those that the service prepares, and others.
_PREPARED = {
    "submit": (lifecycle._SUBMIT, {name: [] for name in (*lifecycle.NewJob.__slots__, "keep_text")}),  # noqa: SLF001
    "claim": (lifecycle._CLAIM, {"job_ids": [uuid4()], "worker_ids": [uuid4()], "tokens": [uuid4()]}),  # noqa: SLF001
    "complete": (lifecycle._COMPLETE, _DONE),  # noqa: SLF001
}
_NOT_PREPARED = {
    "relay": (relay._DUE, _ANY_DUE),  # noqa: SLF001
    "scrape": (queue_stats._CURRENT, {}),  # noqa: SLF001
}


def _median(key: str) -> Callable[[Rounds], float]:
    return lambda rounds: statistics.median(figures.values[key] for figures in rounds)


ROWS = [
    Row("submitted, jobs/s", _median("submitted"), "{:,.0f}", more_is_better=True),
    Row("POST answered, p50 ms", _median("answer p50"), "{:.1f}"),
    Row("POST answered, p99 ms", _median("answer p99"), "{:.1f}"),
    Row("INSERT in PostgreSQL, us a job", _median("insert"), "{:.0f}"),
    Row("claimed and completed, jobs/s", _median("taken"), "{:,.0f}", more_is_better=True),
    Row("claim in PostgreSQL, us a job", _median("claim"), "{:.0f}"),
    Row("complete in PostgreSQL, us a job", _median("complete"), "{:.0f}"),
    Row("priority 9 begun after, ms", _median("urgent"), "{:.0f}"),
    Row("50 newest jobs listed, p50 ms", _median("newest"), "{:.1f}"),
    Row("50 completed of a type, p50 ms", _median("of type"), "{:.1f}"),
    Row("Redis memory at most, MiB", _median("redis"), "{:.1f}"),
]


@dataclass
class Side:
    """One of the two stacks. `run` adds a round to its figures."""

    database: str
    stack: Stack
    observer: Observer
    servers: Servers
    jobs: Connection
    #: Where pg_stat_statements is.
    admin: Connection
    #: Jobs up to this id were completed before the first round.
    last_id: str = str(UUID(int=0))
    rounds: Rounds = field(default_factory=list)

    def run(self, jobs: int, urgent: int) -> None:
        self.rounds.append(Figures(values={"redis": 0.0}))
        self.admin.run("SELECT pg_stat_statements_reset()")
        self._submit(jobs)
        self.stack.start_worker()
        self._take(jobs)
        self._note(urgent=statistics.median(self._urgent() for _ in range(urgent)))
        self.stack.stop_worker(STOP_SECONDS)
        self._note(**{page: statistics.median(self._list(url) for _ in range(LISTS)) for page, url in _PAGES.items()})
        self._note(
            insert=self._microseconds("%INSERT INTO jobs%"),
            claim=self._microseconds("%attempts = attempts +%"),
            complete=self._microseconds("%SET status = %result = done.result%"),
        )

    def fill(self, waiting: int) -> None:
        """Insert this many waiting jobs, and publish the first of them to Redis."""
        self.jobs.run(_FILL, waiting, waiting)
        self.jobs.run("ANALYZE jobs")
        self.stack.start_worker()
        self._reach(1)
        self.stack.stop_worker(STOP_SECONDS)
        self.observer.checkpoint()

    def fill_finished(self, finished: int) -> None:
        """Insert this many completed jobs."""
        self.jobs.run(_FILL_FINISHED, finished, finished)
        self.jobs.run("VACUUM ANALYZE jobs")
        self.last_id = self.jobs.run("SELECT id::text FROM jobs ORDER BY id DESC LIMIT 1")
        self.observer.checkpoint()

    def _submit(self, jobs: int) -> None:
        arguments = [str(number) for number in (self.stack.port, jobs, CONNECTIONS)]
        ran = subprocess.run(
            [sys.executable, "-m", "bench.load", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise Failed(f"{ran.stderr}\n{self.stack.log()}")
        answers = json.loads(ran.stdout)
        seconds = answers["answer_seconds"]
        self._note(submitted=jobs / (answers["answered_at"] - answers["began_at"]))
        self.rounds[-1].values |= {f"answer p{part}": percentile(seconds, part) * 1000 for part in (50, 99)}

    def _take(self, jobs: int) -> None:
        """Measure the rate of completions from the first one on."""
        before = self._completed()
        first, began_at = self._reach(before + 1)
        last, ended_at = self._reach(before + jobs)
        self._note(taken=(last - first) / (ended_at - began_at))

    def _reach(self, wanted: int) -> tuple[int, float]:
        """Wait until `wanted` jobs are completed. Return how many are, and the time at which that was seen."""
        count, progress_at = 0, time.monotonic()
        while time.monotonic() - progress_at < STALLED_SECONDS:
            now = self._completed()
            self._watch_redis()
            if now >= wanted:
                return now, time.monotonic()
            if now > count:
                count, progress_at = now, time.monotonic()
            time.sleep(0.02)
        raise Failed(f"no job was completed in {STALLED_SECONDS} s\n{self.stack.log()}")

    def _completed(self) -> int:
        return self.jobs.run(_COMPLETED, self.last_id)

    def _list(self, url: str) -> float:
        """Return the milliseconds that a page takes."""
        with contextlib.closing(self.stack.connect()) as connection:
            connection.connect()
            began_at = time.monotonic()
            connection.request("GET", url)
            reply = connection.getresponse()
            reply.read()
            if reply.status != http.HTTPStatus.OK:
                raise Failed(f"GET {url} was answered with {reply.status}")
            return (time.monotonic() - began_at) * 1000

    def _urgent(self) -> float:
        """Return the milliseconds from posting a job of priority 9 until it is seen to have started."""
        body = '{"type":"csv-generation","payload":{"name":"Alice","score":95},"priority":9}'
        began_at = time.monotonic()
        with contextlib.closing(self.stack.connect()) as connection:
            connection.request("POST", "/jobs", body, {"Content-Type": "application/json"})
            job_id = json.load(connection.getresponse())["job_id"]
        while self.observer.status(job_id) == "pending":
            if time.monotonic() - began_at > STALLED_SECONDS:
                raise Failed(f"a job of priority 9 did not start within {STALLED_SECONDS} s")
            time.sleep(0.002)
        return (time.monotonic() - began_at) * 1000

    def _microseconds(self, pattern: str) -> float:
        return self.admin.run(_STATEMENT, self.database, pattern)

    def _watch_redis(self) -> None:
        with contextlib.closing(self.servers.redis()) as client:
            used = client.info("memory")["used_memory"] / 2**20
        if self.rounds:
            self._note(redis=max(used, self.rounds[-1].values["redis"]))
        if used > REDIS_MIB:
            raise Failed(f"Redis uses {used:.0f} MiB, more than {REDIS_MIB}")

    def _note(self, **values: float) -> None:
        self.rounds[-1].values |= values


@contextlib.contextmanager
def side_of(name: str, redis_database: int, running: Servers, folder: Path) -> Iterator[Side]:
    """Start a stack with a database and a Redis database of its own, without a worker."""
    database = f"bench_{name}"
    system = systems.ours(name, REDIS_URL=f"{running.valkey.url}/{redis_database}")
    with Observer(running, database) as observer, Stack(system, running, database, folder / name) as stack:
        stack.stop_worker(STOP_SECONDS)
        connections = contextlib.closing(running.connect(database)), contextlib.closing(running.connect())
        with connections[0] as jobs, connections[1] as admin:
            yield Side(database, stack, observer, running, jobs, admin)


def measure(options: argparse.Namespace, running: Servers, folder: Path) -> list[str]:
    """Return the lines of the report."""
    kind, count = ("finished", options.finished) if options.finished else ("waiting", options.rows)
    with side_of("empty", 0, running, folder) as empty, side_of(kind, 1, running, folder) as full:
        _say(f"inserting {count:,} {kind} jobs")
        began_at = time.monotonic()
        fill = full.fill_finished if options.finished else full.fill
        fill(count)
        _say(f"inserted in {time.monotonic() - began_at:.0f} s")
        empty.observer.count_statements(on=True)
        for number in range(1, options.rounds + 1):
            for side in (empty, full) if number % 2 else (full, empty):
                _say(f"round {number}/{options.rounds}, {side.database}")
                side.run(options.jobs, options.urgent)
        lines = [*_table(empty, full, f"{count:,} {kind}"), ""]
        if not options.finished:
            lines += [_order(full, count), ""]
        return [*lines, f"plans with the {kind} jobs:", *_plans(full)]


def _order(waiting: Side, count: int) -> str:
    """Return which priorities the jobs had that ran. Raises `Failed` if one ran before a higher one."""
    ran = json.loads(waiting.jobs.run(_RAN))
    if waiting.jobs.run(_EIGHTS_WAIT) and ran.keys() - {"9", "8"}:
        raise Failed(f"jobs of a lower priority ran before those of priority 8: {ran}")
    return f"jobs that ran, of {count:,} with the priorities 0 to 8 and some with 9: {ran}"


def _table(empty: Side, full: Side, title: str) -> list[str]:
    lines = [f"{'':32}  {'empty queue':>12}  {title:>20}  {'as good as empty':>20}"]
    for row in ROWS:
        values = [row.format.format(row.value(side.rounds)) for side in (empty, full)]
        ratio = row.compare(full.rounds, empty.rounds)
        lines.append(f"{row.label:32}  {values[0]:>12}  {values[1]:>20}  {ratio or ''!s:>20}")
    return lines


def _plans(side: Side) -> Iterator[str]:
    for name, (sql, parameters) in _PREPARED.items():
        prepare, execute = prepared._parsed(sql) or ("", sql)  # noqa: SLF001
        yield from _plan(name, side.jobs.explain(execute, parameters, prepare=prepare))
    for name, (sql, parameters) in _NOT_PREPARED.items():
        yield from _plan(name, side.jobs.explain(sql, parameters))


def _plan(name: str, found: dict) -> Iterator[str]:
    yield f"{name}: {found['Execution Time']:.1f} ms"
    yield from _nodes(found["Plan"], "  ")


def _nodes(node: dict, indent: str) -> Iterator[str]:
    removed = sum(count for key, count in node.items() if key.startswith("Rows Removed"))
    count = round((node["Actual Rows"] + removed) * node["Actual Loops"])
    yield f"{indent}{node['Node Type']} {node.get('Index Name') or node.get('Relation Name') or ''}: {count:,} rows"
    for part in node.get("Plans", ()):
        yield from _nodes(part, indent + "  ")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="jobs that wait (default 1,000,000)")
    parser.add_argument("--finished", type=int, default=0, help="completed jobs in the table instead (default 0)")
    parser.add_argument("--jobs", type=int, default=1_500, help="jobs posted and taken in a round (default 1,500)")
    parser.add_argument("--urgent", type=int, default=5, help="jobs of priority 9 in a round (default 5)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each side (default 6)")
    return command.run(parser, arguments, measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
