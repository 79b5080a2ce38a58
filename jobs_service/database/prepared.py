"""The statements that one connection has prepared: PostgreSQL parses and plans them about once a second, not each time.

A generic plan that was made while the table was empty reads the whole table, or a whole index, once there are rows, and
PostgreSQL keeps it until the next ANALYZE. No setting prevents that: to the planner, all indexes of an empty table cost
the same. So no plan is used for longer than `PLAN_SECONDS`.
"""

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg2

#: Seconds for which a plan is used. By then the table has grown by so little that a bad plan costs about a millisecond.
PLAN_SECONDS = 1.0

#: A connection has so many prepared statements at most. The service has about ten that every job needs.
MAX_STATEMENTS = 32

#: Goes with the connection. By default PostgreSQL plans the first five executions of a prepared statement each anew.
SETTINGS: Mapping[str, str] = {"plan_cache_mode": "force_generic_plan"}

#: The schema has changed under the statement ("cached plan must not change result type"); the session does not have it,
#: or has it already, although nothing here says so.
_OUTDATED = frozenset({"0A000", "26000", "42P05"})

#: `%%`, or a placeholder of psycopg2's with or without a name and a cast.
_PLACEHOLDER = re.compile(r"%%|%(?:\((?P<name>\w+)\))?s(?P<cast>::\w+(?:\[\])?)?")

#: What a statement's name has of its text: PostgreSQL's limit is 63 bytes.
_NAME_LENGTH = 50


class PreparedStatements:
    """Sends statements on one connection, prepared. A statement without a cast at each placeholder is sent as it is."""

    def __init__(self) -> None:
        #: The text of a statement -> the EXECUTE for it. Empty where it is not known what the session has.
        self._executes: dict[str, str] = {}
        #: When the first of them was prepared, on the monotonic clock.
        self._since = 0.0

    def execute(self, cursor: Any, sql: str, parameters: Sequence[object] | Mapping[str, object]) -> None:  # noqa: ANN401 - psycopg2 has no types
        """Carry out a statement, prepared. Raises what the cursor raises."""
        try:
            self._send(cursor, sql, parameters)
        except psycopg2.Error as error:
            self._executes.clear()
            if error.pgcode not in _OUTDATED:
                raise
            # A message that is answered with an error has changed nothing.
            self._send(cursor, sql, parameters)

    def _send(self, cursor: Any, sql: str, parameters: Sequence[object] | Mapping[str, object]) -> None:  # noqa: ANN401 - as above
        found = _parsed(sql)
        # In a transaction an error would end that, and the statement could not be sent again.
        if found is None or not cursor.connection.is_idle:
            cursor.execute(sql, parameters)
            return
        if time.monotonic() - self._since >= PLAN_SECONDS or len(self._executes) >= MAX_STATEMENTS:
            self._executes.clear()
        if known := self._executes.get(sql):
            cursor.execute(known, parameters)
            return
        prepare, execute = found
        # In one message, so that a statement that is sent seldom costs no further round trip.
        if not self._executes:
            prepare, self._since = f"DEALLOCATE ALL; {prepare}", time.monotonic()
        cursor.execute(f"{prepare}; {execute}", parameters)
        self._executes[sql] = execute


@lru_cache(MAX_STATEMENTS)
def _parsed(sql: str) -> tuple[str, str] | None:
    """Return PREPARE and EXECUTE for a statement, None where a placeholder has no cast or there is no placeholder.

    EXECUTE repeats the casts: psycopg2 writes a list of None as ARRAY[NULL], whose type PostgreSQL cannot guess.
    """
    numbers: dict[str, int] = {}
    values: list[str] = []
    for found in _PLACEHOLDER.finditer(sql):
        if found[0] != "%%":
            if found["cast"] is None:
                return None
            if numbers.setdefault(found["name"] or f"{found.start()}", len(numbers) + 1) > len(values):
                values.append(found[0])

    def numbered(found: re.Match[str]) -> str:
        number = numbers.get(found["name"] or f"{found.start()}")
        return "%%" if number is None else f"${number}{found['cast']}"

    name = _name(sql)
    prepare = f"PREPARE {name} AS {_PLACEHOLDER.sub(numbered, sql)}"
    return (prepare, f"EXECUTE {name} ({', '.join(values)})") if values else None


def _name(sql: str) -> str:
    """Return the name of a statement, quoted: a digest of the text, and for pg_stat_activity how the text begins.

    Two texts never have the same name, so that no other statement is carried out where sessions change unnoticed.
    """
    digest = hashlib.sha256(sql.encode()).hexdigest()[:12]
    beginning = re.sub(r'[%"\s]+', " ", sql).strip()[:_NAME_LENGTH]
    return f'"{digest} {beginning}"'
