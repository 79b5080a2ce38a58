"""The dashboard "Jobs: storage and broker": PostgreSQL, which stores the jobs, and Redis, which delivers messages."""

from pages import Row, dashboard, datasource_variable, link
from panels import Json, Panel, Query, graph, stat
from promql import WINDOW, truth

BY_TABLE = "{{table}}"


def build() -> Json:
    return dashboard(
        uid="jobs-storage",
        title="Jobs: storage and broker",
        description="PostgreSQL, which stores the jobs, and Redis, which delivers messages: size, age, agreement.",
        variables=[datasource_variable()],
        rows=[
            Row("Health", _health()),
            Row("PostgreSQL", _postgres()),
            Row("Redis", _redis()),
        ],
    )


def _health() -> list[Panel]:
    return [
        stat(
            "PostgreSQL",
            "1 while it answers. It keeps every job: without it nothing is accepted and nothing begins.",
            truth("jobs_pg_up", "", ""),
            unit="none",
            base="red",
            steps={1: "green"},
        ),
        stat(
            "Redis",
            "1 while it answers. Without it jobs are accepted all the same, and begin when it is back.",
            truth("jobs_redis_up", "", ""),
            unit="none",
            base="red",
            steps={1: "green"},
        ),
        stat(
            "Connections in use",
            "The part of PostgreSQL's connections that this database has open.",
            f"{truth('jobs_pg_connections', '', '')} / {truth('jobs_pg_max_connections', '', '')}",
            unit="percentunit",
            steps={0.7: "orange", 0.9: "red"},
        ),
        stat(
            "Oldest transaction",
            "Vacuum clears nothing that is younger than it. Minutes: somebody left one open.",
            truth("jobs_pg_oldest_xact_age_seconds", "", ""),
            unit="s",
            steps={300: "orange", 900: "red"},
            decimals=1,
        ),
        stat(
            "Redis memory",
            "Memory in use.",
            truth("jobs_redis_memory_bytes", "", 'kind="used"'),
            unit="bytes",
            decimals=1,
        ),
        stat(
            "Keys evicted, last hour",
            "Keys that Redis evicted because its memory was full: lost messages. The relay publishes their jobs again.",
            "max(increase(jobs_redis_evicted_keys_total[1h]))",
            unit="none",
            steps={1: "red"},
        ),
    ]


def _postgres() -> list[Panel]:
    dead, live = truth("jobs_pg_dead_tuples", "table", ""), truth("jobs_pg_live_tuples", "table", "")
    return [
        graph(
            "Size by table",
            "On disk, indexes included.",
            [Query(truth("jobs_pg_table_bytes", "table", ""), BY_TABLE)],
            unit="bytes",
            width=8,
        ),
        graph(
            "Live and dead rows",
            "PostgreSQL's estimates. Dead rows fall at each vacuum.",
            [Query(live, f"live, {BY_TABLE}"), Query(dead, f"dead, {BY_TABLE}")],
            unit="short",
            width=8,
        ),
        graph(
            "Dead rows, as a part",
            "Of all rows of the table, the part that vacuum has yet to clear. Above a half for long: bloat.",
            [Query(f"{dead} / ({dead} + {live} > 0)", BY_TABLE)],
            unit="percentunit",
            width=8,
            maximum=1,
        ),
        graph(
            "Since the last autovacuum",
            "How long ago autovacuum last worked on the table. No line: never yet.",
            [Query(f"time() - {truth('jobs_pg_last_autovacuum_timestamp_seconds', 'table', '')}", BY_TABLE)],
            unit="s",
            width=8,
        ),
        graph(
            "Oldest transaction",
            "Vacuum clears nothing that is younger than it.",
            [Query(truth("jobs_pg_oldest_xact_age_seconds", "", ""), "age")],
            unit="s",
            width=8,
        ),
        graph(
            "Connections",
            "Connections to this database, and, dashed, what the server takes at most.",
            [
                Query(truth("jobs_pg_connections", "", ""), "open"),
                Query(truth("jobs_pg_max_connections", "", ""), "at most", target=True),
            ],
            unit="short",
            width=8,
        ),
    ]


def _redis() -> list[Panel]:
    return [
        graph(
            "Memory",
            "In use, and, dashed, what Redis may use; 0 is without a limit.",
            [
                Query(truth("jobs_redis_memory_bytes", "", 'kind="used"'), "used"),
                Query(truth("jobs_redis_memory_bytes", "", 'kind="max"'), "at most", target=True),
            ],
            unit="bytes",
            width=6,
        ),
        graph(
            "Connections and evictions",
            "Connections to Redis, and keys it dropped for want of memory in each interval.",
            [
                Query(truth("jobs_redis_clients", "", ""), "connections"),
                Query(f"max(increase(jobs_redis_evicted_keys_total[{WINDOW}]))", "evicted"),
            ],
            unit="short",
            width=6,
        ),
        graph(
            "Messages by queue",
            "Messages in Redis, at most QUEUE_WINDOW of each priority; the rest of a backlog waits in PostgreSQL.",
            [Query(truth("jobs_broker_messages", "queue_name", ""), "{{queue_name}}")],
            unit="short",
            width=6,
            leads_to=[link("This queue", "jobs-queue", label="queue_name")],
        ),
        graph(
            "Dead letters, in both",
            "Rows in state failed, and ids on the Redis list job_dlq. They differ no longer than a sweep takes.",
            [
                Query(f"sum({truth('jobs_dead', 'queue_name', '')})", "rows"),
                Query(truth("jobs_dlq_length", "", ""), "ids on the list"),
            ],
            unit="short",
            width=6,
        ),
    ]
