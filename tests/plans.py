"""Watches what PostgreSQL does for every statement that is sent while a test looks."""

import json
import re
from dataclasses import dataclass, field
from uuid import uuid4

import psycopg2.extensions

from jobs_service.database.sessions import Connection

_PLANNED = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|EXECUTE|\()", re.IGNORECASE)
_TRANSACTION = {
    psycopg2.extensions.TRANSACTION_STATUS_IDLE: ("BEGIN", "ROLLBACK"),
    psycopg2.extensions.TRANSACTION_STATUS_INTRANS: ("SAVEPOINT look", "ROLLBACK TO look"),
}

JOBS = 100_000
#: Rows that a statement about a few jobs may read, and the pages it may look at for them.
FEW, FEW_PAGES = 100, 200

# Ids in the order of time. What is looked for lies behind a wall of other jobs, whichever way one looks: the rare type
# and the rare states at the old end, completed jobs and waiting jobs each behind the other.
_FILL = """
INSERT INTO jobs (id, type, status, payload, queue, priority, attempts, run_at, publish_at, started_at, finished_at,
                  lease_token, worker_id, end_reason)
SELECT ('01890000-' || lpad(to_hex(i / 4096), 4, '0') || '-7' || lpad(to_hex(i % 4096), 3, '0')
         || '-8000-' || substr(md5(i::text), 1, 12))::uuid,
       CASE WHEN i <= 100 THEN 'EMAIL_SEND' ELSE 'csv-generation' END,
       status, '{"name": "Alice", "score": 95}', 'default', i % 10,
       CASE WHEN status = 'pending' AND i % 20 > 0 THEN 0 ELSE 1 END,
       due, due + CASE WHEN i % 10 = 9 AND i < 90000 THEN interval '1 hour' ELSE interval '0' END,
       CASE WHEN status <> 'pending' THEN now() - interval '1 minute' END,
       CASE WHEN status IN ('completed', 'failed') THEN now() - i * interval '1 ms' END,
       CASE WHEN status = 'processing' THEN gen_random_uuid() END, %(worker_id)s,
       CASE WHEN status = 'failed' THEN 'rejected' END
FROM generate_series(1, %(jobs)s) AS i
CROSS JOIN LATERAL (SELECT CASE
  WHEN i % 5 = 0 AND i <= 100 THEN 'pending' WHEN i % 5 = 1 AND i <= 100 THEN 'processing'
  WHEN i % 5 = 2 AND i <= 100 THEN 'failed'
  WHEN i BETWEEN 30000 AND 35000 OR i > 85000 THEN 'pending' ELSE 'completed' END) AS states (status)
CROSS JOIN LATERAL (SELECT
  CASE WHEN i % 7 = 0 THEN now() + interval '1 day' + i * interval '1 s' ELSE now() - i * interval '1 ms' END)
  AS dates (due)"""


@dataclass(frozen=True)
class Plan:
    """One statement and what it did: the nodes of its plan, from the top down."""

    sql: str
    nodes: list[dict] = field(repr=False)

    def __str__(self):
        return "\n".join([self.sql.strip(), *map(_line, self.nodes)])

    @property
    def whole_tables(self):
        return [node for node in self.nodes if node["Node Type"].endswith("Seq Scan") and _table(node) == "jobs"]

    @property
    def rows(self):
        """The most rows that one node read or was given, those it threw away included."""
        return max(map(_read, self.nodes))

    @property
    def sorted(self):
        """The most rows that were sorted."""
        return max((_read(node["Plans"][0]) for node in self.nodes if node["Node Type"] == "Sort"), default=0)

    @property
    def blocks(self):
        """Pages looked at: what an index scan steps over is in no other figure."""
        return self.nodes[0]["Shared Hit Blocks"] + self.nodes[0]["Shared Read Blocks"]


class Watch:
    """The plans of the statements sent since `clear`, on whichever connection of this process."""

    def __init__(self, monkeypatch):
        self.plans = []
        watch = self

        class Cursor(psycopg2.extensions.cursor):
            def execute(self, sql, parameters=None):
                # The API's keys are read by the clock, whatever a test does.
                if _PLANNED.match(sql) and "FROM api_keys" not in sql:
                    watch.plans.append(_explain(self.connection, sql, parameters))
                return super().execute(sql, parameters)

        monkeypatch.setattr(
            Connection,
            "cursor",
            lambda connection, *args: super(Connection, connection).cursor(*args, cursor_factory=Cursor),
            raising=False,
        )

    def clear(self):
        self.plans.clear()


def fill(postgres, name):
    """Write the jobs into a database, all at once."""
    postgres.execute(_FILL.replace("%(worker_id)s", f"'{uuid4()}'::uuid").replace("%(jobs)s", str(JOBS)), name)


def assert_small(watch, *, rows=FEW, pages=FEW_PAGES, sorted_rows=None):
    """No statement since the last look read a whole table, or more than so many rows or pages, or sorted more."""
    assert watch.plans
    for plan in watch.plans:
        assert not plan.whole_tables, str(plan)
        assert plan.rows <= rows, str(plan)
        assert plan.sorted <= (rows if sorted_rows is None else sorted_rows), str(plan)
        assert plan.blocks <= pages, f"{plan.blocks} pages: {plan}"
    watch.clear()


def _explain(connection, sql, parameters):
    """Carry the statement out for its plan, and undo it."""
    begin, undo = _TRANSACTION[connection.info.transaction_status]
    with psycopg2.extensions.connection.cursor(connection) as cursor:
        cursor.execute(begin)
        try:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}", parameters)
            [(found,)] = cursor.fetchall()
        finally:
            cursor.execute(undo)
    [explained] = json.loads(found) if isinstance(found, str) else found
    return Plan(sql, list(_nodes(explained["Plan"])))


def _nodes(plan):
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _table(node):
    return node.get("Relation Name")


def _read(node):
    removed = sum(count for name, count in node.items() if name.startswith("Rows Removed by"))
    return round((node["Actual Rows"] + removed) * node["Actual Loops"])


def _line(node):
    return f"  {node['Node Type']} {node.get('Index Name') or _table(node) or ''}: {_read(node)} rows"
