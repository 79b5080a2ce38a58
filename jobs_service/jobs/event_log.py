"""The table `job_events`: how transitions write what happened to jobs, and how readers read each event exactly once.

A reader keeps the snapshot of its last read. New are the rows that are visible now and were not visible then, in
whatever order their transactions committed. So no row is skipped or read twice, and a long transaction delays nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self
from uuid import UUID

import msgspec

from jobs_service.database.connection import Database, Row

#: Transition -> the name of its event, unless it leads to `failed`. Canaries, which complete by being deleted, have
#: none.
EVENT_NAMES: Mapping[str, str] = {
    "submit": "submitted",
    "claim": "processing",
    "complete": "completed",
    "retry": "retried",
    "fail": "failed",
    "release": "released",
    "snooze": "snoozed",
    "defer": "deferred",
    "rescue": "rescued",
    "crash": "retried",
    "abandon": "retried",
    "fail_unknown": "failed",
    "expire": "failed",
    "cancel": "cancelled",
    "redrive": "redriven",
    "discard": "discarded",
}

#: The events that an attempt's own code causes.
PROGRESS, LOG = "progress", "log"

#: The characters of an error that an event has. The job has all of them.
ERROR_KEPT = 500

_TIME = """'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'"""

#: The number of the attempt that a transition ends, where the row no longer has it.
_GIVEN_BACK = "attempts + 1"
_OF_HISTORY = "COALESCE((history->-1->>'attempt')::integer, 0)"
_ATTEMPTS: Mapping[str, str] = {
    "release": _GIVEN_BACK,
    "snooze": _GIVEN_BACK,
    "defer": _GIVEN_BACK,
    "rescue": _OF_HISTORY,
    "crash": _OF_HISTORY,
    "abandon": _OF_HISTORY,
}

#: The transitions whose events have details. Where each job has a date of its own, each would need a row of its own.
_DETAILED = ("retry", "fail", "snooze", "defer", "rescue", "crash", "abandon", "fail_unknown", "expire", "cancel")
_DATED = ("retry", "snooze", "defer", "crash")


def with_event(verb: str, statement: str, columns: str) -> str:
    """Return a statement that changes jobs, writes their events, and returns `columns` of each job.

    `statement` is an UPDATE of `jobs` without RETURNING. Where it changes nothing, it writes nothing.
    """
    # It begins with what it does, which is what pg_stat_activity shows of it.
    told = events_of(verb, "new")
    return f"WITH new AS ({statement.strip()}\nRETURNING jobs.*\n), {told}\nSELECT {columns} FROM new AS jobs"


def events_of(verb: str, moved: str) -> str:
    """Return a part of WITH that writes the events of the jobs in another part, `moved`, which has their columns.

    The number of a row is taken when all jobs of the statement have been changed, so that it is greater than those of
    their earlier events.
    """
    name = EVENT_NAMES[verb]
    # A discarded job had failed long before.
    shown = f"'{name}'" if verb == "discard" else f"CASE status WHEN 'failed' THEN 'failed' ELSE '{name}' END"
    return f"""told AS (
  INSERT INTO job_events (name, type, queue, status, job_ids, attempts, details)
  SELECT {shown}, type, queue, status, array_agg(id), array_agg({_ATTEMPTS.get(verb, "attempts")}), {_details(verb)}
  FROM {moved} GROUP BY type, queue, status{f", {_details(verb)}" if verb in _DETAILED else ""}
)"""


def _details(verb: str) -> str:
    if verb not in _DETAILED:
        return "NULL::jsonb"
    facts = f"'reason', end_reason, 'error', left(error, {ERROR_KEPT}), 'waits_for', waits_for"
    if verb in _DATED:
        facts += f", 'run_at', CASE status WHEN 'pending' THEN to_char(timezone('utc', run_at), {_TIME}) END"
    return f"NULLIF(jsonb_strip_nulls(jsonb_build_object({facts})), '{{}}')"


class Snapshot(NamedTuple):
    """The transactions whose rows a statement saw: all before `end` but those in flight."""

    end: int
    in_flight: frozenset[int]

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Return a snapshot from the text of a `pg_snapshot`: xmin:xmax:xip_list."""
        _, end, in_flight = text.split(":")
        return cls(int(end), frozenset(map(int, filter(None, in_flight.split(",")))))

    @property
    def text(self) -> str:
        """As PostgreSQL writes it."""
        in_flight = sorted(self.in_flight)
        return f"{in_flight[0] if in_flight else self.end}:{self.end}:{','.join(map(str, in_flight))}"

    def sees(self, xact: int) -> bool:
        return xact < self.end and xact not in self.in_flight


#: The place of an event: the number of its row, and its place in the row.
Place = tuple[int, int]

_TOKEN = re.compile(
    r"(?P<mark>[0-9a-f]{1,8})_(?P<seen>[0-9a-f.]+)(?:_(?P<target>[0-9a-f.]+)_(?P<id>[0-9a-f]+)\.(?P<index>[0-9a-f]+))?"
)
#: The length of a token. One with a thousand transactions in flight is shorter.
_LONGEST_TOKEN = 8_190


class Position(msgspec.Struct, frozen=True):
    """How far a reader has read: all that `seen` sees, and of what `target` sees beside that, up to `place`.

    The text of a position is the `id` of an event, with which a client resumes.
    """

    #: Differs between servers and databases whose transactions have nothing to do with each other.
    mark: str
    seen: Snapshot
    target: Snapshot | None = None
    place: Place = (0, 0)

    def includes(self, xact: int, place: Place) -> bool:
        if self.seen.sees(xact):
            return True
        return self.target is not None and place <= self.place and self.target.sees(xact)

    def token(self) -> str:
        """Return the position as text."""
        prefix = f"{self.mark}_{_short(self.seen)}"
        return prefix if self.target is None else f"{prefix}_{_short(self.target)}_{_short_place(self.place)}"

    @classmethod
    def of_token(cls, token: str) -> Self:
        """Return the position of a token. Raises `ValueError` for a text that is none."""
        found = _TOKEN.fullmatch(token) if len(token) <= _LONGEST_TOKEN else None
        if found is None:
            raise ValueError("not an id of an event")
        seen = _snapshot(found["seen"])
        if found["target"] is None:
            return cls(found["mark"], seen)
        return cls(found["mark"], seen, _snapshot(found["target"]), (int(found["id"], 16), int(found["index"], 16)))


def _short(snapshot: Snapshot) -> str:
    """Return a snapshot as hexadecimal numbers: its end, and how far before it the transactions in flight are."""
    return ".".join(f"{number:x}" for number in (snapshot.end, *(snapshot.end - xact for xact in snapshot.in_flight)))


def _short_place(place: Place) -> str:
    return f"{place[0]:x}.{place[1]:x}"


def _snapshot(text: str) -> Snapshot:
    end, *distances = (int(number, 16) for number in text.split("."))
    if end >= 2**63 or any(not 0 < distance <= end for distance in distances):
        raise ValueError("not an id of an event")
    return Snapshot(end, frozenset(end - distance for distance in distances))


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """A job's state at some time."""

    job_id: str
    type: str
    queue: str
    status: str
    attempt: int
    at: str
    #: Further fields of `data`, as a JSON object.
    details: str | None = None

    def data(self) -> bytes:
        """Return it as JSON in one line."""
        fields = {
            "job_id": self.job_id,
            "type": self.type,
            "queue": self.queue,
            "status": self.status,
            "attempt": self.attempt,
            "at": self.at,
        }
        shown = msgspec.json.encode(fields)
        return shown if self.details is None else shown[:-1] + b"," + self.details.encode()[1:]


class JobEvent(JobState, frozen=True, kw_only=True):
    """What happened to a job, and the state that it left it in."""

    xact: int
    place: Place
    name: str


class Tokens(NamedTuple):
    """Makes the ids of a page's events: reading on from one, a client gets what comes after it."""

    prefix: str

    @classmethod
    def of(cls, mark: str, seen: Snapshot, target: Snapshot) -> Self:
        return cls(f"{mark}_{_short(seen)}_{_short(target)}_")

    def at(self, place: Place) -> str:
        return self.prefix + _short_place(place)


@dataclass(frozen=True, slots=True)
class Page:
    """The next events of a reader, and the states of jobs at the same moment."""

    #: What the statement saw.
    now: Snapshot
    events: Sequence[JobEvent]
    #: By the job's id. A job that does not exist has none.
    states: Mapping[str, JobState]
    tokens: Tokens
    #: How far the reader has read now.
    position: Position
    #: Whether there is more to read at once.
    is_full: bool
    #: Why events are missing between the position before and this page, or None.
    gap: "Gap | None"


# The transactions of a server or a database have nothing to do with those of another: not after a dump was restored,
# and not on the timeline that begins where a standby is promoted, or a backup is recovered.
_MARK = """to_hex(hashtext(concat_ws(' ',
  (SELECT system_identifier FROM pg_control_system()), left(pg_walfile_name(pg_current_wal_lsn()), 8),
  (SELECT oid FROM pg_database WHERE datname = current_database()))))"""

_EVENT = f"""xact::text, id, name, type, queue, status, job_ids::text[], attempts,
  to_char(timezone('utc', at), {_TIME}), details"""

# By the index, whatever the statistics say: a range of which both ends are unknown is taken for a short one. Rows of
# transactions after the snapshot were restored from another server.
_NEWS = f"""
SELECT {_EVENT} FROM (
  SELECT * FROM job_events
  WHERE xact >= %(end)s::xid8 AND xact < pg_snapshot_xmax(pg_current_snapshot())
  UNION ALL
  SELECT * FROM job_events WHERE xact = ANY(%(in_flight)s::xid8[])
) AS news
WHERE pg_visible_in_snapshot(xact, COALESCE(%(target)s::pg_snapshot, pg_current_snapshot())) AND id >= %(first)s
  AND (%(job_id)s::uuid IS NULL OR %(job_id)s::uuid = ANY(job_ids))
ORDER BY id LIMIT %(limit)s"""

_HERE = f"""SELECT (SELECT xact::text FROM job_events_horizon), NULL::bigint, 'here', pg_current_snapshot()::text,
  {_MARK}, NULL, NULL::text[], NULL::integer[], NULL, NULL::jsonb"""

_STATES = f"""SELECT NULL, NULL, 'state', type, queue, status, ARRAY[id::text], ARRAY[attempts],
  to_char(updated_at, {_TIME}),
  NULLIF(jsonb_strip_nulls(jsonb_build_object('reason', end_reason, 'error', left(error, {ERROR_KEPT}))), '{{}}')
FROM jobs WHERE id = ANY(%(wanted)s::uuid[])"""

#: The rows of a page at most. A row has the jobs of a whole statement.
PAGE_ROWS = 1_000


def read(
    database: Database,
    position: Position | None,
    *,
    wanted: Sequence[str] = (),
    job_id: UUID | None = None,
    limit: int = PAGE_ROWS,
) -> Page:
    """Return the events after a position, of one job or of all, and the present states of the jobs `wanted`.

    Without a position there are no events, and the page's position is that of this moment. Blocks. Raises
    `DatabaseUnavailable`.
    """
    parts = [_HERE, *([_NEWS] if position else ()), *([_STATES] if wanted else ())]
    names = {"wanted": list(wanted), "job_id": job_id, "limit": limit, **(_after(position) if position else {})}
    rows = database.rows("\nUNION ALL\n".join(f"({part})" for part in parts), names)
    [here] = [row for row in rows if row[2] == "here"]
    states = [state for row in rows if row[2] == "state" for state in _states(row)]
    told = sorted((row for row in rows if row[1] is not None), key=lambda row: int(row[1]))
    page = _page(position, here, told, {state.job_id: state for state in states}, is_full=len(told) == limit)
    if job_id is None:
        return page
    # A row has the other jobs of its statement too.
    return replace(page, events=[event for event in page.events if event.job_id == str(job_id)])


def _after(position: Position) -> dict[str, object]:
    return {
        "end": str(position.seen.end),
        "in_flight": f"{{{','.join(map(str, position.seen.in_flight))}}}",
        "target": None if position.target is None else position.target.text,
        # At first the rest of the row, if any.
        "first": position.place[0] + (position.place[1] == _AFTER_ALL),
    }


def _page(
    position: Position | None, here: Row, told: Sequence[Row], states: Mapping[str, JobState], *, is_full: bool
) -> Page:
    now, mark = Snapshot.of_text(here[3]), here[4]
    if position is None:
        return Page(now, (), states, Tokens.of(mark, now, now), Position(mark, now), is_full=False, gap=None)
    if gap := _gap(position, now, mark, int(here[0])):
        return Page(now, (), states, Tokens.of(mark, now, now), Position(mark, now), is_full=False, gap=gap)
    target = position.target or now
    events = [event for row in told for event in _events(row) if not position.includes(event.xact, event.place)]
    if is_full:
        # A row has fewer jobs than this.
        place = (int(told[-1][1]), _AFTER_ALL)
        next_position = Position(mark, position.seen, target, place)
    else:
        next_position = Position(mark, target)
    tokens = Tokens.of(mark, position.seen, target)
    return Page(now, events, states, tokens, next_position, is_full=is_full or target != now, gap=None)


#: Behind every event of a row.
_AFTER_ALL = 2**31


def _events(row: Row) -> list[JobEvent]:
    xact, number, name, *_ = row
    return [
        JobEvent(xact=int(xact), place=(number, index), name=name, **fields)
        for index, fields in enumerate(_fields(row))
    ]


def _states(row: Row) -> list[JobState]:
    return [JobState(**fields) for fields in _fields(row)]


def _fields(row: Row) -> list[dict[str, Any]]:
    """Return what a row says of each of its jobs."""
    _, _, _, job_type, queue, status, job_ids, attempts, at, details = row
    common = {"type": job_type, "queue": queue, "status": status, "at": at, "details": details}
    return [{"job_id": job_id, "attempt": attempt, **common} for job_id, attempt in zip(job_ids, attempts, strict=True)]


class Gap(StrEnum):
    """Why a reader has missed events, or may have: the `reason` of a `reset`."""

    #: Events that it has not read were deleted after their retention.
    EXPIRED = "expired"
    #: The position is that of another server or database, or one before a backup was restored.
    UNKNOWN = "unknown"


def _gap(position: Position, now: Snapshot, mark: str, horizon: int) -> Gap | None:
    if position.mark != mark or position.seen.end > now.end or (position.target and position.target.end > now.end):
        return Gap.UNKNOWN
    # What is in flight still has written nothing that could have been deleted.
    ended = [xact for xact in position.seen.in_flight if xact <= horizon and now.sees(xact)]
    return Gap.EXPIRED if ended or position.seen.end <= horizon else None


# Rows of transactions that are yet to come were restored from another server.
_OLDEST = """
SELECT xact::text, id, at < now() - %(retention)s * interval '1 second'
FROM job_events ORDER BY xact, id LIMIT %(limit)s"""

_PRUNE = """
WITH gone AS (
  DELETE FROM job_events
  WHERE (xact, id) <= (%(xact)s::xid8, %(id)s) AND <fence>
  RETURNING 1
), noted AS (
  UPDATE job_events_horizon SET xact = %(xact)s::xid8 WHERE xact < %(xact)s::xid8 AND <fence>
)
SELECT count(*)::integer FROM gone"""

_DISOWN = """
WITH gone AS (
  DELETE FROM job_events WHERE xact >= pg_snapshot_xmax(pg_current_snapshot()) AND <fence> RETURNING 1
), noted AS (
  UPDATE job_events_horizon SET xact = pg_snapshot_xmin(pg_current_snapshot())
  WHERE xact >= pg_snapshot_xmax(pg_current_snapshot()) AND <fence>
)
SELECT count(*)::integer FROM gone"""


def prune(database: Database, *, retention_seconds: float, limit: int, fence: str, token: int | None) -> int:
    """Delete up to `limit` of the oldest rows, if they are older than their retention. Return how many.

    `fence` is a condition with a parameter of this name, which `token` is. Raises `DatabaseUnavailable`.
    """
    last: Row | None = None
    for xact, number, is_expired in database.rows(_OLDEST, {"retention": retention_seconds, "limit": limit}):
        if not is_expired:
            break
        last = (xact, number)
    if last is None:
        return 0
    names = {"xact": last[0], "id": last[1], "fence": token}
    [(deleted,)] = database.rows(_PRUNE.replace("<fence>", fence), names)
    return int(deleted)


def disown(database: Database, *, fence: str, token: int | None) -> int:
    """Delete rows that were restored from another server, whose transactions are yet to come here. Return how many."""
    [(deleted,)] = database.rows(_DISOWN.replace("<fence>", fence), {"fence": token})
    return int(deleted)
