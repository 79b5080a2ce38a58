"""The metrics of the PostgreSQL and Redis servers themselves."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.neighbours import conflicts
from jobs_service.broker.redis import JobBroker
from jobs_service.database.connection import Database
from jobs_service.errors import NameTaken
from jobs_service.metrics import catalogue

_TABLES = """
SELECT relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid),
       extract(epoch FROM last_autovacuum)::float8
FROM pg_stat_user_tables WHERE relname IN ('jobs', 'workers') AND schemaname = current_schema()"""

# Without the privilege to read all statistics, PostgreSQL only shows that other users' sessions exist.
_SESSIONS = """
SELECT count(*), current_setting('max_connections')::integer,
       COALESCE(extract(epoch FROM now() - min(xact_start) FILTER (WHERE pid <> pg_backend_pid())), 0)::float8
FROM pg_stat_activity WHERE datname = current_database()"""


def postgresql(database: Database) -> Iterator[Any]:
    """Read the statistics of sessions, which no table lock can block. Raises `DatabaseUnavailable`."""
    count, most, oldest = database.row(_SESSIONS) or (0, 0, 0.0)
    yield _gauge(catalogue.PG_CONNECTIONS, count)
    yield _gauge(catalogue.PG_MAX_CONNECTIONS, most)
    yield _gauge(catalogue.PG_OLDEST_XACT, max(0.0, oldest))


def tables(database: Database) -> Iterator[Any]:
    """Read the statistics of tables. Raises `DatabaseUnavailable`, also while a migration has locked one."""
    live, dead = catalogue.PG_LIVE_TUPLES.family(), catalogue.PG_DEAD_TUPLES.family()
    size, vacuumed = catalogue.PG_TABLE_BYTES.family(), catalogue.PG_LAST_AUTOVACUUM.family()
    for table, alive, dropped, table_bytes, vacuumed_at in database.rows(_TABLES):
        live.add_metric([table], alive)
        dead.add_metric([table], dropped)
        size.add_metric([table], table_bytes)
        if vacuumed_at is not None:
            vacuumed.add_metric([table], vacuumed_at)
    yield from (live, dead, size, vacuumed)


def redis(broker: JobBroker, queues: Iterable[str]) -> Iterator[Any]:
    """Read the queues, `job_dlq` and the server's statistics. Raises `BrokerUnavailable` or what redis-py raises.

    Keys that hold another program's value are left out, and counted as conflicts.
    """
    queues = list(queues)
    yield _gauge(catalogue.REDIS_NAME_CONFLICTS, len(conflicts(broker.client, broker.keys, queues, in_full=False)))
    messages = catalogue.BROKER_MESSAGES.family()
    for queue in queues:
        with suppress(NameTaken):
            messages.add_metric([queue], broker.waiting(queue))
    yield messages
    with suppress(NameTaken):
        yield _gauge(catalogue.DLQ_LENGTH, DeadLetterList(broker.client, broker.keys).length())
    yield from _server(broker)


def _server(broker: JobBroker) -> Iterator[Any]:
    """Read the output of INFO. Yields nothing if the user may not run it, or the server does not have it."""
    try:
        # The stubs only know the return type for a pipeline.
        info: Any = broker.client.info()
    except ResponseError:
        return
    memory, evicted = catalogue.REDIS_MEMORY.family(), catalogue.REDIS_EVICTED.family()
    memory.add_metric(["used"], info["used_memory"])
    memory.add_metric(["max"], info.get("maxmemory", 0))
    evicted.add_metric([], info["evicted_keys"])
    yield from (memory, evicted, _gauge(catalogue.REDIS_CLIENTS, info["connected_clients"]))


def _gauge(row: catalogue.Computed, value: float) -> Any:  # noqa: ANN401 - a family
    family = row.family()
    family.add_metric([], value)
    return family
