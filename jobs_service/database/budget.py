"""How many connections to PostgreSQL an installation opens at most, and how many the server grants it."""

from jobs_service.config import Settings

#: Connections for scrapes: one in each API process, and one for a worker, which has a process for them.
FOR_METRICS = 1

#: Connections of a worker process for its heartbeat and its lease, which must not wait behind jobs.
RESERVED = 1

# Connections of others are not counted: they come and go. The limits of a role and of a database do not apply to a
# superuser, and reserved_connections exists since PostgreSQL 16.
GRANTED = """
SELECT LEAST(
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - COALESCE(current_setting('reserved_connections', true)::int, 0),
  CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN rolconnlimit END,
  CASE WHEN datconnlimit >= 0 AND NOT rolsuper THEN datconnlimit END
)
FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"""


def of_api(settings: Settings) -> int:
    """Return how many connections an API opens at most."""
    return settings.api_processes * (settings.database_connections + FOR_METRICS)


def of_worker(settings: Settings) -> int:
    """Return how many connections all processes of a worker open at most."""
    return settings.worker_processes * (settings.database_connections + RESERVED) + FOR_METRICS


def total(settings: Settings) -> int:
    """Return how many connections an API and a worker open together at most."""
    return of_api(settings) + of_worker(settings)


def share(settings: Settings, granted: int) -> int | None:
    """Return how many of the granted connections a process may open, None where there are enough for all.

    With fewer, each process of an API and of a worker may open the same number, without a reserve, and at least one.
    """
    if total(settings) <= granted:
        return None
    for_metrics = settings.api_processes * FOR_METRICS + FOR_METRICS
    return max(1, (granted - for_metrics) // (settings.api_processes + settings.worker_processes))


def warning(settings: Settings, granted: int) -> str | None:
    """Return a warning where the server grants fewer connections than an API and a worker may open."""
    if share(settings, granted) is None:
        return None
    return (
        f"PostgreSQL grants this role {granted} connections, an API and a worker open up to {total(settings)}: lower "
        "DATABASE_CONNECTIONS, API_PROCESSES or WORKER_PROCESSES, or raise max_connections or the limit of the role or "
        "database"
    )
