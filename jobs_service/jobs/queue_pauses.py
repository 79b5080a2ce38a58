"""Which queues an operator has paused: rows of `queue_pauses`, which every claim reads in PostgreSQL.

So a pause holds from the moment it is committed, for every worker and without Redis. Messages of a paused queue may
still be popped; their jobs are not claimed, keep their rows and places, and are published again after the pause.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused a queue, since when, and why."""

    queue: str
    by: str
    since: datetime
    reason: str


_PAUSE = """
INSERT INTO queue_pauses (queue, reason, paused_by) VALUES (%(queue)s, %(reason)s, %(by)s)
ON CONFLICT (queue) DO NOTHING
RETURNING queue, paused_by, paused_at, reason"""

_FIND = "SELECT queue, paused_by, paused_at, reason FROM queue_pauses WHERE queue = %(queue)s"

# Clients know the time to the millisecond.
_RESUME = """
DELETE FROM queue_pauses
WHERE queue = %(queue)s
  AND (%(since)s::timestamptz IS NULL OR date_trunc('milliseconds', paused_at) = %(since)s::timestamptz)
RETURNING queue"""

# What was published before the pause and popped during it has no message any more.
_PUBLISH_SOON = """
WITH popped AS (
  SELECT id FROM jobs
  WHERE queue = %(queue)s AND status = 'pending' AND run_at <= now() AND publish_at > now()
  ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE jobs SET publish_at = now() FROM popped WHERE jobs.id = popped.id"""


def pause(database: Database, queue: str, *, reason: str, by: str) -> tuple[Pause, bool]:
    """Pause a queue, unless it is paused. Return its pause, and whether it is this one."""
    names = {"queue": queue, "reason": reason, "by": by}
    while True:
        for sql in (_PAUSE, _FIND):
            if row := database.row(sql, names):
                return Pause(*row), sql is _PAUSE
        # It was resumed in between.


def resume(database: Database, queue: str, *, since: datetime | None = None) -> bool:
    """Let a queue run. False: it was not paused, or not since then."""
    is_resumed = database.row(_RESUME, {"queue": queue, "since": since}) is not None
    # Only a short cut, which may time out on a huge backlog: each row is published again at its date anyway.
    with suppress(DatabaseUnavailable):
        database.rows(_PUBLISH_SOON, {"queue": queue})
    return is_resumed


def find(database: Database, queue: str) -> Pause | None:
    row = database.row(_FIND, {"queue": queue})
    return None if row is None else Pause(*row)
