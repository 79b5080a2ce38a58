"""The service's database, opened at any URL."""

from contextlib import contextmanager

from jobs_service.config import Settings
from jobs_service.database.connection import open_database


@contextmanager
def opened(url, *, service="command", **settings):
    """Open the database at this URL with further settings, by their names in the environment."""
    environ = {"DATABASE_URL": url, "REDIS_URL": "redis://localhost", **settings}
    database = open_database(Settings.from_env(environ), service=service)
    try:
        yield database
    finally:
        database.discard()
