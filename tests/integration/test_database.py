"""A connection is bounded, tells who it is, and stays with its process."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from eventually import eventually

from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.errors import DatabaseUnavailable, InvalidRequest, NotThisProcess, SchemaUnavailable


@pytest.fixture
def database(environ):
    impatient = {"DATABASE_CONNECT_TIMEOUT_SECONDS": "1", "DATABASE_STATEMENT_TIMEOUT_SECONDS": "2"}
    database = open_database(Settings.from_env(environ | impatient), service="test")
    yield database
    database.discard()


def test_after_one_silence_nobody_else_waits(database, postgres, monkeypatch):
    monkeypatch.setattr(database._answering, "open_seconds", 60)
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
    database._answering.end_trial()
    assert [(1,)] == eventually(lambda: _answer(database), what="an answer")


def test_a_refused_statement_says_nothing_against_the_server(database):
    database._answering.open("gone")
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


def test_rows_without_columns_are_rows(database):
    """Or a test for the absence of rows would pass whatever there is."""
    assert [(), ()] == database.rows("SELECT FROM (VALUES (1), (2)) AS rows")
    assert [] == database.rows("SELECT FROM jobs")
    assert [] == database.rows("SET application_name = 'x'")


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
    assert ("async-job-system test",) == database.row("SELECT current_setting('application_name')")


def held(database, count):
    """Have so many threads ask for what the operator has locked; return their futures."""
    pool = ThreadPoolExecutor(count)
    return [pool.submit(database.rows, "SELECT count(*) FROM workers") for _ in range(count)]


class Operator:
    """Has locked the table of workers, and looks at the sessions of the tests' database."""

    def __init__(self, database_url):
        self._holder, self._observer = psycopg2.connect(database_url), psycopg2.connect(database_url)
        self._observer.autocommit = True
        with self._holder.cursor() as cursor:
            cursor.execute("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")

    def release(self):
        self._holder.rollback()

    def ask(self, sql):
        with self._observer.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def sessions(self, *, waiting=False):
        """Return how many connections the service has, or how many of them wait for the lock."""
        [(count, blocked)] = self.ask(
            "SELECT count(*), count(*) FILTER (WHERE wait_event_type = 'Lock') FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'async-job-system%'"
        )
        return blocked if waiting else count

    def close(self):
        self._holder.close()
        self._observer.close()


@pytest.fixture
def operator(database_url):
    with closing(Operator(database_url)) as operator:
        yield operator


def test_threads_share_the_connections_that_the_settings_allow(environ, operator):
    database = opened(environ, DATABASE_CONNECTIONS="2")
    answers = held(database, 6)
    eventually(lambda: operator.sessions(waiting=True) == 2, what="two statements that wait")
    operator.release()

    assert [[(0,)]] * 6 == [answer.result(30) for answer in answers]
    assert 2 == operator.sessions()
    database.discard()


def test_a_reserved_statement_does_not_wait_for_the_others(environ, operator):
    database = opened(environ, has_reserve=True, DATABASE_CONNECTIONS="2")
    answers = held(database, 2)
    eventually(lambda: operator.sessions(waiting=True) == 2, what="two statements that wait")

    assert [(1,)] == database.rows("SELECT 1", reserved=True)

    operator.release()
    assert [[(0,)]] * 2 == [answer.result(30) for answer in answers]
    database.discard()


def test_a_thread_waits_for_a_connection_no_longer_than_for_an_answer(environ, operator, monkeypatch):
    database = opened(environ, DATABASE_CONNECTIONS="1")
    [answer] = held(database, 1)
    eventually(lambda: operator.sessions(waiting=True) == 1, what="a statement that waits")
    monkeypatch.setattr(database._pool, "_wait_seconds", 0.0)

    with pytest.raises(DatabaseUnavailable, match="busy"):
        database.rows("SELECT 1")

    operator.release()
    assert [(0,)] == answer.result(30)
    database.discard()


def test_connections_that_nobody_uses_are_closed(environ, operator):
    database = opened(environ, DATABASE_CONNECTIONS="3", DATABASE_IDLE_SECONDS="0.1")
    answers = held(database, 3)
    eventually(lambda: operator.sessions(waiting=True) == 3, what="three statements that wait")
    operator.release()
    assert [[(0,)]] * 3 == [answer.result(30) for answer in answers]

    eventually(lambda: operator.sessions() == 0, what="no connection")
    assert [(1,)] == database.rows("SELECT 1")
    database.discard()


def test_a_thread_that_was_interrupted_keeps_no_connection_from_the_others(environ):
    database = opened(environ, DATABASE_CONNECTIONS="1")
    taken = threading.Thread(target=database._pool.take)
    taken.start()
    taken.join()

    assert [(1,)] == database.rows("SELECT 1")
    database.discard()


def test_after_one_was_lost_no_other_of_that_time_is_used(environ, operator):
    """When a server restarts, all kept connections are dead, and a statement is sent twice at most."""
    database = opened(environ, DATABASE_CONNECTIONS="3")
    answers = held(database, 3)
    eventually(lambda: operator.sessions(waiting=True) == 3, what="three statements that wait")
    operator.release()
    assert [[(0,)]] * 3 == [answer.result(30) for answer in answers]
    ended = operator.ask(
        "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'async-job-system%'"
    )
    assert [(True,)] * 3 == ended

    assert [[(1,)]] * 3 == [database.rows("SELECT 1") for _ in range(3)]
    assert 1 == operator.sessions()
    database.discard()


def test_a_refused_transaction_has_freed_its_locks_when_its_error_is_told(database):
    def work():
        pid, _ = database.row("SELECT pg_backend_pid(), pg_advisory_xact_lock(7)")
        raise InvalidRequest(str(pid))

    for _ in range(20):
        with pytest.raises(InvalidRequest) as refused:
            database.in_one_transaction(work)
        # On the same connection a lock of its own would be granted, too.
        assert [] == database.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 7")
        assert int(refused.value.detail) == database.row("SELECT pg_backend_pid()")[0]


def test_a_statement_that_leaves_its_transaction_open_takes_its_connection_along(database):
    before = database.row("SELECT pg_backend_pid()")

    with pytest.raises(SchemaUnavailable):
        database.rows("BEGIN; SELECT 1 FROM no_such_table")

    assert before != database.row("SELECT pg_backend_pid()")


def opened(environ, *, has_reserve=False, **changes):
    return open_database(Settings.from_env(environ | changes), service="test", has_reserve=has_reserve)


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


def test_a_caller_can_ask_whether_a_statement_would_be_refused(database):
    assert "" == database.refusal()
    database._answering.open("silent")
    assert "silent" == database.refusal()
    database._answering.close()
    database._connecting.open("connection refused")
    assert "connection refused" == database.refusal()
