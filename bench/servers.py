"""One PostgreSQL and one Valkey for the whole run. Each round gets a new database and an empty Valkey."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import redis

from devstack.servers import HOST, Postgres, Valkey

#: The role of the measured programs. The benchmark uses another, so that its own statements are not counted.
ROLE = "service"


@dataclass(frozen=True)
class Servers:
    postgres: Postgres
    valkey: Valkey

    def url(self, database: str) -> str:
        """Return the URL for the measured programs."""
        return f"postgresql://{ROLE}:{ROLE}@{HOST}:{self.postgres.port}/{database}"

    def connect(self, database: str = "postgres") -> "Connection":
        return Connection(self.postgres.url_of(database))

    def redis(self) -> redis.Redis:
        return self.valkey.client()


class Connection:
    """The benchmark's own connection to PostgreSQL. Each statement is a transaction."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        psycopg2.extras.register_uuid(conn_or_curs=self._connection)

    def run(self, sql: str, *parameters: object) -> Any:  # noqa: ANN401
        """Return the first value of the first row, or None if the statement returns no rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchone()[0] if cursor.description else None

    def explain(self, sql: str, parameters: Mapping[str, object], *, prepare: str = "") -> dict[str, Any]:
        """Run a statement with EXPLAIN ANALYZE, roll it back, and return the plan.

        With `prepare`, a PREPARE, the statement is the EXECUTE for it, and has the plan that fits all parameters.
        """
        with self._connection.cursor() as cursor:
            cursor.execute("BEGIN")
            if prepare:
                cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                # Not for this message: it has placeholders of the server's, and `%%` as in one with parameters.
                cursor.execute(f"DEALLOCATE ALL; {prepare}", ())
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
            [([found],)] = cursor.fetchall()
            cursor.execute("ROLLBACK")
        return found

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Servers]:
    """Start both servers, and stop them at the end. PostgreSQL is durable as in production; Valkey writes no file."""
    options = ("shared_preload_libraries=pg_stat_statements",)
    with Postgres(folder / "postgres", options=options) as postgres, Valkey(folder / "valkey", save=False) as valkey:
        servers = Servers(postgres, valkey)
        with contextlib.closing(servers.connect()) as admin:
            admin.run(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE}'")
            admin.run("CREATE EXTENSION pg_stat_statements")
            admin.run("CREATE EXTENSION pg_walinspect")
            count_statements(admin, on=False)
        yield servers


def count_statements(admin: Connection, *, on: bool) -> None:
    """Switch pg_stat_statements on or off. It costs a little per statement, so it is off while time is measured."""
    admin.run(f"ALTER SYSTEM SET pg_stat_statements.track = {'top' if on else 'none'}")
    admin.run("SELECT pg_reload_conf()")
    time.sleep(0.1)  # until every session has reloaded it
