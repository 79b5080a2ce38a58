"""seeds/ and `migrate`: from any schema there was to the last, beside the service, killed anywhere, twice at once."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import psycopg2
import pytest
from catalog import catalog
from databases import opened
from eventually import eventually
from service import ROOT

from devstack.processes import Child
from jobs_service.database import migrations
from jobs_service.database.migrations import FORMER, SEEDS, migrate, pending, read
from jobs_service.errors import DatabaseUnavailable, MigrationError

FORMER_SEEDS = Path(__file__).parent / "former_seeds"
NAMES = [migration.name for migration in read(SEEDS)]
STEPS = [(migration.name, step.doing) for migration in read(SEEDS) for step in migration.steps]

#: Rows of every kind that the brief's table can hold.
ROWS = """
INSERT INTO jobs (id, type, status, payload, attempts, created_at, updated_at)
SELECT gen_random_uuid(), 'EMAIL_SEND', status, '{"n": 1}', attempts, made, made
FROM unnest('{pending,processing,completed,failed,cancelled}'::text[]) AS status,
     unnest('{0,3,NULL}'::integer[]) AS attempts,
     unnest(ARRAY['2024-02-29 12:00'::timestamp, NULL]) AS made,
     generate_series(1, 10)"""

BUILDING = "FROM pg_stat_progress_create_index WHERE datname = current_database()"

_numbers = itertools.count(1)


@pytest.fixture
def url(postgres):
    """An empty database."""
    name = f"empty_{next(_numbers)}"
    postgres.execute(f"CREATE DATABASE {name}")
    yield postgres.url_of(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(url):
    with opened(url) as database:
        yield database


@pytest.fixture(scope="module")
def whole(postgres):
    """The catalog of a database that was migrated in one go."""
    postgres.execute("CREATE DATABASE whole")
    with opened(postgres.url_of("whole")) as database:
        migrate(database)
        found = catalog(database)
    postgres.execute("DROP DATABASE whole WITH (FORCE)")
    return found


@pytest.fixture
def impatient(monkeypatch):
    """Have no test wait for what takes its time to be safe."""
    monkeypatch.setattr(migrations, "PAUSES_SECONDS", (0.05,))
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(migrations, "GLANCE_SECONDS", 0.05)


@pytest.fixture
def soon_over(monkeypatch, impatient):  # noqa: ARG001 - goes with it
    """Have a run that nothing is seen of be over soon. Only where no other works: a busy machine may hold it up."""
    monkeypatch.setattr(migrations, "TAKE_OVER_SECONDS", 0.5)


@contextmanager
def session(url):
    """A client in a transaction of its own, until it is committed or the block ends."""
    with closing(psycopg2.connect(url)) as connection:
        yield connection


def execute(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return [] if cursor.description is None else cursor.fetchall()


def seeds_until(folder, name, *, source=SEEDS):
    """Return a folder with the files up to this one, in their former edition where `source` has it."""
    folder.mkdir(exist_ok=True)
    for each in NAMES[: NAMES.index(name) + 1]:
        shutil.copy(source / each if (source / each).exists() else SEEDS / each, folder)
    return folder


def apply_former(url, last):
    """Bring a database to where the code of before had it: all in one transaction, noted with the checksums of then."""
    with session(url) as connection:
        execute(
            connection, "CREATE TABLE schema_migrations (name TEXT PRIMARY KEY, sha256 TEXT, applied_at TIMESTAMPTZ)"
        )
        for name in NAMES[: NAMES.index(last) + 1]:
            migration = (current() | former())[name]
            execute(connection, migration.sql)
            execute(connection, f"INSERT INTO schema_migrations VALUES ('{name}', '{migration.sha256}')")
        connection.commit()


def former():
    return {migration.name: migration for migration in read(FORMER_SEEDS)}


def current():
    return {migration.name: migration for migration in read(SEEDS)}


def run_migrate(url, **environ):
    argv = [sys.executable, "-m", "jobs_service", "migrate"]
    environ = environment(url) | environ
    return subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def environment(url):
    return {"PATH": os.environ["PATH"], "DATABASE_URL": url, "REDIS_URL": "redis://localhost"}


def test_every_file_is_applied_once_in_order(database):
    assert NAMES == pending(database)
    assert NAMES == migrate(database)

    assert [] == pending(database)
    assert [] == migrate(database)


def test_it_reports_each_step(database):
    told = []
    migrate(database, report=told.append)

    assert "005_index_lists.sql: building jobs_by_status (1 of 3)" in told
    assert len(STEPS) == len(told)


@pytest.mark.parametrize("last", NAMES[:5])
def test_both_editions_make_the_same(postgres, database, tmp_path, last):
    migrate(database, seeds_until(tmp_path / "seeds", last))
    postgres.execute("CREATE DATABASE former")
    try:
        apply_former(postgres.url_of("former"), last)
        with opened(postgres.url_of("former")) as other:
            assert catalog(other) == catalog(database)
            assert NAMES[NAMES.index(last) + 1 :] == migrate(other)
            migrate(database)
            assert catalog(other) == catalog(database)
    finally:
        postgres.execute("DROP DATABASE former WITH (FORCE)")


def test_a_former_edition_is_known_by_its_checksum():
    assert {name: frozenset({migration.sha256}) for name, migration in former().items()} == FORMER


def test_the_first_table_made_by_hand_is_taken_over_with_every_row(url, database):
    with session(url) as connection:
        execute(connection, former()["001_create_jobs_table.sql"].sql)
        execute(connection, ROWS)
        connection.commit()
        before = execute(connection, "SELECT id, type, payload FROM jobs ORDER BY id")
        connection.commit()

    assert NAMES == migrate(database)

    with session(url) as connection:
        assert before == execute(connection, "SELECT id, type, payload FROM jobs ORDER BY id")
        found = execute(connection, "SELECT status, end_reason, count(*)::int FROM jobs GROUP BY 1, 2 ORDER BY 1")
    assert [
        ("cancelled", "cancelled_by_operator", 60),
        ("completed", None, 60),
        ("failed", "attempts_exhausted", 60),
        # Whoever ran them knew nothing of leases: they wait again.
        ("pending", None, 120),
    ] == found


def test_more_rows_than_one_batch_are_completed_all(url, database, tmp_path):
    migrate(database, seeds_until(tmp_path / "seeds", NAMES[0]))
    with session(url) as connection:
        execute(
            connection,
            """INSERT INTO jobs (id, type, status, payload) SELECT id, 'x', 'completed', '{}' FROM (
              SELECT gen_random_uuid() AS id FROM generate_series(1, 12000)
              UNION VALUES ('00000000-0000-0000-0000-000000000000'::uuid), ('ffffffff-ffff-ffff-ffff-ffffffffffff')
            ) AS ids""",
        )
        connection.commit()

    migrate(database)

    assert [(12_002,)] == database.rows(
        "SELECT count(*)::int FROM jobs WHERE finished_at = timezone('utc', updated_at)"
    )


def test_a_changed_file_is_refused(database, tmp_path):
    seeds = seeds_until(tmp_path / "seeds", NAMES[-1])
    migrate(database, seeds)
    (seeds / NAMES[1]).write_text("SELECT 1")

    for ask in (migrate, pending):
        with pytest.raises(MigrationError, match=r"002_add_lifecycle.sql was changed after it was applied"):
            ask(database, seeds)


def test_a_missing_file_is_refused(database, tmp_path):
    seeds = seeds_until(tmp_path / "seeds", NAMES[-1])
    migrate(database, seeds)
    (seeds / NAMES[1]).unlink()

    with pytest.raises(MigrationError, match=r"002_add_lifecycle.sql was applied to this database but is not in seeds"):
        pending(database, seeds)


def test_code_of_before_goes_on_with_a_newer_schema(database, tmp_path):
    """In a rolling deploy the database is first: the processes of before stay ready until they are replaced."""
    before = seeds_until(tmp_path / "seeds", NAMES[-2])
    migrate(database)

    assert [] == pending(database, before)
    assert [] == migrate(database, before)


@pytest.mark.parametrize("names", [["1_first.sql"], ["001_a.sql", "001_b.sql"], []])
def test_a_folder_that_has_no_order_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("SELECT 1")

    with pytest.raises(MigrationError):
        read(tmp_path)


def test_a_file_without_steps_is_one_transaction(database, tmp_path):
    (tmp_path / "001_plain.sql").write_text("-- Why.\nCREATE TABLE a (x TEXT DEFAULT '100%s');\nSELECT 1 / 0;")

    with pytest.raises(MigrationError, match=r"001_plain.sql: applying .1 of 1. failed: division by zero"):
        migrate(database, tmp_path)
    assert [(None,)] == database.rows("SELECT to_regclass('a')::text")

    (tmp_path / "001_plain.sql").write_text("CREATE TABLE a (x TEXT DEFAULT '100%s')")
    assert ["001_plain.sql"] == migrate(database, tmp_path)


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("steps", range(1, len(STEPS) + 1))
def test_stopped_before_any_step_it_goes_on_there(database, whole, steps):
    """As if killed there: what ends it is no error that it could handle."""
    told = []

    def report(line):
        told.append(line)
        if len(told) == steps:
            raise Stopped

    with pytest.raises(Stopped):
        migrate(database, report=report)
    rest = []
    migrate(database, report=rest.append)

    assert len(STEPS) == len(told) - 1 + len(rest)
    assert told[-1] == rest[0]
    assert whole == catalog(database)


def test_changed_in_the_middle_it_is_refused(database, tmp_path):
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    (seeds / "001_a.sql").write_text("-- step: one\nCREATE TABLE a ();\n-- step: two\nSELECT 1 / 0;\n")
    with pytest.raises(MigrationError, match=r"two .2 of 2. failed"):
        migrate(database, seeds)
    (seeds / "001_a.sql").write_text("-- step: one\nCREATE TABLE a ();\n-- step: two\nCREATE TABLE b ();\n")

    with pytest.raises(MigrationError, match=r"001_a.sql was changed or renamed after its step 1"):
        migrate(database, seeds)


@pytest.mark.usefixtures("impatient")
def test_a_lock_is_waited_for_shortly_and_nobody_waits_behind_it(url, database, tmp_path):
    migrate(database, seeds_until(tmp_path / "seeds", NAMES[0]))
    told = []
    with ThreadPoolExecutor(1) as pool, session(url) as reader, session(url) as client:
        # A report that takes long: as long as it reads, nobody may change the table.
        execute(reader, "SELECT count(*) FROM jobs")
        migrating = pool.submit(migrate_here, url, told.append)
        eventually(lambda: sum("tried again" in line for line in told) > 3, what="some tries")
        # While it waits for the lock, a client waits no longer than it does.
        execute(client, "SET statement_timeout = '20s'")
        execute(client, "INSERT INTO jobs (id, type, status, payload) VALUES (gen_random_uuid(), 'x', 'pending', '{}')")
        client.commit()
        assert not migrating.done()
        reader.commit()
        assert NAMES[1:] == migrating.result(60)

    assert [(1,)] == database.rows("SELECT count(*)::int FROM jobs")


def migrate_here(url, report=lambda _: None):
    with opened(url) as database:
        return migrate(database, report=report)


def test_every_starter_waits_and_one_works(url, database):
    with ThreadPoolExecutor(6) as pool:
        applied = [each.result(120) for each in [pool.submit(migrate_here, url) for _ in range(6)]]

    assert [[]] * 5 + [NAMES] == sorted(applied)
    assert [] == pending(database)


@pytest.mark.usefixtures("impatient")
def test_a_starter_waits_while_an_index_is_built(url, database, tmp_path, monkeypatch):
    """However long that takes: the run that builds it is alive."""
    migrate(database, seeds_until(tmp_path / "seeds", "004_add_tracing.sql"))
    looks = counted_looks(monkeypatch)
    with ThreadPoolExecutor(2) as pool, session(url) as holder:
        hold_up_indexes(holder)
        first = pool.submit(migrate_here, url)
        eventually(lambda: is_building(database), what="an index that waits")
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(migrations, "TAKE_OVER_SECONDS", 0.0)
            second = pool.submit(migrate_here, url)
            eventually(lambda: len(looks) > 5, what="a second starter that looks again and again")
        holder.commit()
        assert [NAMES[4:], []] == [first.result(60), second.result(60)]


def counted_looks(monkeypatch):
    """Return a list that grows with each look at another run."""
    looks, run = [], migrations._Session.run

    def counting(session, sql, values=()):
        if sql == migrations._LOOK:
            looks.append(sql)
        return run(session, sql, values)

    monkeypatch.setattr(migrations._Session, "run", counting)
    return looks


@pytest.mark.usefixtures("soon_over")
@pytest.mark.parametrize("ends_at_the_server", [True, False], ids=["backend ended", "backend goes on"])
def test_killed_in_mid_index_the_next_run_builds_it(url, database, whole, tmp_path, ends_at_the_server):
    migrate(database, seeds_until(tmp_path / "seeds", "004_add_tracing.sql"))
    with ThreadPoolExecutor(1) as pool, session(url) as holder:
        hold_up_indexes(holder)
        child = Child(
            [sys.executable, "-m", "jobs_service", "migrate"], log=tmp_path / "log", cwd=ROOT, env=environment(url)
        )
        eventually(lambda: is_building(database), what="an index that waits")
        child.kill()
        if ends_at_the_server:
            database.rows(f"SELECT pg_terminate_backend(pid) {BUILDING}")
            eventually(lambda: not is_building(database), what="the end of the backend")
        assert [(False,)] == database.rows(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'jobs_by_status'::regclass"
        )
        told = []
        again = pool.submit(migrate_here, url, told.append)
        eventually(lambda: told, what="a run that waits for its turn")
        holder.commit()
        assert NAMES[4:] == again.result(60)

    assert whole == catalog(database)


def hold_up_indexes(connection):
    """Begin a transaction for whose end CREATE INDEX CONCURRENTLY waits."""
    connection.set_session(isolation_level="REPEATABLE READ")
    execute(connection, "SELECT count(*) FROM pg_class")
    execute(connection, "LOCK TABLE jobs IN ROW EXCLUSIVE MODE")


def is_building(database):
    return database.rows(f"SELECT pid {BUILDING}")


@pytest.mark.usefixtures("soon_over")
def test_a_run_that_was_frozen_changes_nothing_when_it_wakes_up(url, database, whole):
    frozen, woken = Event(), Event()

    def freeze(line):
        if "004" in line:
            frozen.set()
            assert woken.wait(60)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(migrate_here, url, freeze)
        assert frozen.wait(60)
        assert NAMES[3:] == migrate(database)
        woken.set()
        with pytest.raises(MigrationError, match="another run has taken over"):
            first.result(60)

    assert whole == catalog(database)


def test_nothing_to_do_needs_to_read_only(postgres, url, database):
    migrate(database)
    with a_user(postgres, url, "GRANT SELECT ON schema_migrations TO {user}") as users_url:
        done = run_migrate(users_url, PGOPTIONS="-c default_transaction_read_only=on")

    assert (0, "migrate: nothing to do\n", "") == (done.returncode, done.stdout, done.stderr)


@contextmanager
def a_user(postgres, url, *grants):
    user = f"user_{next(_numbers)}"
    postgres.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'secret'")
    name = url.rpartition("/")[2]
    try:
        for grant in grants:
            postgres.execute(grant.format(user=user), name)
        yield url.replace(f"{postgres.USER}:{postgres.PASSWORD}", f"{user}:secret")
    finally:
        postgres.execute(f"DROP OWNED BY {user}", name)
        postgres.execute(f"DROP ROLE {user}")


def test_a_refusal_is_one_line_that_says_what_to_do(postgres, url, database, free_port):
    with a_user(postgres, url) as users_url:
        assert_refused(run_migrate(users_url), "GRANT CREATE ON SCHEMA")
    postgres.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    assert_refused(run_migrate(url), "let it name the primary")
    postgres.execute(f"ALTER DATABASE {url.rpartition('/')[2]} RESET default_transaction_read_only")
    assert_refused(run_migrate(url.replace(f":{postgres.port}/", f":{free_port()}/")), "see that it runs")

    migrate(database)
    with a_user(postgres, url) as users_url:
        assert_refused(run_migrate(users_url), "schema_migrations")


def assert_refused(done, advice):
    assert (1, "") == (done.returncode, done.stdout)
    assert 1 == len(done.stderr.splitlines()), done.stderr
    assert done.stderr.startswith("migrate: ")
    assert advice in done.stderr


def test_without_postgres_it_is_unavailable(free_port):
    with (
        opened(f"postgresql://user:password@127.0.0.1:{free_port()}/x") as database,
        pytest.raises(DatabaseUnavailable),
    ):
        migrate(database)


def test_files_applied_by_psql_are_taken_for_applied_once_that_is_noted(postgres, url, database, whole):
    psql = {"PATH": f"{postgres.bin_dir}:{os.environ['PATH']}", "DATABASE_URL": url}
    for name in NAMES:
        apply = ["psql", "-v", "ON_ERROR_STOP=1", "-q", "-f", SEEDS / name, url]
        subprocess.run(apply, env=psql, check=True, capture_output=True)
    assert whole == catalog(database)
    refused = run_migrate(url)
    assert "docs/upgrading.md" in refused.stderr

    [note] = re.findall(r"^\(echo .*$", (ROOT / "docs" / "upgrading.md").read_text(), re.MULTILINE)
    subprocess.run(["bash", "-o", "pipefail", "-c", note], cwd=ROOT, env=psql, check=True, capture_output=True)

    assert [] == migrate(database)


def test_heartbeats_of_the_version_before_are_counted(database):
    """In a rolling deploy its workers live beside a leader that goes by the counter alone."""
    migrate(database)
    beat = (
        "INSERT INTO workers (id, hostname, pid, queues, threads) "
        "VALUES ('00000000-0000-0000-0000-000000000001', 'h', 1, '{}', 1) "
        "ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()"
    )
    for _ in range(3):
        database.rows(beat)
    database.rows(f"{beat}, beats = workers.beats + 1")

    assert [(3,)] == database.rows("SELECT beats FROM workers")


def test_the_way_back_from_the_renames_can_be_gone_again(database, whole):
    migrate(database)
    page = (ROOT / "docs" / "upgrading.md").read_text()
    [back] = re.findall(r"```sql\n(BEGIN;.*?)```", page, re.DOTALL)
    database.rows(
        "INSERT INTO jobs (id, type, status, payload, end_reason, finished_at)"
        " VALUES (gen_random_uuid(), 't', 'failed', '{}', 'invalid_payload', now())"
    )

    database.rows(back)
    assert [("undecodable",)] == database.rows("SELECT dead_reason FROM jobs")
    assert ["011_rename_columns.sql"] == migrate(database)

    assert [("invalid_payload",)] == database.rows("SELECT end_reason FROM jobs")
    assert whole == catalog(database)
