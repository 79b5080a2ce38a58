"""PostgreSQL answers, and its answer is no: read-only, no connection left, a locked or missing table, a full disk."""

import contextlib
import shutil
import subprocess
from contextlib import contextmanager

import psycopg2
import pytest
from eventually import eventually
from test_postgres_down import assert_unavailable

from devstack.servers import NOBODY


@contextmanager
def read_only(server, connection):
    """As on a standby, after a failover that the service was not told of."""

    def reload(expected):
        """Wait for a new session that has the setting: the old ones have it at their next statement then."""
        connection.execute("SELECT pg_reload_conf()")
        eventually(lambda: setting(server, "default_transaction_read_only") == expected, what="a reloaded setting")

    connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    reload("on")
    try:
        yield
    finally:
        connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        reload("off")


def setting(server, name):
    """Return a setting as a new session has it."""
    with contextlib.closing(psycopg2.connect(server.url_of("postgres"))) as session, session.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return cursor.fetchone()[0]


CONNECTIONS = 40


@contextmanager
def full(server, connection):
    """Every connection is taken by somebody else."""
    taken = []

    def all_are_taken():
        with contextlib.suppress(psycopg2.OperationalError):
            while True:
                taken.append(psycopg2.connect(server.url_of("postgres")))
        # The service may be faster with a connection that becomes free. One that begins is not in pg_stat_activity yet.
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'jobs_db'")
        return len(taken) == CONNECTIONS - 1  # the operator has one

    eventually(all_are_taken, what="a server without a connection left")
    try:
        yield
    finally:
        for each in taken:
            each.close()


@contextmanager
def locked(server, connection):  # noqa: ARG001
    """A migration, or a curious operator, holds the table."""
    holder = psycopg2.connect(server.url)
    with contextlib.closing(holder), holder.cursor() as cursor:
        cursor.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def missing(server, connection):  # noqa: ARG001
    """A restore is under way: the table has another name for a while."""
    server.execute("ALTER TABLE jobs RENAME TO jobs_elsewhere", server.DATABASE)
    try:
        yield
    finally:
        server.execute("ALTER TABLE jobs_elsewhere RENAME TO jobs", server.DATABASE)


class Operator:
    """A session that stays, so that the way back is open."""

    def __init__(self, server):
        self._connection = psycopg2.connect(server.url_of("postgres"))
        self._connection.autocommit = True
        self.execute("SET default_transaction_read_only = off")

    def execute(self, sql):
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return [] if cursor.description is None else cursor.fetchall()


@pytest.fixture
def own_postgres(stack):
    """A PostgreSQL of the test's own, with so few connections that all of them are soon taken."""
    return stack.start_own_postgres(f"max_connections={CONNECTIONS}")


@pytest.mark.parametrize("refusal", [read_only, full, locked, missing])
def test_what_is_refused_is_a_503_and_what_has_ended_is_written_later(stack, own_postgres, refusal):
    stack.service.environ |= {"DATABASE_CONNECT_TIMEOUT_SECONDS": "1", "DATABASE_STATEMENT_TIMEOUT_SECONDS": "2"}
    worker = stack.start()
    with stack.no_process_ends():
        # They end when they are told, however long it takes until everything is refused.
        started, go = stack.folder / "started", stack.folder / "go"
        running = [stack.submit("test-wait-for-file", {"started": str(started), "go": str(go)}) for _ in range(4)]
        eventually(lambda: len(started.read_text().splitlines()) == 4, what="running jobs")
        stack.submit_load(4)
        stack.strike()
        with refusal(own_postgres, Operator(own_postgres)):
            assert_unavailable(stack)
            go.touch()
            eventually(lambda: "waiting for it" in stack.service.log(worker), what="a verdict that waits")
        eventually(stack.submit, what="an accepted job")
        stack.settle()
        assert {("completed", 1)} == stack.values(running, "status", "attempts")


def test_a_standby_behind_the_address_is_named(stack, own_postgres):
    stack.start()
    stack.submit_load(4)
    stack.settle()
    own_postgres.stop()
    # Not promoted yet, or demoted: it recovers, and is to be read only.
    signal_file = own_postgres.folder / "data" / "standby.signal"
    signal_file.touch()
    own_postgres.start()

    eventually(lambda: "primary" in stack.service.get("/readyz")[1]["checks"]["database"], what="advice")
    assert 503 == stack.service.get("/readyz")[0]
    assert_unavailable(stack)

    own_postgres.stop()
    signal_file.unlink()
    own_postgres.start()
    eventually(stack.submit, what="an accepted job")
    eventually(lambda: stack.service.get("/readyz")[0] == 200, what="a ready API")


@pytest.fixture
def small_disk(stack):
    """A disk for PostgreSQL, not much larger than what it needs to start."""
    folder = stack.folder / "own-postgres"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    shutil.chown(folder, NOBODY)
    stack.servers.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)
    return folder


def test_a_full_disk_refuses_new_jobs_and_keeps_the_old_ones(stack, small_disk):
    server = stack.start_own_postgres()
    stack.start()
    with stack.no_process_ends():
        stack.submit_load(8)
        stack.strike()
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4_096)
                file.flush()
        payload = {"name": "Alice", "score": 95}
        eventually(lambda: stack.submit("csv-generation", payload) is None, what="a job that finds no room")
        eventually(lambda: stack.service.get("/readyz")[0] == 503, what="an API that says it can accept no job")
        ballast.unlink()
        # Without room for its log it ends itself, and is for the operator to start again.
        if not server.child.running or not eventually(server.answers, what="an answer"):
            server.start()
        eventually(stack.submit, what="an accepted job")
        stack.settle()
