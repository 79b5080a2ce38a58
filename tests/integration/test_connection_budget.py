"""How many connections the service holds, and that its jobs are done where there are fewer."""

import dataclasses
import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from eventually import eventually
from service import Service

from devstack.servers import Postgres
from jobs_service.config import Settings
from jobs_service.database import budget
from jobs_service.database.budget import Share
from jobs_service.database.connection import open_database
from jobs_service.database.migrations import migrate

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()

#: As many processes and threads as by default.
DEFAULTS = {"API_PROCESSES": "2", "API_THREADS": "4", "WORKER_PROCESSES": "2", "WORKER_THREADS": "16"}

_COUNT = """
SELECT count(*) FILTER (WHERE application_name LIKE '% app'), count(*) FILTER (WHERE application_name LIKE '% worker'),
       count(*)
FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'async-job-system%'"""


def counts(connection):
    with connection.cursor() as cursor:
        cursor.execute(_COUNT)
        return cursor.fetchone()


@pytest.mark.parametrize("connections", ["1", "2"])
def test_no_more_connections_are_held_than_the_budget_says(service, database_url, connections):
    """While the table is locked, every connection there may be is in use."""
    service.environ |= DEFAULTS | {"DATABASE_CONNECTIONS": connections, "DATABASE_STATEMENT_TIMEOUT_SECONDS": "4"}
    settings = Settings.from_env(service.environ)
    service.start_api()
    service.start_worker()
    service.when(job_id := service.post("csv-generation", {"name": "Alice"}), "completed")
    service.metrics()

    with (
        closing(psycopg2.connect(database_url)) as holder,
        closing(psycopg2.connect(database_url)) as observer,
        ThreadPoolExecutor(32) as clients,
    ):
        observer.autocommit = True
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        asked = [clients.submit(service.get, f"/jobs/{job_id}") for _ in range(64)]
        asked += [clients.submit(_metrics, service) for _ in range(8)]

        for_requests = settings.api_processes * settings.database_connections
        seen = []

        def all_in_use():
            seen.append(counts(observer))
            return seen[-1][0] == for_requests

        eventually(all_in_use, what="an API that uses all its connections")
        holder.rollback()
        answered = [request.result(60) for request in asked]
        seen.append(counts(observer))

    assert answered
    workers = budget.of_worker(settings) - budget.FOR_METRICS
    assert max(app for app, _, _ in seen) <= for_requests
    assert max(worker for _, worker, _ in seen) <= workers
    assert max(total for _, _, total in seen) <= budget.total(settings)


@pytest.fixture
def small_service(environ, tmp_path, request):
    """A service on a PostgreSQL that takes so many connections, three of them for superusers."""
    options = ("fsync=off", "full_page_writes=off", f"max_connections={request.param}")
    with Postgres(tmp_path / "small", options=options) as server:
        server.execute("CREATE ROLE clerk LOGIN PASSWORD 'secret'")
        server.execute("ALTER DATABASE jobs_db OWNER TO clerk")
        url = server.url.replace(f"{server.USER}:{server.PASSWORD}", "clerk:secret")
        database = open_database(Settings.from_env(environ | {"DATABASE_URL": url}))
        migrate(database)
        database.discard()
        service = Service(environ | DEFAULTS | {"DATABASE_URL": url}, tmp_path)
        yield service
        service.end()


SAYS = "PostgreSQL grants this role {} connections, an API and a worker open up to 19"
SAYS_SLOWLY = "With fewer than 13 each statement opens its own connection."


@pytest.mark.parametrize("small_service", [22, 16, 15, 10], indirect=True)
def test_accepted_jobs_are_done_where_there_are_few_connections(small_service, request):
    """While clients keep all connections of the API busy, which was there first."""
    granted = request.node.callspec.params["small_service"] - 3
    api = small_service.start_api()
    with ThreadPoolExecutor(8) as clients:
        posts = [clients.submit(small_service.post, "csv-generation", {"name": "Alice"}) for _ in range(200)]
        accepted = [post.result(60) for post in posts]
        over = threading.Event()
        readers = [clients.submit(_read, small_service, accepted[-1], over) for _ in range(7)]
        worker = small_service.start_worker()
        try:
            for job_id in accepted:
                small_service.when(job_id, "completed")
        finally:
            over.set()
        statuses = {status for reader in readers for status in reader.result(60)}

    assert {200} == statuses
    for child in (api, worker):
        assert (granted < 19) == (SAYS.format(granted) in small_service.log(child))
        assert (granted < 13) == (SAYS_SLOWLY in small_service.log(child))


def _read(service, job_id, over):
    """Read a job again and again; return the statuses of the answers."""
    statuses = set()
    while not over.is_set():
        statuses.add(service.get(f"/jobs/{job_id}")[0])
    return statuses


def test_check_names_a_role_that_is_granted_too_few(postgres, environ, settings):
    name = environ["DATABASE_URL"].rpartition("/")[2]
    role = f"few_of_{name}"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' CONNECTION LIMIT 9", name)
    try:
        url = environ["DATABASE_URL"].replace(f"{postgres.USER}:{postgres.PASSWORD}", f"{role}:secret")
        database = open_database(Settings.from_env(environ | {"DATABASE_URL": url}))
        assert (9,) == database.row(budget.GRANTED)
        database.discard()
        postgres.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 8")
        assert (8,) == database.row(budget.GRANTED)
        database.discard()
        postgres.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
    finally:
        postgres.execute(f"DROP ROLE {role}")

    assert "open up to 19" in budget.warning(settings, 9)
    assert budget.warning(settings, 19) is None


def test_a_process_keeps_to_its_share_of_what_is_granted(postgres, database_url, environ):
    """Thirteen for two processes of an API, two of a worker, and one for metrics: one each for its threads to share."""
    name = database_url.rpartition("/")[2]
    role = f"few_of_{name}"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' CONNECTION LIMIT 13", name)
    postgres.execute(f"GRANT SELECT ON workers TO {role}", name)
    url = database_url.replace(f"{postgres.USER}:{postgres.PASSWORD}", f"{role}:secret")
    database = open_database(Settings.from_env(environ | {"DATABASE_URL": url}), service="app", has_reserve=True)
    with (
        closing(psycopg2.connect(database_url)) as holder,
        closing(psycopg2.connect(database_url)) as observer,
        ThreadPoolExecutor(4) as threads,
    ):
        observer.autocommit = True
        assert [(0,)] == database.rows("SELECT count(*) FROM workers")
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")
        answers = [threads.submit(database.rows, "SELECT count(*) FROM workers", reserved=True) for _ in range(4)]
        eventually(lambda: len(database._pool._taken) == 1, what="a statement under way")
        holder.rollback()

        assert [[(0,)]] * 4 == [answer.result(60) for answer in answers]
        assert 1 == counts(observer)[0]
    database.discard()
    postgres.execute(f"DROP OWNED BY {role}", name)
    postgres.execute(f"DROP ROLE {role}")


def test_no_connection_stays_open_where_there_are_fewer_than_purposes(postgres, database_url, environ):
    name = database_url.rpartition("/")[2]
    role = f"few_of_{name}"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' CONNECTION LIMIT 12", name)
    url = database_url.replace(f"{postgres.USER}:{postgres.PASSWORD}", f"{role}:secret")
    database = open_database(
        Settings.from_env(environ | {"DATABASE_URL": url}), service="app", connections=1, prepares=True
    )

    with closing(psycopg2.connect(database_url)) as observer:
        observer.autocommit = True
        for number in range(3):
            assert (number,) == database.row("SELECT %s::int", (number,))
            eventually(lambda: counts(observer)[0] == 0, what="a connection that is closed")
    postgres.execute(f"DROP ROLE {role}")


def test_the_page_says_what_the_settings_come_to():
    """Each row of the table: settings, then what an API, a worker and both hold at most."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| `DATABASE_CONNECTIONS=")]
    assert len(rows) >= 3
    for row in rows:
        _, named, *numbers, _ = [cell.strip() for cell in row.split("|")]
        environ = dict(setting.split("=") for setting in re.findall(r"`([^`]+)`", named))
        settings = Settings.from_env({"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h", **environ})
        assert numbers == [str(budget.of_api(settings)), str(budget.of_worker(settings)), str(budget.total(settings))]


@pytest.mark.parametrize(
    ("granted", "expected"),
    [
        (1_000, None),
        (19, None),
        (18, Share(2, is_kept=True)),
        (17, Share(2, is_kept=True)),
        (16, Share(1, is_kept=True)),
        (13, Share(1, is_kept=True)),
        (12, Share(1, is_kept=False)),
        (1, Share(1, is_kept=False)),
    ],
)
def test_each_process_has_the_same_share_of_too_few(settings, granted, expected):
    assert expected == budget.share(settings, granted)


def test_an_api_and_a_worker_open_at_most_twenty_by_default():
    settings = Settings.from_env({"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h"})

    assert budget.total(settings) <= 20


@pytest.mark.parametrize("connections", range(1, 6))
@pytest.mark.parametrize("processes", range(1, 5))
def test_shares_come_to_no_more_than_is_granted(settings, connections, processes):
    """From the least number that leaves each purpose a connection; with fewer, no connection stays open."""
    settings = dataclasses.replace(settings, database_connections=connections, worker_processes=processes)
    for granted in range(budget.least(settings), budget.total(settings)):
        found = budget.share(settings, granted)
        assert found.is_kept
        api = settings.api_processes * (budget.OF_INTAKE + found.shared + budget.FOR_METRICS)
        worker = settings.worker_processes * (budget.OF_ATTEMPTS + found.shared) + budget.FOR_METRICS
        assert api + worker <= granted
    assert not budget.share(settings, budget.least(settings) - 1).is_kept


def _metrics(service):
    with urllib.request.urlopen(f"http://127.0.0.1:{service.api_port}/metrics", timeout=60) as reply:
        return reply.status
