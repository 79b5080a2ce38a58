"""The service's database, opened at any URL, and a server with a template of it."""

import os
from contextlib import contextmanager
from pathlib import Path

from devstack.servers import Postgres
from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.database.migrations import migrate

#: The migrated database that each test's own is a copy of.
TEMPLATE = "jobs_template"


@contextmanager
def opened(url, *, service="command", **settings):
    """Open the database at this URL with further settings, by their names in the environment."""
    environ = {"DATABASE_URL": url, "REDIS_URL": "redis://localhost", **settings}
    database = open_database(Settings.from_env(environ), service=service)
    try:
        yield database
    finally:
        database.discard()


@contextmanager
def postgres_with_template(folder, *options):
    """Start PostgreSQL with these options, and migrate the database `TEMPLATE` in it."""
    bin_dir = os.environ.get("TEST_POSTGRES_BIN")
    with Postgres(folder, bin_dir=Path(bin_dir) if bin_dir else None, options=options) as server:
        with opened(server.url) as database:
            migrate(database)
        server.execute(f"ALTER DATABASE {server.DATABASE} RENAME TO {TEMPLATE}")
        yield server
