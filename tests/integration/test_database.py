"""A connection is bounded, tells who it is, and stays with its process."""

import os
import threading
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from eventually import eventually

from jobs_service import database as module
from jobs_service.config import Settings
from jobs_service.database import open_database
from jobs_service.errors import DatabaseUnavailable, NotThisProcess, SchemaUnavailable


@pytest.fixture
def database(environ):
    impatient = {"DATABASE_CONNECT_TIMEOUT_SECONDS": "1", "DATABASE_STATEMENT_TIMEOUT_SECONDS": "2"}
    database = open_database(Settings.from_env(environ | impatient), service="test")
    yield database
    database.discard()


def test_after_one_silence_nobody_else_waits(database, postgres, monkeypatch):
    monkeypatch.setattr(module, "REFUSE_SECONDS", 60)
    sent = []
    monkeypatch.setattr(
        database, "_run", lambda *statement, run=database._run: sent.append(statement) or run(*statement)
    )
    database.rows("SELECT 1")
    postgres.pause()
    try:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                database.rows("SELECT 2")
    finally:
        postgres.resume()

    assert [("SELECT 1", ()), ("SELECT 2", ())] == sent
    monkeypatch.undo()
    database._answering.may_be_asked_soon()
    assert [(1,)] == eventually(lambda: _answer(database), what="an answer")


def test_a_refused_statement_says_nothing_against_the_server(database):
    database._answering.is_away("gone")
    eventually(lambda: _asks_and_errs(database), what="somebody who asks")

    assert [(1,)] == eventually(lambda: _answer(database), what="an answer")


@pytest.mark.parametrize("raised", [psycopg2.OperationalError, psycopg2.DatabaseError])
@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_connection_is_one_whatever_psycopg_calls_it(database, monkeypatch, raised, times):
    """Where libpq has not noticed the end of the connection, psycopg raises its most general error, without a code."""
    database.rows("SELECT 1")
    lost = [raised("server closed the connection unexpectedly")] * times

    def run(*statement, run=database._run):
        if lost:
            raise lost.pop()
        return run(*statement)

    monkeypatch.setattr(database, "_run", run)

    if times == 1:
        assert [(2,)] == database.rows("SELECT 2")
    else:
        with pytest.raises(DatabaseUnavailable, match="server closed"):
            database.rows("SELECT 2")
    assert [] == lost


@pytest.mark.parametrize("ask", ["rows", "execute_sql"])
def test_a_statement_that_postgresql_does_not_end_itself_is_waited_for_no_longer(database, ask):
    database.rows("SET statement_timeout = 0")

    with pytest.raises(DatabaseUnavailable, match="no answer in 3 s"):
        getattr(database, ask)("SELECT pg_sleep(600)")


@pytest.mark.parametrize("ask", ["rows", "execute_sql"])
def test_a_statement_that_postgresql_gives_up_on_keeps_its_connection(database, ask):
    before = database.connection()

    with pytest.raises(DatabaseUnavailable, match="canceling statement"):
        getattr(database, ask)("SELECT pg_sleep(60)")

    assert database.connection() is before


@pytest.mark.parametrize("ask", ["rows", "execute_sql"])
@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("SELECT 1 FROM no_such_table", "no_such_table"),
        ("SELECT no_such_column FROM jobs", "no_such_column"),
        ("CREATE TABLE no_such_schema.t ()", "no_such_schema"),
    ],
)
def test_what_is_not_there_is_unavailable_and_named(database, ask, statement, names):
    with pytest.raises(SchemaUnavailable, match=names):
        getattr(database, ask)(statement)


def test_what_is_not_open_to_us_is_unavailable(database):
    database.execute_sql("SET ROLE pg_monitor")

    with pytest.raises(SchemaUnavailable, match="permission denied"):
        database.rows("SELECT 1 FROM jobs")


@pytest.mark.parametrize("ask", ["rows", "execute_sql"])
def test_what_is_wrong_with_the_statement_is_a_bug(database, ask):
    with pytest.raises(Exception, match="syntax error") as caught:
        getattr(database, ask)("SELEC 1")

    assert not isinstance(caught.value, DatabaseUnavailable)


def test_each_connection_says_whose_it_is(database):
    names = [*database.row("SELECT current_setting('application_name')")]

    def ask():
        names.extend(database.row("SELECT current_setting('application_name')"))
        database.discard()

    for name in ("heartbeat", "attempts_3"):
        thread = threading.Thread(target=ask, name=name)
        thread.start()
        thread.join()

    assert names == [f"async-job-system test {role}" for role in ("MainThread", "heartbeat", "attempts")]


def test_other_connections_of_the_process_may_copy_and_wait(database, database_url):
    """A wait callback of psycopg2's would be for them too, and knows no COPY."""
    database.rows("SELECT 1")

    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE numbers AS SELECT generate_series(1, 3) AS n")
        with Path(os.devnull).open("w") as sink:
            cursor.copy_expert("COPY numbers TO STDOUT", sink)


def test_a_forked_copy_is_refused_and_leaves_the_connection_to_its_parent(database):
    before = database.row("SELECT pg_backend_pid()")
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            database.rows("SELECT 1")
        except NotThisProcess:
            os.write(writing, b"refused")
            database.discard()
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)

    assert os.read(reading, 100) == b"refused"
    os.close(reading)
    assert database.row("SELECT pg_backend_pid()") == before


def _answer(database):
    try:
        return database.rows("SELECT 1")
    except DatabaseUnavailable:
        return None


def _asks_and_errs(database):
    try:
        database.rows("SELECT 1 / 0")
    except DatabaseUnavailable:
        return False
    except Exception:  # noqa: BLE001 - PostgreSQL answered, which is the point
        return True
    return False
