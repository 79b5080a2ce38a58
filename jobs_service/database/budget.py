"""How many connections to PostgreSQL an installation opens at most, and how many the server grants it."""

from dataclasses import dataclass

from jobs_service.config import Settings

#: The connection of an API process that writes new jobs.
OF_INTAKE = 1

#: Connections of a worker process for the two statements of every attempt: one claims jobs, one completes them.
OF_ATTEMPTS = 2

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


@dataclass(frozen=True, slots=True)
class Share:
    """What a process may open where the server grants fewer connections than an API and a worker would open."""

    #: Connections that its threads share, without a reserve.
    shared: int
    #: Whether a connection stays open between two statements. If not, there are fewer than each purpose needs one of.
    is_kept: bool


def of_api(settings: Settings) -> int:
    """Return how many connections an API opens at most."""
    return settings.api_processes * (OF_INTAKE + settings.database_connections + FOR_METRICS)


def of_worker(settings: Settings) -> int:
    """Return how many connections all processes of a worker open at most."""
    of_each = OF_ATTEMPTS + settings.database_connections + RESERVED
    return settings.worker_processes * of_each + FOR_METRICS


def total(settings: Settings) -> int:
    """Return how many connections an API and a worker open together at most."""
    return of_api(settings) + of_worker(settings)


def least(settings: Settings) -> int:
    """Return how many connections an API and a worker need to keep one open for each purpose."""
    return _dedicated(settings) + settings.api_processes + settings.worker_processes


def share(settings: Settings, granted: int) -> Share | None:
    """Return a process's share of the granted connections, None where there are enough for all.

    The threads of each process of an API and of a worker share the same number, at least one.
    """
    if total(settings) <= granted:
        return None
    each = (granted - _dedicated(settings)) // (settings.api_processes + settings.worker_processes)
    return Share(max(1, each), is_kept=granted >= least(settings))


def warning(settings: Settings, granted: int) -> str | None:
    """Return a warning where the server grants fewer connections than an API and a worker may open."""
    found = share(settings, granted)
    if found is None:
        return None
    slowly = "" if found.is_kept else f" With fewer than {least(settings)} each statement opens its own connection."
    return (
        f"PostgreSQL grants this role {granted} connections, an API and a worker open up to {total(settings)}: lower "
        "DATABASE_CONNECTIONS, API_PROCESSES or WORKER_PROCESSES, or raise max_connections or the limit of the role or "
        f"database.{slowly}"
    )


def _dedicated(settings: Settings) -> int:
    """Return how many connections the threads of the processes do not share."""
    of_api = settings.api_processes * (OF_INTAKE + FOR_METRICS)
    return of_api + settings.worker_processes * OF_ATTEMPTS + FOR_METRICS
