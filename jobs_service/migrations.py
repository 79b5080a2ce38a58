"""Applies `seeds/*.sql`: in the order of their numbers, each once, under a lock."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from jobs_service.database import Database
from jobs_service.errors import MigrationError

SEEDS = Path(__file__).resolve().parent.parent / "seeds"

#: Any number nobody else uses: `pg_advisory_xact_lock` makes concurrent starters wait for each other.
LOCK = 0x4A4F4253_01

_CREATE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  name TEXT PRIMARY KEY,
  sha256 TEXT NOT NULL,
  applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `seeds/`."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrate(database: Database, seeds: Path = SEEDS) -> list[str]:
    """Apply what is missing, all in one transaction, and return the names applied.

    Raises `MigrationError` when an applied file was changed or is missing, or when one fails.
    """
    migrations = read(seeds)
    with database.atomic():
        # Another starter may be at work for long, and so may a migration.
        database.connection().patience_seconds = None
        database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        database.execute_sql("SET LOCAL statement_timeout = 0")
        database.execute_sql(_CREATE)
        missing = _missing(migrations, _applied(database))
        for migration in missing:
            _apply(database, migration)
    return [migration.name for migration in missing]


def pending(database: Database, seeds: Path = SEEDS) -> list[str]:
    """Return the names that `migrate` would apply. Raises like `migrate`."""
    (known,) = database.row("SELECT to_regclass('schema_migrations') IS NOT NULL") or (False,)
    return [migration.name for migration in _missing(read(seeds), _applied(database) if known else {})]


def read(seeds: Path) -> list[Migration]:
    """Return the files in order. Raises `MigrationError` for a name that has no number, or a number used twice."""
    paths = sorted(seeds.glob("*.sql"))
    numbers = [_number(path) for path in paths]
    if not paths:
        raise MigrationError(f"no SQL files in {seeds}")
    if len(set(numbers)) < len(numbers):
        raise MigrationError(f"two files in {seeds} have the same number")
    return [Migration(path.name, path.read_text("utf-8")) for path in paths]


def _number(path: Path) -> str:
    if not (found := re.match(r"(\d{3})_\w+\.sql$", path.name)):
        raise MigrationError(f"{path}: expected a name like 001_create_jobs_table.sql")
    return found[1]


def _applied(database: Database) -> dict[str, str]:
    return dict(database.execute_sql("SELECT name, sha256 FROM schema_migrations ORDER BY name").fetchall())


def _missing(migrations: list[Migration], applied: dict[str, str]) -> list[Migration]:
    files = {migration.name: migration.sha256 for migration in migrations}
    for name, sha256 in applied.items():
        if name not in files:
            raise MigrationError(f"{name} was applied to this database but is not in seeds/: is this code older?")
        if files[name] != sha256:
            raise MigrationError(f"{name} was changed after it was applied: put it back and add a new file instead")
    return [migration for migration in migrations if migration.name not in applied]


def _apply(database: Database, migration: Migration) -> None:
    try:
        # The driver itself, not peewee: a literal % in a file is not a parameter.
        with database.connection().cursor() as cursor:
            cursor.execute(migration.sql)
    except psycopg2.Error as error:
        raise MigrationError(f"{migration.name} failed: {str(error).strip()}") from error
    database.execute_sql(
        "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (migration.name, migration.sha256)
    )
