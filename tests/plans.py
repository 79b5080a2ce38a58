"""Watches what PostgreSQL does for every statement that is sent while a test looks."""

import json
import re
from dataclasses import dataclass, field

import psycopg2.extensions

from jobs_service.database.sessions import Connection

_PLANNED = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|\()", re.IGNORECASE)
_TRANSACTION = {
    psycopg2.extensions.TRANSACTION_STATUS_IDLE: ("BEGIN", "ROLLBACK"),
    psycopg2.extensions.TRANSACTION_STATUS_INTRANS: ("SAVEPOINT look", "ROLLBACK TO look"),
}


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
                if _PLANNED.match(sql):
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
