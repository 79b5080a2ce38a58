"""How many connections to PostgreSQL an installation holds at most, and how many the server grants it."""

from jobs_service.config import Settings

#: For what a process looks up at a scrape. The workers have a process for it.
FOR_METRICS = 1

#: For a worker process's sign of life, and its part in the lease: they must not wait behind jobs.
RESERVED = 1

# Nobody else's connections are looked at: they come and go. The limits of a role and of a database do not hold a
# superuser, and those of PostgreSQL 16 for roles with a reserve are there under their name only.
GRANTED = """
SELECT LEAST(
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - COALESCE(current_setting('reserved_connections', true)::int, 0),
  CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN rolconnlimit END,
  CASE WHEN datconnlimit >= 0 AND NOT rolsuper THEN datconnlimit END
)
FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"""


def of_api(settings: Settings) -> int:
    """Return how many connections an API holds at most."""
    return settings.api_processes * (settings.database_connections + FOR_METRICS)


def of_worker(settings: Settings) -> int:
    """Return how many connections a worker, with all its processes, holds at most."""
    return settings.worker_processes * (settings.database_connections + RESERVED) + FOR_METRICS


def in_all(settings: Settings) -> int:
    """Return how many an API and a worker hold together."""
    return of_api(settings) + of_worker(settings)


def share(settings: Settings, granted: int) -> int | None:
    """Return how many of the granted connections are for a process, None where all have what they may hold.

    With fewer, each process of an API and of a worker has the same number, without a reserve, and at least one.
    """
    if in_all(settings) <= granted:
        return None
    for_metrics = settings.api_processes * FOR_METRICS + FOR_METRICS
    return max(1, (granted - for_metrics) // (settings.api_processes + settings.worker_processes))


def warning(settings: Settings, granted: int) -> str | None:
    """Return what to say where the server grants fewer than an API and a worker may hold."""
    if share(settings, granted) is None:
        return None
    return (
        f"PostgreSQL grants this role {granted} connections, an API and a worker hold up to {in_all(settings)}: lower "
        "DATABASE_CONNECTIONS, API_PROCESSES or WORKER_PROCESSES, or raise max_connections or the limit of the role or "
        "database"
    )
