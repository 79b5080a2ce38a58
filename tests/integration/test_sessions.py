"""What a session is like whatever the defaults are: directly, and through poolers that take no settings."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from databases import opened
from pgbouncer import PgBouncer, needs_pgbouncer
from rows import insert_by_hand

from devstack.servers import HOST
from jobs_service.database.migrations import migrate
from jobs_service.errors import DatabaseUnavailable
from jobs_service.ids import new_id

ROOT = Path(__file__).parents[2]

#: What a database may set for everybody.
HOSTILE = {
    "default_transaction_isolation": "serializable",
    "timezone": "Asia/Tokyo",
    "datestyle": "SQL, DMY",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-5",
    "statement_timeout": "0",
}

#: What the statements find.
EXPECTED = {
    "transaction_isolation": "read committed",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "client_encoding": "UTF8",
    "extra_float_digits": "1",
    "statement_timeout": "5s",
}

#: How the settings are sent: with the connection; to a pooler that refuses them; to one that ignores them.
WAYS = [
    "direct",
    pytest.param("refused", marks=needs_pgbouncer),
    pytest.param("ignored", marks=needs_pgbouncer),
]


@pytest.fixture
def through(postgres, tmp_path):
    """Return a function that makes a URL lead through a pooler, or not."""
    poolers = []

    def through(way, url):
        if way == "direct":
            return url
        further = "ignore_startup_parameters = options" if way == "ignored" else ""
        poolers.append(PgBouncer(tmp_path / way, postgres, further).start())
        return poolers[-1].before(url)

    yield through
    for pooler in poolers:
        pooler.__exit__()


@pytest.mark.parametrize("way", WAYS)
def test_statements_find_what_they_rely_on_whatever_the_databases_defaults_are(postgres, database_url, through, way):
    name = database_url.rpartition("/")[2]
    for setting, value in HOSTILE.items():
        postgres.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")

    with opened(through(way, database_url), DATABASE_STATEMENT_TIMEOUT_SECONDS="5") as database:
        for _ in range(5):  # a pooler gives each another session
            sql = ", ".join(f"current_setting('{setting}')" for setting in EXPECTED)
            assert tuple(EXPECTED.values()) == database.row(f"SELECT {sql}")
        parameter = "東京 Zoë 100% %s \\n ' \\' E'"
        assert (parameter,) == database.row("SELECT %s", (parameter,))
        assert [("%",)] == database.rows("SELECT '%%'")
        assert (0,) == database.execute_sql("SELECT count(*) FROM jobs").fetchone()


@pytest.mark.parametrize("way", WAYS)
def test_a_statement_that_is_too_slow_is_ended_by_postgresql(database_url, through, way):
    with opened(through(way, database_url), DATABASE_STATEMENT_TIMEOUT_SECONDS="4") as database:
        with pytest.raises(DatabaseUnavailable, match="canceling statement"):
            database.rows("SELECT pg_sleep(600)")
        assert (1,) == database.row("SELECT 1")


@pytest.mark.parametrize("way", WAYS)
def test_settings_in_the_url_are_obeyed(database_url, through, way):
    url = f"{through(way, database_url)}?options=-c%20work_mem%3D123kB%20--search-path%3Dteam_a,%5C%20public"

    with opened(url) as database:
        for _ in range(5):
            assert ("123kB", "team_a, public") == database.row(
                "SELECT current_setting('work_mem'), current_setting('search_path')"
            )


@pytest.mark.parametrize("way", WAYS)
def test_several_installations_have_a_schema_each_in_one_database(postgres, through, way):
    postgres.execute("CREATE DATABASE shared")
    try:
        urls = {}
        for team in ("team_a", "team_b"):
            postgres.execute(f"CREATE SCHEMA {team}", "shared")
            urls[team] = f"{postgres.url_of('shared')}?options=-c%20search_path%3D{team}"
            with opened(urls[team]) as database:
                assert migrate(database)
        for team, url in urls.items():
            with opened(through(way, url)) as database:
                insert_by_hand(database, new_id(), type=team)
                assert [] == migrate(database)
                assert [(team,)] == database.rows("SELECT type FROM jobs")
        with opened(postgres.url_of("shared")) as database:
            assert [] == database.rows("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
            tables = database.rows(
                "SELECT schemaname, count(*) FROM pg_tables WHERE schemaname LIKE 'team%%' GROUP BY 1"
            )
            assert 2 == len(tables)
            assert 1 == len({count for _, count in tables})
            assert 2 == len(database.rows("SELECT 1 FROM pg_tables WHERE tablename = 'schema_migrations'"))
    finally:
        postgres.execute("DROP DATABASE shared WITH (FORCE)")


@needs_pgbouncer
def test_migrate_refuses_a_pooler_that_does_not_pass_on_the_schema(postgres, through):
    postgres.execute("CREATE DATABASE shared")
    try:
        postgres.execute("CREATE SCHEMA team_a", "shared")
        url = f"{through('refused', postgres.url_of('shared'))}?options=-c%20search_path%3Dteam_a"
        environ = {"PATH": os.environ["PATH"], "DATABASE_URL": url, "REDIS_URL": "redis://localhost"}
        argv = [sys.executable, "-m", "jobs_service", "migrate"]
        done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
    finally:
        postgres.execute("DROP DATABASE shared WITH (FORCE)")

    assert 1 == done.returncode
    assert "run migrate with a DATABASE_URL that leads to PostgreSQL itself" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_host_that_is_silent_is_passed_over(database_url):
    with closing(socket.create_server((HOST, 0))) as silent:
        url = database_url.replace(f"{HOST}:", f"{HOST}:{silent.getsockname()[1]},{HOST}:")

        with opened(url, DATABASE_CONNECT_TIMEOUT_SECONDS="2") as database:
            assert (1,) == database.row("SELECT 1")


def test_all_hosts_of_a_url_are_named_where_none_answers(database_url, free_port):
    ports = (free_port(), free_port())
    url = f"postgresql://user:password@{HOST}:{ports[0]},{HOST}:{ports[1]}/{database_url.rpartition('/')[2]}"

    with opened(url) as database, pytest.raises(DatabaseUnavailable) as caught:
        database.row("SELECT 1")

    assert all(f"port {port} failed" in str(caught.value) for port in ports)
