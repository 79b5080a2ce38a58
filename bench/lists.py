"""`python -m bench.lists`: what a page of a list costs in a large table, and what its indexes cost a job.

It fills the table, reads pages of several lists at the beginning and far behind, by the same statements as the API, and
then submits, claims and completes jobs with the indexes and triggers of the lists and without them, in turn.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid4

from devstack.servers import Postgres
from jobs_service.config import Settings
from jobs_service.database.connection import Database, open_database
from jobs_service.database.migrations import migrate
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle, listing, search
from jobs_service.jobs.lifecycle import ClaimRequest, NewJob, Status

#: Rows that one statement writes.
ROWS_AT_ONCE = 200_000
#: Pages of each place that are measured, and the size of a page.
SAMPLES, LIMIT = 20, 50
#: Jobs of one round of the normal path, how many of them share a statement, and how many rounds.
JOBS, AT_ONCE, ROUNDS = 8_000, 4, 4

# Completed jobs of a month; among them a rare type, queue, tag and word, and failed ones.
_FILL = """
INSERT INTO jobs (id, type, status, payload, queue, attempts, created_at, updated_at, run_at, publish_at, started_at,
                  finished_at, end_reason, error, tags)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008' || substr(md5(i::text), 1, 15))::uuid,
       CASE WHEN i %% 1000 = 0 THEN 'EMAIL_SEND' ELSE 'csv-generation' END,
       CASE WHEN i %% 200 = 0 THEN 'failed' ELSE 'completed' END,
       jsonb_build_object('name', 'Alice', 'order', i, 'city', substr(md5((i %% 5000)::text), 1, 8)),
       CASE WHEN i %% 500 = 0 THEN 'mail' ELSE 'default' END, CASE WHEN i %% 100 = 0 THEN 3 ELSE 1 END,
       timezone('utc', at), timezone('utc', at), at, at, at, at, CASE WHEN i %% 200 = 0 THEN 'rejected' END,
       CASE WHEN i %% 200 = 0 THEN 'Connection refused' END, CASE WHEN i %% 1000 = 1 THEN ARRAY['monthly'] END
FROM generate_series(%(first)s, %(last)s) AS i
CROSS JOIN LATERAL (SELECT now() - interval '30 days' * (1 - i::float8 / %(jobs)s)) AS dates (at)"""

_WITHOUT = """
DROP INDEX jobs_by_queue, jobs_tried_again, jobs_by_finish;
DROP TRIGGER jobs_add_tags ON jobs; DROP TRIGGER jobs_change_tags ON jobs; DROP TRIGGER jobs_change_error ON jobs;
DROP TRIGGER jobs_change_payload ON jobs; DROP TRIGGER jobs_add_late ON jobs; DROP TRIGGER jobs_forget ON jobs"""

LISTS = {
    "all": listing.Filters(),
    "status=failed": listing.Filters(status=Status.FAILED),
    "type=EMAIL_SEND": listing.Filters(type="EMAIL_SEND"),
    "queue=mail": listing.Filters(queue="mail"),
    "tag=monthly": listing.Filters(tag="monthly"),
    "attempts_min=3": listing.Filters(attempts_min=3),
    "queue=mail, status=failed": listing.Filters(queue="mail", status=Status.FAILED),
    "q=refused": listing.Filters(words=["refused"]),
    "q=alice": listing.Filters(words=["alice"]),
    "q=<one order>": listing.Filters(words=["4711"]),
}


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Postgres(Path(folder), options=OPTIONS) as server:
        database = _open(server.url)
        migrate(database)
        _measure_pages(database, options.jobs)
        _measure_jobs(server)
    return 0


OPTIONS = (
    "fsync=off",
    "synchronous_commit=off",
    "max_wal_size=8GB",
    "shared_buffers=512MB",
    "maintenance_work_mem=256MB",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.lists", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000_000, help="rows of the table (%(default)s)")
    return parser


def _open(url: str) -> Database:
    environ = {"DATABASE_URL": url, "REDIS_URL": "redis://localhost", "DATABASE_STATEMENT_TIMEOUT_SECONDS": "500"}
    environ |= {"TIME_LIMIT_SECONDS": "600", "WORKER_SHUTDOWN_SECONDS": "700", "STOP_GRACE_SECONDS": "800"}
    return open_database(Settings.from_env(environ))


def _measure_pages(database: Database, jobs: int) -> None:
    _timed(f"fill with {jobs:,} jobs", lambda: _fill(database, jobs))
    _timed("index the words", lambda: _index(database))
    database.rows("ANALYZE")
    sizes = "SELECT relname, pg_size_pretty(pg_total_relation_size(oid)) FROM pg_class WHERE relname = ANY(%s)"
    names = ["jobs", "job_tags", "search_blocks", "jobs_by_queue", "jobs_tried_again", "jobs_by_finish"]
    print("sizes:", ", ".join(f"{name} {size}" for name, size in database.rows(sizes, (names,))))
    print(f"\n{'milliseconds of a page, median (longest)':42} {'first':>14} {'in the middle':>14} {'near the end':>14}")
    ids = [database.row("SELECT id FROM jobs ORDER BY id OFFSET %s LIMIT 1", (jobs * part // 100,)) for part in (50, 5)]
    for name, filters in LISTS.items():
        print(
            f"{name:42}",
            *(f"{_page(database, filters, place):>14}" for place in (None, *(row[0] for row in ids if row))),
        )


def _fill(database: Database, jobs: int) -> None:
    database.rows("ALTER TABLE jobs DISABLE TRIGGER jobs_add_late")
    for first in range(1, jobs + 1, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE - 1, jobs)
        database.rows(_FILL, {"first": first, "last": last, "jobs": jobs})
    database.rows("ALTER TABLE jobs ENABLE TRIGGER jobs_add_late")


def _index(database: Database) -> None:
    while search.add_blocks(database):
        pass


def _page(database: Database, filters: listing.Filters, place: UUID | None) -> str:
    took = [
        _seconds(lambda: list(listing.newest_jobs(database, filters, before=place, limit=LIMIT)))
        for _ in range(SAMPLES)
    ]
    return f"{statistics.median(took) * 1000:.1f} ({max(took) * 1000:.0f})"


def _measure_jobs(server: Postgres) -> None:
    variants = {name: _new_database(server, name) for name in ("with", "without")}
    variants["without"].rows(_WITHOUT)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for number in range(ROUNDS):
        for name, each in variants.items() if number % 2 else reversed(variants.items()):
            took[name].append(_run_jobs(each))
    print(f"\n{'a job, submitted, claimed and completed':42} {'microseconds':>14} {'bytes of log':>14}")
    for name, rounds in took.items():
        # The best round: others of this machine's programs only add to it.
        seconds, written = (min(figures) / JOBS for figures in zip(*rounds, strict=True))
        print(f"{name + ' indexes and triggers of the lists':42} {seconds * 1e6:>14.0f} {written:>14.0f}")


def _new_database(server: Postgres, name: str) -> Database:
    server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    database = _open(server.url_of(name))
    migrate(database)
    return database


def _run_jobs(database: Database) -> tuple[float, float]:
    """Return the seconds and the bytes of write-ahead log of a round."""
    database.rows("CHECKPOINT")
    began = _written(database)
    seconds = _seconds(lambda: [_run_together(database) for _ in range(JOBS // AT_ONCE)])
    return seconds, _written(database) - began


def _written(database: Database) -> float:
    (written,) = database.row("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn") or (0,)
    return float(written)


def _run_together(database: Database) -> None:
    jobs = [
        NewJob(new_id(), "csv-generation", '{"name": "Alice", "score": 95}', "default", 5, 3) for _ in range(AT_ONCE)
    ]
    lifecycle.submit(database, jobs)
    claims = lifecycle.claim(database, [ClaimRequest(job.id, _WORKER) for job in jobs])
    lifecycle.complete(database, [(claim, '"output/x.csv"') for claim in claims if claim])


_WORKER = uuid4()


def _timed(what: str, act: Callable[[], object]) -> None:
    print(f"{what}: {_seconds(act):,.0f} s", flush=True)


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
