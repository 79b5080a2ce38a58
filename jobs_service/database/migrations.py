"""Applies `seeds/*.sql` in the order of their numbers, each file once, while the service runs.

The comments `-- step: …` and `-- step without transaction: …` divide a file into steps. The latter are for statements
that read or write a whole table while the service runs, such as CREATE INDEX CONCURRENTLY; they may run twice. With
each step it is recorded how many are done, so that a run continues where a killed one stopped.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import psycopg2.errors

from jobs_service.database.connection import Database, Row
from jobs_service.database.driver_errors import first_line
from jobs_service.database.sessions import Sessions
from jobs_service.errors import MigrationError, StatementRefused

SEEDS = Path(__file__).resolve().parents[2] / "seeds"

#: Checksums of former editions that have the same effect. Databases in use were migrated with them.
FORMER: Mapping[str, frozenset[str]] = {
    "001_create_jobs_table.sql": frozenset({"0f1687bdf07c3c1c87c0c938f804ac76225ba374e1b342ce6f61914183e5419a"}),
    "002_add_lifecycle.sql": frozenset({"79480decc8388cccca13415e49a10746c2f4dd9539da39a5f79a53055a368d6f"}),
    "003_add_reliability.sql": frozenset({"16bc97a31c8bbbf3b704ee3357c4f62e14755161d72bdf34e2d13c9c27265ece"}),
    "005_index_lists.sql": frozenset({"e67e21d90f019fd67109b4d817faff610b4a66aba2287f2c65d8f1fa849931b9"}),
}

#: The key of an advisory lock, which keeps two runs from creating the tables below at once. Any number will do.
LOCK = 0x4A4F4253_01

#: How long a step waits for a lock: all later requests for the table wait behind it. More than PostgreSQL's
#: deadlock_timeout (1 s), after which an autovacuum gives up its lock.
LOCK_TIMEOUT = "2s"

#: Pauses between tries to get a lock. Statements that waited behind a try run in the pause.
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)

#: Seconds without a sign of life after which a run counts as ended. More than the longest pause plus LOCK_TIMEOUT.
TAKE_OVER_SECONDS = 15.0

#: Seconds between two looks at another run.
GLANCE_SECONDS = 0.5

_CREATE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  name TEXT PRIMARY KEY,
  sha256 TEXT NOT NULL,
  applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
-- One row: which run has its turn, and how many steps of its file are done. A counter shows that the run is alive.
CREATE TABLE IF NOT EXISTS schema_migration_run (
  one BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
  holder UUID,
  beats BIGINT NOT NULL DEFAULT 0,
  name TEXT,
  sha256 TEXT,
  steps INTEGER NOT NULL DEFAULT 0
);
INSERT INTO schema_migration_run DEFAULT VALUES ON CONFLICT DO NOTHING"""

# The server continues the statement of a killed run, and finishes its index: until then the run has not ended.
_LOOK = """
SELECT holder, beats, EXISTS (
  SELECT FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
    AND query LIKE '%/* migrate ' || holder::text || ' */%'
) FROM schema_migration_run"""

_TAKE = """
UPDATE schema_migration_run SET holder = %s, beats = beats + 1
WHERE holder IS NOT DISTINCT FROM %s AND beats = %s RETURNING beats"""

_BEAT = "UPDATE schema_migration_run SET beats = beats + 1 WHERE holder = %s RETURNING beats"

_RELEASE = "UPDATE schema_migration_run SET holder = NULL WHERE holder = %s"

# Raises an error when another run has taken over, which rolls back the transaction it is part of.
_NOTE_STEP = """
DO $note$ BEGIN
  UPDATE schema_migration_run SET beats = beats + 1, name = %(name)s, sha256 = %(sha256)s, steps = %(steps)s
  WHERE holder = %(holder)s;
  IF NOT FOUND THEN RAISE EXCEPTION 'another run has taken over'; END IF;
END $note$"""

_NOTE_FILE = """
WITH done AS (
  UPDATE schema_migration_run SET beats = beats + 1, name = NULL, sha256 = NULL, steps = 0
  WHERE holder = %(holder)s RETURNING 1
)
INSERT INTO schema_migrations (name, sha256) SELECT %(name)s, %(sha256)s FROM done RETURNING name"""

_APPLIED = "SELECT name, sha256 FROM schema_migrations ORDER BY name"

#: In place of the limits of the role and the server.
_NO_LIMITS = {"statement_timeout": "0", "lock_timeout": "0"}

#: Seconds to connect to each host of DATABASE_URL.
CONNECT_SECONDS = 10

_NOT_POOLED = (
    "the pooler ignores the search_path of DATABASE_URL, which every step needs: run migrate with a DATABASE_URL that "
    "leads to PostgreSQL itself"
)

_STEP = re.compile(r"^-- step( without transaction)?: (.+)$", re.MULTILINE)
_INDEX = re.compile(r"^CREATE (?:UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS (\w+)", re.MULTILINE)
_COMMENT = re.compile(r"^\s*(--.*)?$")

_TAKEN_OVER = "another run has taken over, because this one showed no sign of life; it applies the missing files"

#: Is given a line about the progress.
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a file: one transaction, or one statement that runs outside of a transaction."""

    doing: str
    sql: str
    in_transaction: bool = True


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `seeds/`."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def number(self) -> str:
        return self.name[:3]

    @property
    def steps(self) -> list[Step]:
        """The steps in order. SQL before the first marker is a step too."""
        head, *parts = _STEP.split(self.sql)
        steps = [] if all(map(_COMMENT.match, head.splitlines())) else [Step("applying", head)]
        for alone, doing, sql in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            steps.append(Step(doing.strip(), sql.strip(), in_transaction=not alone))
        return steps

    def was_applied_as(self, sha256: str) -> bool:
        return sha256 == self.sha256 or sha256 in FORMER.get(self.name, ())


def migrate(database: Database, seeds: Path = SEEDS, *, report: Report = lambda _: None) -> list[str]:
    """Apply the missing files, and return their names.

    Of several runs at the same time one works, the others wait. Where no file is missing it only reads.
    Raises `MigrationError` when an applied file was changed or is missing, or when one fails, and
    `DatabaseUnavailable`. Called again after either, it continues where it stopped.
    """
    migrations = read(seeds)
    if not pending(database, seeds):
        return []
    with _explained("preparing"), closing(_Session(database)) as session:
        _repeated(lambda: session.run(_in_transaction(f"SELECT pg_advisory_xact_lock({LOCK}); {_CREATE}")), report)
        with _turn(session, report) as run:
            missing = _missing(migrations, dict(session.run(_APPLIED)))
            for migration in missing:
                run.apply(migration)
    return [migration.name for migration in missing]


def pending(database: Database, seeds: Path = SEEDS) -> list[str]:
    """Return the names that `migrate` would apply. Raises like `migrate`."""
    with _explained("reading what was applied"):
        (known,) = database.row("SELECT to_regclass('schema_migrations') IS NOT NULL") or (False,)
        applied: dict[str, str] = dict(database.rows(_APPLIED)) if known else {}
    return [migration.name for migration in _missing(read(seeds), applied)]


def read(seeds: Path) -> list[Migration]:
    """Return the files in order. Raises `MigrationError` for a name that has no number, or a number used twice."""
    paths = sorted(seeds.glob("*.sql"))
    if not paths:
        raise MigrationError(f"no SQL files in {seeds}")
    if unnamed := [path for path in paths if not re.fullmatch(r"\d{3}_\w+\.sql", path.name)]:
        raise MigrationError(f"{unnamed[0]}: expected a name like 001_create_jobs_table.sql")
    migrations = [Migration(path.name, path.read_text("utf-8")) for path in paths]
    if len({migration.number for migration in migrations}) < len(migrations):
        raise MigrationError(f"two files in {seeds} have the same number")
    return migrations


def _missing(migrations: list[Migration], applied: Mapping[str, str]) -> list[Migration]:
    """Return the files to apply. Files that a newer version of this code has applied are no error."""
    files = {migration.name: migration for migration in migrations}
    for name, sha256 in applied.items():
        if name in files and not files[name].was_applied_as(sha256):
            raise MigrationError(f"{name} was changed after it was applied: put it back and add a new file instead")
        if name not in files and name[:3] <= migrations[-1].number:
            raise MigrationError(f"{name} was applied to this database but is not in seeds/: put it back")
    return [migration for migration in migrations if migration.name not in applied]


class _Session:
    """A connection whose statements have no time limit. Each is sent in one message."""

    def __init__(self, database: Database) -> None:
        sessions = Sessions(
            database.database,
            name="async-job-system migrate",
            settings=_NO_LIMITS,
            answer_seconds=None,
            connect_timeout=CONNECT_SECONDS,
        )
        self._connection = sessions.open()
        if sessions.is_pooled and sessions.search_path:
            raise MigrationError(_NOT_POOLED)

    def text(self, sql: str, values: Mapping[str, object]) -> str:
        """Return the statement with its values in place."""
        with self._connection.cursor() as cursor:
            text: bytes = cursor.mogrify(sql, {name: _plain(value) for name, value in values.items()})
        return text.decode()

    def run_alone(self, sql: str) -> None:
        """Run a statement that must be alone in its message, even without the settings for a pooler's session."""
        preamble, self._connection.preamble = self._connection.preamble, b""
        try:
            self.run(sql)
        finally:
            self._connection.preamble = preamble

    def run(self, sql: str, values: Iterable[object] = ()) -> list[Row]:
        """Return the rows. Without values a % stands for itself. A transaction that a failed statement began ends."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, tuple(map(_plain, values)) or None)
                return cursor.fetchall() if cursor.description else []
        except psycopg2.Error:
            with suppress(psycopg2.Error), self._connection.cursor() as cursor:
                cursor.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._connection.close()


class _Run:
    """The run whose turn it is."""

    def __init__(self, session: _Session, holder: UUID, report: Report) -> None:
        self._session = session
        self._holder = holder
        self._report = report

    def apply(self, migration: Migration) -> None:
        """Run the steps of a file that are not done, and record it as applied."""
        for number in range(self._done(migration), len(migration.steps)):
            self._apply_step(migration, number)
        if not self._session.run(self._note(_NOTE_FILE, migration)):
            raise MigrationError(_TAKEN_OVER)

    def _apply_step(self, migration: Migration, number: int) -> None:
        steps = migration.steps
        where = f"{migration.name}: {steps[number].doing} ({number + 1} of {len(steps)})"
        self._report(where)
        note = self._note(_NOTE_STEP, migration, steps=number + 1)
        with _explained(where):
            _repeated(lambda: self._do(steps[number], note), self._report, where)

    def _done(self, migration: Migration) -> int:
        """Return how many steps of the file an earlier run has done."""
        [(name, sha256, steps)] = self._session.run("SELECT name, sha256, steps FROM schema_migration_run")
        if name is None:
            return 0
        if (name, sha256) != (migration.name, migration.sha256):
            raise MigrationError(
                f"{name} was changed or renamed after its step {steps}: put it back until it is applied"
            )
        return int(steps)

    def _note(self, sql: str, migration: Migration, **values: object) -> str:
        names = {"holder": self._holder, "name": migration.name, "sha256": migration.sha256}
        return self._session.text(sql, names | values)

    def _do(self, step: Step, note: str) -> None:
        if not self._session.run(_BEAT, (self._holder,)):
            raise MigrationError(_TAKEN_OVER)
        mark = f"/* migrate {self._holder} */ "
        if step.in_transaction:
            # In one message, so that no lock is held if this process is stopped between two statements.
            self._session.run(mark + _in_transaction(f"{note};\n{step.sql}"))
            return
        for index in _INDEX.findall(step.sql):
            self._clear_unfinished(index, mark)
        self._session.run_alone(mark + step.sql)
        self._session.run(note)

    def _clear_unfinished(self, index: str, mark: str) -> None:
        """Drop an index that a killed run left invalid. IF NOT EXISTS would take it for the finished one."""
        if self._session.run("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid", (index,)):
            self._session.run_alone(f"{mark}DROP INDEX CONCURRENTLY IF EXISTS {index}")


@contextmanager
def _turn(session: _Session, report: Report) -> Iterator[_Run]:
    """Wait until it is this run's turn, and end the turn afterwards.

    The turn is a row and not a lock or a transaction: building an index CONCURRENTLY would wait for that, and a pooler
    would give the session to another client.
    """
    holder = uuid4()
    _wait_for_turn(session, holder, report)
    try:
        yield _Run(session, holder, report)
    finally:
        with suppress(psycopg2.Error):
            session.run(_RELEASE, (holder,))


def _wait_for_turn(session: _Session, holder: UUID, report: Report) -> None:
    seen: object = None
    since = time.monotonic()
    while True:
        [(other, beats, is_busy)] = session.run(_LOOK)
        if other is not None and seen is None:
            report("waiting for another run of migrate, or for a statement that it left running")
        if is_busy or (other, beats) != seen:
            seen, since = (other, beats), time.monotonic()
        is_quiet = not is_busy and time.monotonic() - since > TAKE_OVER_SECONDS
        if (other is None or is_quiet) and session.run(_TAKE, (holder, other, beats)):
            return
        time.sleep(GLANCE_SECONDS)


def _repeated(do: Callable[[], object], report: Report, where: str = "preparing") -> None:
    """Try until the locks are free: each try waits for them briefly, the next one follows after a pause."""
    for pause in _pauses():
        try:
            do()
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
            report(f"{where}: another transaction holds a lock that it needs; tried again in {pause:g} s")
            time.sleep(pause)
        else:
            return


def _pauses() -> Iterator[float]:
    yield from PAUSES_SECONDS
    while True:
        yield PAUSES_SECONDS[-1]


def _in_transaction(sql: str) -> str:
    return f"BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SET LOCAL statement_timeout = 0;\n{sql}\n;COMMIT"


def _plain(value: object) -> Any:  # noqa: ANN401 - any type that psycopg2 adapts by itself
    return str(value) if isinstance(value, UUID) else value


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Raise what PostgreSQL refuses as `MigrationError`, which says what to do."""
    try:
        yield
    except psycopg2.Error as error:
        raise MigrationError(f"{where} failed: {first_line(error)}{_advice(error.pgcode)}") from error
    except StatementRefused as error:
        raise MigrationError(f"{where} failed: {error}{_advice(error.sqlstate)}") from error


def _advice(sqlstate: str | None) -> str:
    if sqlstate is None or sqlstate.startswith(("08", "57P")):
        return "; see that PostgreSQL answers and run it again, it continues where it stopped"
    return _ADVICE.get(sqlstate, "")


_ADVICE = {
    "25006": "; DATABASE_URL leads to a read-only server, a standby perhaps: let it name the primary",
    "42501": "; the user of DATABASE_URL must own the tables and may need: GRANT CREATE ON SCHEMA <schema> TO <user>",
    "3F000": "; the schema of search_path is not there: create it with CREATE SCHEMA, or correct DATABASE_URL",
    "57014": "; let DATABASE_URL lead to PostgreSQL itself and not to a pooler, and run it again",
    "42701": "; were the files applied by hand? docs/upgrading.md says how to note that",
    "42P07": "; were the files applied by hand? docs/upgrading.md says how to note that",
}
