"""/readyz against a real PostgreSQL that refuses jobs in every way there is a test for: it says so, and what to do."""

import dataclasses
import threading

import falcon.testing
import psycopg2
import pytest
from eventually import eventually

from devstack.ports import free_port
from jobs_service.api.app import create_app
from jobs_service.api.resources import health
from jobs_service.api.threads import Threads
from jobs_service.config import Settings
from jobs_service.database import connection
from jobs_service.database.connection import open_database
from jobs_service.errors import DatabaseUnavailable


@pytest.fixture
def ready(environ):
    """Return a function that asks an API with these settings, as soon as it may ask PostgreSQL again."""

    def client(**changes):
        changes = {"DATABASE_STATEMENT_TIMEOUT_SECONDS": "2", "DATABASE_CONNECT_TIMEOUT_SECONDS": "1"} | changes
        test_client = falcon.testing.TestClient(create_app(Settings.from_env(environ | changes)))

        def ask():
            answer = test_client.simulate_get("/readyz")
            return answer.status_code, answer.json["checks"]["database"]

        return ask

    return client


@pytest.fixture(autouse=True)
def asked_each_time(monkeypatch):
    monkeypatch.setattr(health, "KEPT_SECONDS", 0.0)


@pytest.fixture
def operator(database_url):
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    yield connection
    connection.close()


def test_a_service_that_can_accept_jobs_is_ready_and_leaves_no_trace(ready, database):
    ask = ready()

    assert [(200, "ok")] * 3 == [ask() for _ in range(3)]
    assert [] == database.rows("SELECT id FROM jobs")


def test_a_standby_is_named(ready, operator):
    with operator.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        cursor.execute(f"ALTER DATABASE {cursor.fetchone()[0]} SET default_transaction_read_only = on")

    status, sentence = ready()()

    assert 503 == status
    assert "read-only" in sentence
    assert "primary" in sentence


def test_a_locked_table_is_named_and_once_it_is_free_the_service_is_ready(ready, operator):
    ask = ready()
    assert (200, "ok") == ask()
    operator.autocommit = False
    with operator.cursor() as cursor:
        cursor.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")

    status, sentence = ask()
    operator.rollback()

    assert 503 == status
    assert "locked" in sentence
    eventually(lambda: ask() == (200, "ok"), what="a ready service")


def test_a_missing_table_is_named(ready, operator):
    with operator.cursor() as cursor:
        cursor.execute("ALTER TABLE jobs RENAME TO jobs_elsewhere")

    status, sentence = ready()()

    assert 503 == status
    assert "migrate" in sentence


def test_a_table_that_was_changed_by_hand_is_not_called_away(ready, operator):
    with operator.cursor() as cursor:
        cursor.execute("ALTER TABLE jobs ADD COLUMN note TEXT NOT NULL")

    status, sentence = ready()()

    assert 503 == status
    assert "refuses a statement" in sentence
    assert "jobs_service check" in sentence


def test_a_missing_privilege_is_named(ready, operator, environ):
    with operator.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        role = f"reader_of_{cursor.fetchone()[0]}"
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'")
        cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        scheme, _, rest = environ["DATABASE_URL"].partition("://")
        status, sentence = ready(DATABASE_URL=f"{scheme}://{role}:reader@{rest.rpartition('@')[2]}")()
    finally:
        with operator.cursor() as cursor:
            cursor.execute(f"DROP OWNED BY {role}")
            cursor.execute(f"DROP ROLE {role}")

    assert 503 == status
    assert "grant" in sentence


def test_a_trial_that_failed_leaves_no_transaction_open(ready, operator):
    ask = ready()
    with operator.cursor() as cursor:
        cursor.execute("ALTER TABLE jobs RENAME COLUMN payload TO payload_elsewhere")
        assert 503 == ask()[0]
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
        assert (0,) == cursor.fetchone()
        cursor.execute("ALTER TABLE jobs RENAME COLUMN payload_elsewhere TO payload")

    assert (200, "ok") == ask()


def test_a_service_whose_submissions_are_refused_is_not_ready(database, broker, settings, monkeypatch):
    """They go through a database of their own, which may not know yet that PostgreSQL answers again."""
    monkeypatch.setattr(connection, "REFUSE_SECONDS", 3_600.0)
    refused = open_database(dataclasses.replace(settings, database_url=f"postgresql://127.0.0.1:{free_port()}/none"))
    readiness = health.Readiness(database, broker, ["default"], Threads(1), intake_database=refused)
    assert "ok" == readiness._database()

    with pytest.raises(DatabaseUnavailable):
        refused.rows("SELECT 1")

    assert "does not answer" in readiness._database()


def test_a_storm_of_probes_costs_one_statement(database, broker, monkeypatch):
    monkeypatch.setattr(health, "KEPT_SECONDS", 60.0)
    readiness = health.Readiness(database, broker, ["default"], Threads(1), intake_database=database)
    looks, begun, go = [], threading.Event(), threading.Event()

    def look():
        looks.append(1)
        begun.set()
        assert go.wait(20)
        return "ok"

    monkeypatch.setattr(readiness, "_look", look)
    probes = [threading.Thread(target=readiness._database) for _ in range(8)]
    for probe in probes:
        probe.start()
    assert begun.wait(20)
    go.set()
    for probe in probes:
        probe.join(20)

    assert [1] == looks
