"""`migrate` through PgBouncer in transaction mode: no two statements of it need the same session."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg2
import pytest

from jobs_service.config import Settings
from jobs_service.database import open_database
from jobs_service.devstack.servers import HOST, Postgres, Server
from jobs_service.migrations import SEEDS, migrate, read

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") or next(
    (str(Path(folder).parent / "sbin" / "pgbouncer") for folder in os.environ["PATH"].split(":")
     if (Path(folder).parent / "sbin" / "pgbouncer").exists()),
    None,
)  # fmt: skip


class PgBouncer(Server):
    """Gives a connection to PostgreSQL to whoever has a transaction, and to the next one after it."""

    name = "pgbouncer"

    def __init__(self, folder, postgres):
        super().__init__(folder)
        self.postgres = postgres

    def prepare(self):
        to = f"host={HOST} port={self.postgres.port} user={Postgres.USER} password={Postgres.PASSWORD}"
        lines = ["[databases]", f"* = {to}", "[pgbouncer]", f"listen_addr = {HOST}", f"listen_port = {self.port}",
                 "unix_socket_dir =", "auth_type = any", "pool_mode = transaction", "default_pool_size = 3",
                 # Or the same session would nearly always come back.
                 "server_round_robin = 1"]  # fmt: skip
        (self.folder / "pgbouncer.ini").write_text("\n".join(lines))

    def privileges(self):
        return self.postgres.privileges()

    def command(self):
        # Unpacked and not installed, its libraries lie beside it.
        libraries = ":".join(str(folder) for folder in Path(PGBOUNCER).parents[1].glob("lib/*-linux-*"))
        return ["env", f"LD_LIBRARY_PATH={libraries}", PGBOUNCER, str(self.folder / "pgbouncer.ini")]

    def answers(self):
        with suppress(psycopg2.OperationalError):
            psycopg2.connect(self.url_of("postgres"), connect_timeout=2).close()
            return True
        return False

    def url_of(self, database):
        return f"postgresql://{Postgres.USER}@{HOST}:{self.port}/{database}"


@pytest.fixture
def pooled_url(postgres, tmp_path):
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    postgres.execute("CREATE DATABASE pooled")
    with PgBouncer(tmp_path, postgres) as pooler:
        yield pooler.url_of("pooled")
    postgres.execute("DROP DATABASE pooled WITH (FORCE)")


def test_starters_wait_for_each_other_through_a_pooler_too(postgres, pooled_url):
    with ThreadPoolExecutor(3) as pool:
        applied = [each.result(120) for each in [pool.submit(_migrate, postgres, pooled_url) for _ in range(3)]]

    assert [[], [], [migration.name for migration in read(SEEDS)]] == sorted(applied)


def _migrate(postgres, pooled_url):
    """Look directly, since the service's own connections are not what is tried here; work through the pooler."""
    database = open_database(Settings.from_env({"DATABASE_URL": pooled_url, "REDIS_URL": "redis://localhost"}))
    direct = open_database(
        Settings.from_env({"DATABASE_URL": postgres.url_of("pooled"), "REDIS_URL": "redis://localhost"})
    )
    database.rows, database.row = direct.rows, direct.row
    try:
        return migrate(database)
    finally:
        direct.discard()
