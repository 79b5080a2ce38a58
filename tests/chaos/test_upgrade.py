"""The schema is changed under load: from the first one to the last, and by the next one beside the running service."""

import itertools
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event

import psycopg2
import pytest

from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.database.migrations import SEEDS, migrate, read

#: What is promised: nobody's statement waits for longer. Machines that do other work as well may add as much again.
STALL_SECONDS = 5
TOLERANCE = 2

#: What a client may do that knows the brief's columns alone.
STATEMENTS = (
    "INSERT INTO jobs (id, type, status, payload) VALUES (%(new)s, 'EMAIL_SEND', 'pending', '{}')",
    "UPDATE jobs SET payload = payload || '{\"seen\": true}', attempts = 1, updated_at = now() WHERE id = %(old)s",
    "SELECT id, status, attempts FROM jobs WHERE id = %(old)s",
    "SELECT count(*) FROM (SELECT FROM jobs WHERE status = 'pending' LIMIT 1000) AS few",
)

_FILL = """
INSERT INTO jobs (id, type, status, payload)
SELECT %s::uuid, 'csv-generation', 'pending', '{"n": 0}'
UNION ALL
SELECT gen_random_uuid(), 'csv-generation', 'pending', jsonb_build_object('n', n) FROM generate_series(2, %s) AS n"""

_numbers = itertools.count(1)


class Client:
    """Does the statements over and over, each in its own transaction, and keeps the longest time that one took."""

    def __init__(self, url, old):
        self.url = url
        self.old = old
        self.inserted = []
        self.longest_seconds = 0.0

    def run(self, stopping):
        with closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not stopping.is_set():
                for statement in STATEMENTS:
                    self._do(cursor, statement)

    def _do(self, cursor, statement):
        new = str(uuid.uuid4())
        started = time.monotonic()
        cursor.execute(statement, {"new": new, "old": self.old})
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
        if "INSERT" in statement:
            self.inserted.append(new)


class _Report:
    """A long transaction that reads the table: as long as it does, nobody may change it."""

    def __init__(self, url):
        self.connection = psycopg2.connect(url)
        self.tries = 0

    def __enter__(self):
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM jobs")
        return self

    def __exit__(self, *_):
        self.connection.close()

    def end_at_third_try(self, line):
        self.tries += "tried again" in line
        if self.tries == 2:
            self.connection.close()


@pytest.fixture
def url(postgres):
    name = f"upgraded_{next(_numbers)}"
    postgres.execute(f"CREATE DATABASE {name}")
    yield postgres.url_of(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("rows", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_from_the_first_schema_to_the_last_nothing_is_lost_and_nobody_waits_long(url, tmp_path, rows):
    database = open_database(Settings.from_env({"DATABASE_URL": url, "REDIS_URL": "redis://localhost"}))
    migrate(database, _seeds(tmp_path / "seeds", read(SEEDS)[:1]))
    old = str(uuid.uuid4())
    _fill(url, old, rows)
    clients = [Client(url, old) for _ in range(4)]

    with _Report(url) as report:
        _under_load(clients, lambda: migrate(database, report=report.end_at_third_try))

    inserted = [job_id for client in clients for job_id in client.inserted]
    assert inserted
    assert [(rows + len(inserted),)] == database.rows("SELECT count(*)::int FROM jobs")
    assert [(len(inserted),)] == database.rows("SELECT count(*)::int FROM jobs WHERE id = ANY(%s::uuid[])", (inserted,))
    assert [(0,)] == database.rows("SELECT count(*)::int FROM pg_index WHERE NOT indisvalid")
    longest = max(client.longest_seconds for client in clients)
    if rows >= 1_000_000:
        assert longest < STALL_SECONDS * TOLERANCE
    database.discard()


def test_the_service_goes_on_while_the_next_version_changes_the_schema(stack, tmp_path):
    """A rolling deploy: the database comes first, and the processes of before go on until they are replaced."""
    stack.start(workers=2)
    stack.submit_load(8)
    seeds = _seeds(tmp_path / "seeds", read(SEEDS))
    (seeds / "999_next.sql").write_text(
        "-- step: adding a column\nALTER TABLE jobs ADD COLUMN next_version TEXT NOT NULL DEFAULT '';\n"
        "-- step without transaction: building an index\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_next ON jobs (type, id);\n"
    )
    database = open_database(Settings.from_env(stack.service.environ))

    stack.strike()
    with ThreadPoolExecutor(1) as pool:
        migrating = pool.submit(migrate, database, seeds)
        # Not only until it is done: it may be, before the first job.
        while not migrating.done() or len(stack.accepted) < 40:
            stack.submit_load(8)
        assert ["999_next.sql"] == migrating.result(60)

    assert stack.service.get("/readyz")[0] == 200
    stack.submit_load(8)
    stack.settle()


def _seeds(folder, migrations):
    folder.mkdir()
    for migration in migrations:
        shutil.copy(SEEDS / migration.name, folder)
    return folder


def _fill(url, old, rows):
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_FILL, (old, rows))
        connection.commit()


def _under_load(clients, do):
    """Do it while the clients work. What one of them is refused is raised."""
    stopping = Event()
    with ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(client.run, stopping) for client in clients]
        try:
            do()
        finally:
            stopping.set()
        for each in running:
            each.result()
