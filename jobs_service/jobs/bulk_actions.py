"""Actions on many jobs: redrives and discards of dead letters, and cancellations of unfinished jobs.

An action writes down its members when it begins. Maintenance then looks at each of them once, at the action's rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from jobs_service.database.connection import Database, Row
from jobs_service.events import BulkFacts
from jobs_service.jobs.lifecycle import FENCE

#: How many jobs a dry run shows.
SAMPLE = 10

#: How many dead letters an action may have.
MOST_MEMBERS = 1_000_000


class Kind(StrEnum):
    """What becomes of the members."""

    REDRIVE = "redrive"
    DISCARD = "discard"
    CANCELLATION = "cancellation"


class State(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    #: It was stopped.
    CANCELLED = "cancelled"


class Selection(NamedTuple):
    """A query for jobs, and those of them that an action may have: their id, `transition_token` and `finished_at`."""

    sql: str
    names: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BulkAction:
    """An action on many jobs."""

    id: UUID
    kind: Kind
    state: State
    #: JSON text: the conditions that were sent; {} for all.
    filter: str
    rate_per_second: float
    #: Of a cancellation.
    reason: str | None
    requested_by: str
    matched: int
    moved: int
    skipped: int
    created_at: datetime
    finished_at: datetime | None
    cancelled_by: str | None

    @property
    def facts(self) -> BulkFacts:
        """The fields that its events have."""
        return {"action_id": str(self.id), "kind": self.kind}


_COLUMNS = """id, kind, state, filter::text, rate_per_second, reason, requested_by, matched, moved, skipped, created_at,
  finished_at, cancelled_by"""

# The jobs, and the end that each dead letter had: none that matches later is among them.
_BEGIN = """
WITH chosen AS MATERIALIZED (
  SELECT *, row_number() OVER (ORDER BY finished_at, id) AS place FROM (<selection>) AS selection
), begun AS (
  INSERT INTO bulk_actions (id, kind, filter, rate_per_second, reason, requested_by, matched)
  SELECT %(action_id)s, %(kind)s, %(filter)s, %(rate)s, %(reason)s, %(by)s, (SELECT count(*) FROM chosen)
  ON CONFLICT (id) DO NOTHING
  RETURNING id
)
INSERT INTO bulk_action_jobs (action_id, place, job_id, seen, finished_at)
SELECT begun.id, place, chosen.id, transition_token, finished_at FROM chosen CROSS JOIN begun"""


def begin(
    database: Database,
    action_id: UUID,
    kind: Kind,
    selection: Selection,
    *,
    text: str,
    rate_per_second: float,
    by: str,
    reason: str | None = None,
) -> BulkAction:
    """Begin an action on the jobs that are selected now.

    May be called again with the same id: it then changes nothing. `text` is the filter as JSON.
    """
    names = {"action_id": action_id, "kind": kind, "filter": text, "rate": rate_per_second, "by": by, "reason": reason}
    sql = _BEGIN.replace("<selection>", selection.sql)
    database.rows(sql, {**selection.names, **names})
    found = find(database, kind, action_id)
    if found is None:
        raise RuntimeError("an action that was just begun does not exist")
    return found


_FIND = f"SELECT {_COLUMNS} FROM bulk_actions WHERE id = %s AND kind = %s"  # noqa: S608 - a constant
_NEWEST = f"SELECT {_COLUMNS} FROM bulk_actions WHERE kind = %s AND id < %s ORDER BY kind DESC, id DESC LIMIT %s"  # noqa: S608 - as above
_RUNNING = f"SELECT {_COLUMNS} FROM bulk_actions WHERE state = 'running' ORDER BY id LIMIT %s"  # noqa: S608 - as above

_LAST = UUID(int=2**128 - 1)


def find(database: Database, kind: Kind, action_id: UUID) -> BulkAction | None:
    """Return an action of this kind, or None: there is none with this id."""
    row = database.row(_FIND, (action_id, kind))
    return None if row is None else _action(row)


def newest(database: Database, kind: Kind, *, limit: int, before: UUID | None = None) -> list[BulkAction]:
    """Return actions of a kind, the newest first; only those older than `before`, if it is given."""
    return [_action(row) for row in database.rows(_NEWEST, (kind, before or _LAST, limit))]


def running(database: Database, *, limit: int) -> list[BulkAction]:
    """Return actions of any kind that are running, the oldest first."""
    return [_action(row) for row in database.rows(_RUNNING, (limit,))]


def _action(row: Row) -> BulkAction:
    action_id, kind, state, *rest = row
    return BulkAction(action_id, Kind(kind), State(state), *rest)


_END = """
UPDATE bulk_actions SET state = %(state)s, finished_at = now(), cancelled_by = %(by)s
WHERE id = %(id)s AND state = 'running'
  AND (%(by)s IS NOT NULL OR NOT EXISTS (SELECT FROM bulk_action_jobs WHERE action_id = %(id)s)) AND <fence>
RETURNING id""".replace("<fence>", FENCE)


def stop(database: Database, action_id: UUID, *, by: str) -> bool:
    """Stop an action. Jobs that were changed stay as they are. False: it had ended."""
    names = {"id": action_id, "state": State.CANCELLED, "by": by, "fence": None}
    return database.row(_END, names) is not None


def complete(database: Database, action_id: UUID, *, fence: int | None) -> bool:
    """Record that all members of an action were looked at. False: there are members left, or it has ended."""
    names = {"id": action_id, "state": State.COMPLETED, "by": None, "fence": fence}
    return database.row(_END, names) is not None


_IS_ANY = "SELECT EXISTS (SELECT FROM bulk_action_jobs) OR EXISTS (SELECT FROM bulk_actions WHERE state = 'running')"


def is_any(database: Database) -> bool:
    """Tell whether an action is running, or has members that are yet to be forgotten."""
    return database.row(_IS_ANY) == (True,)


_FORGET = """
DELETE FROM bulk_action_jobs WHERE (action_id, place) IN (
  SELECT action_id, place FROM bulk_action_jobs JOIN bulk_actions ON bulk_actions.id = action_id
  WHERE state = 'cancelled' LIMIT %(limit)s
) AND <fence>
RETURNING 1""".replace("<fence>", FENCE)

_PRUNE = """
DELETE FROM bulk_actions WHERE id IN (
  SELECT id FROM bulk_actions WHERE finished_at < now() - %(retention)s * interval '1 second'
  ORDER BY id LIMIT %(limit)s
) AND <fence>""".replace("<fence>", FENCE)


def forget_members(database: Database, *, limit: int, fence: int | None) -> int:
    """Delete the members that are left of actions that were stopped. Return how many."""
    return len(database.rows(_FORGET, {"limit": limit, "fence": fence}))


def prune(database: Database, *, retention_seconds: float, limit: int, fence: int | None) -> None:
    """Delete what is known of actions that ended long ago."""
    database.rows(_PRUNE, {"retention": retention_seconds, "limit": limit, "fence": fence})
