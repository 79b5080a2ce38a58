"""Dead letters: the failed jobs as a list, in groups of equal errors, and as the members of an action on many.

What is read is bounded: a page looks at `LOOK` rows at most, however many dead letters there are and whichever of them
a filter leaves out. The database computes a job's group, with the functions of `seeds/`, when the job fails.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from jobs_service.database.connection import Database, Row
from jobs_service.jobs.bulk_actions import MOST_MEMBERS, SAMPLE, Selection
from jobs_service.jobs.lifecycle import FENCE

#: How many dead letters a page of the list looks at.
LOOK = 10_000

#: How many jobs of a group are counted.
MOST_COUNTED = 100_000

#: How many jobs of a group are counted in each hour of its last hours, and how many hours there may be.
MOST_IN_AN_HOUR, MOST_HOURS = 100, 24

#: How many of a group's last jobs tell where they failed.
LAST_JOBS = 100

_GROUP = "job_error_group(type, end_reason, error, history)"

#: Field of a filter -> its condition.
_CONDITIONS: Mapping[str, str] = {
    "type": "type = %(type)s",
    "queue": "queue = %(queue)s",
    "tag": "%(tag)s = ANY(tags)",
    "end_reason": "end_reason = %(end_reason)s",
    "group": f"{_GROUP} = %(group)s",
    "created_after": "created_at >= timezone('utc', %(created_after)s)",
    "created_before": "created_at < timezone('utc', %(created_before)s)",
    # As the place in the list, so that PostgreSQL reads in this order also without statistics.
    "finished_after": "(finished_at, id) >= (%(finished_after)s, '00000000-0000-0000-0000-000000000000')",
    "finished_before": "(finished_at, id) < (%(finished_before)s, '00000000-0000-0000-0000-000000000000')",
}
#: The conditions that an index finds: no other row is looked at for them.
_INDEXED = ("group", "finished_after", "finished_before")

#: Field of a filter -> its value.
Filter = Mapping[str, Any]

_SHOWN = f"""id, type, queue, end_reason, error, job_error_class(end_reason, history), {_GROUP}, attempts,
  timezone('utc', created_at), finished_at"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What the list shows of a failed job."""

    job_id: UUID
    type: str
    queue: str
    end_reason: str
    error: str | None
    error_class: str
    group_id: UUID
    attempts: int
    created_at: datetime
    finished_at: datetime


#: When a dead letter failed, and its id: the order of the list, the last one first.
Place = tuple[datetime, UUID]

# The rows are read one by one, until enough match or `look` of them were looked at. If a page is short, its last row
# says how far that was.
_LIST = """
WITH scanned AS MATERIALIZED (
  SELECT id, finished_at, <matches> AS matches FROM jobs
  WHERE status = 'failed' AND <indexed>
    AND (finished_at, id) < (%(before)s::timestamptz, %(before_id)s::uuid)
  ORDER BY <order> finished_at DESC, id DESC LIMIT %(look)s
), page AS MATERIALIZED (
  SELECT id, finished_at FROM scanned WHERE matches LIMIT %(limit)s
)
SELECT id, finished_at, TRUE FROM page
UNION ALL
SELECT id, finished_at, FALSE FROM (
  SELECT id, finished_at FROM scanned WHERE (SELECT count(*) FROM page) < %(limit)s OFFSET %(look)s - 1
) AS last"""

_BY_ID = """
SELECT <shown> FROM jobs WHERE id = ANY(%(ids)s::uuid[]) AND (status = 'failed') IS TRUE""".replace("<shown>", _SHOWN)

_LAST = UUID(int=2**128 - 1)


def newest(
    database: Database, chosen: Filter, *, limit: int, before: Place | None = None
) -> tuple[list[DeadLetter], Place | None]:
    """Return a page of the dead letters that a filter chooses, the last to fail first, and the place of the next page.

    A page may be shorter than `limit`, or empty, although others follow. None: it is the last one.
    """
    # Where every row that is looked at matches, PostgreSQL is to know how few it needs: it then reads in the index's
    # order.
    look = LOOK if set(chosen) - set(_INDEXED) else limit + 1
    finished_at, job_id = before or ("infinity", _LAST)
    names = dict(chosen) | {"limit": limit + 1, "look": look, "before": finished_at, "before_id": job_id}
    sql = _LIST.replace("<matches>", _conditions(chosen, but=_INDEXED))
    sql = sql.replace("<indexed>", _conditions(chosen, only=_INDEXED))
    sql = sql.replace("<order>", f"{_GROUP} DESC," if "group" in chosen else "")
    rows = database.rows(sql, names)
    found = [(finished_at, job_id) for job_id, finished_at, is_match in rows if is_match]
    looked_at = [(finished_at, job_id) for job_id, finished_at, is_match in rows if not is_match]
    page = found[:limit]
    following = page[-1] if len(found) > limit else None
    return shown(database, page), following or (looked_at[0] if looked_at else None)


def shown(database: Database, places: Sequence[Place]) -> list[DeadLetter]:
    """Return the dead letters at these places, in their order. Those that are none any more are left out."""
    ids = [job_id for _, job_id in places]
    found = {row[0]: DeadLetter(*row) for row in database.rows(_BY_ID, {"ids": ids})} if ids else {}
    # One that was redriven just now is a dead letter no more.
    return [found[job_id] for job_id in ids if job_id in found]


def _conditions(chosen: Filter, *, only: Sequence[str] = tuple(_CONDITIONS), but: Sequence[str] = ()) -> str:
    conditions = [_CONDITIONS[name] for name in chosen if name in only and name not in but]
    return " AND ".join(conditions) or "TRUE"


class GroupState(StrEnum):
    """What was decided about a group of dead letters."""

    OPEN = "open"
    #: The cause is said to be gone. If a job of the group fails later, the group is open again.
    RESOLVED = "resolved"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters with the same type, error class and normalised message."""

    id: UUID
    type: str
    error_class: str
    #: The message without what differs from job to job.
    pattern: str
    #: At most `MOST_COUNTED`.
    count: int
    first_seen: datetime
    last_seen: datetime
    #: The last of its jobs to fail.
    sample_job_id: UUID
    state: GroupState
    reason: str | None
    decided_by: str | None
    decided_at: datetime | None
    #: How many of its jobs failed in each of the last hours, each at most `MOST_IN_AN_HOUR`; None if nobody asked.
    by_hour: Sequence[int] | None


# One group after the other is found in the index jobs_error_groups. Of a group only its ends are read, and entries of
# the index are counted.
_GROUPS = """
WITH RECURSIVE ids (id, place) AS (
  (SELECT <group>, 1 FROM jobs WHERE status = 'failed' AND <group> <first> ORDER BY <group> LIMIT 1)
  UNION ALL
  SELECT following.id, ids.place + 1
  FROM ids CROSS JOIN LATERAL (
    SELECT <group> AS id FROM jobs WHERE status = 'failed' AND <group> > ids.id ORDER BY <group> LIMIT 1
  ) AS following
  WHERE ids.place < %(limit)s
)
SELECT ids.id, latest.type, latest.error_class, latest.pattern,
       (SELECT count(*) FROM (
          SELECT FROM jobs WHERE status = 'failed' AND <group> = ids.id LIMIT %(most)s
        ) AS counted),
       first_seen, latest.finished_at, latest.id,
       CASE WHEN error_groups.state = 'ignored' OR error_groups.state = 'resolved' AND latest.finished_at <= decided_at
            THEN error_groups.state ELSE 'open' END,
       reason, decided_by, decided_at, by_hour
FROM ids
CROSS JOIN LATERAL (
  SELECT finished_at AS first_seen FROM jobs WHERE status = 'failed' AND <group> = ids.id
  ORDER BY <group>, finished_at, id LIMIT 1
) AS earliest
CROSS JOIN LATERAL (
  SELECT id, finished_at, type, job_error_class(end_reason, history) AS error_class, job_error_pattern(error) AS pattern
  FROM jobs WHERE status = 'failed' AND <group> = ids.id
  ORDER BY <group> DESC, finished_at DESC, id DESC LIMIT 1
) AS latest
CROSS JOIN LATERAL (
  SELECT array_agg(in_hour.jobs ORDER BY hour DESC) AS by_hour
  FROM generate_series(0, %(hours)s - 1) AS hour CROSS JOIN LATERAL (
    SELECT count(*)::integer AS jobs FROM (
      SELECT FROM jobs WHERE status = 'failed' AND <group> = ids.id
        AND (<group>, finished_at) >= (ids.id, date_trunc('hour', now()) - hour * interval '1 hour')
        AND (<group>, finished_at) < (ids.id, date_trunc('hour', now()) - (hour - 1) * interval '1 hour')
      LIMIT %(most_in_an_hour)s
    ) AS failed
  ) AS in_hour
) AS hours
LEFT JOIN error_groups ON error_groups.id = ids.id
ORDER BY ids.id""".replace("<group>", _GROUP)


def groups(
    database: Database, *, limit: int, after: UUID | None = None, most: int = MOST_COUNTED, hours: int = 0
) -> list[Group]:
    """Return the groups that have dead letters, in the order of their ids, from the one behind `after`.

    Of each, `most` jobs are counted at most, and those of the last `hours`, the present one included.
    """
    return _found_groups(database, "> %(first)s", after or UUID(int=0), limit=limit, most=most, hours=hours)


def find_group(database: Database, group_id: UUID, *, hours: int = 0) -> Group | None:
    """Return a group, or None if it has no dead letter."""
    found = _found_groups(database, "= %(first)s", group_id, limit=1, most=MOST_COUNTED, hours=hours)
    return found[0] if found else None


def _found_groups(database: Database, condition: str, first: UUID, *, limit: int, most: int, hours: int) -> list[Group]:
    names = {"first": first, "limit": limit, "most": most, "hours": hours, "most_in_an_hour": MOST_IN_AN_HOUR}
    return [_group(row) for row in database.rows(_GROUPS.replace("<first>", condition), names)]


def _group(row: Row) -> Group:
    *found, state, reason, decided_by, decided_at, by_hour = row
    return Group(*[*found, GroupState(state), reason, decided_by, decided_at, by_hour])


@dataclass(frozen=True, slots=True)
class GroupWorker:
    """A worker process in which jobs of a group failed."""

    worker_id: UUID
    #: None: the process has ended.
    host: str | None
    pid: int | None
    started_at: datetime | None
    #: How many of the last `LAST_JOBS` of the group failed there, and when the last one did.
    jobs: int
    last_seen: datetime


_GROUP_WORKERS = """
WITH last AS MATERIALIZED (
  SELECT history->-1->>'worker_id' AS worker_id, finished_at FROM jobs WHERE status = 'failed' AND <group> = %(group)s
  ORDER BY <group> DESC, finished_at DESC, id DESC LIMIT %(last)s
)
SELECT worker_id::uuid, hostname, pid, started_at, count(*)::integer, max(finished_at)
FROM last LEFT JOIN workers ON workers.id = worker_id::uuid
WHERE worker_id IS NOT NULL GROUP BY worker_id, hostname, pid, started_at
ORDER BY count(*) DESC, max(finished_at) DESC""".replace("<group>", _GROUP)


def workers_of_group(database: Database, group_id: UUID) -> list[GroupWorker]:
    """Return where the last jobs of a group failed, the process with most of them first."""
    return [GroupWorker(*row) for row in database.rows(_GROUP_WORKERS, {"group": group_id, "last": LAST_JOBS})]


_DECIDE = """
INSERT INTO error_groups (id, state, reason, decided_by) VALUES (%(id)s, %(state)s, %(reason)s, %(by)s)
ON CONFLICT (id) DO UPDATE
SET state = excluded.state, reason = excluded.reason, decided_by = excluded.decided_by, decided_at = now()"""


def decide(database: Database, group_id: UUID, state: GroupState, *, reason: str, by: str) -> None:
    """Record what a person decided about a group, and why."""
    if state is GroupState.OPEN:
        database.rows("DELETE FROM error_groups WHERE id = %s", (group_id,))
    else:
        database.rows(_DECIDE, {"id": group_id, "state": state, "reason": reason, "by": by})


_MEMBERS = """
  SELECT id, transition_token, finished_at FROM jobs WHERE status = 'failed' AND <matches>
  ORDER BY finished_at, id LIMIT %(most)s"""


def selection(chosen: Filter) -> Selection:
    """Return the query for the members of an action on dead letters, those that failed first."""
    return Selection(_MEMBERS.replace("<matches>", _conditions(chosen)), {**chosen, "most": MOST_MEMBERS})


_COUNT = """
SELECT count(*) FROM (SELECT FROM jobs WHERE status = 'failed' AND <matches> LIMIT %(most)s) AS chosen"""

_SAMPLE = """
SELECT id, finished_at FROM jobs WHERE status = 'failed' AND <matches>
ORDER BY finished_at, id LIMIT %(sample)s"""


def preview(database: Database, chosen: Filter) -> tuple[int, bool, list[DeadLetter]]:
    """Return how many dead letters a filter chooses, whether there may be more, and those of them that failed first.

    Changes nothing.
    """
    conditions = _conditions(chosen)
    names = dict(chosen) | {"most": MOST_MEMBERS, "sample": SAMPLE}
    (count,) = database.row(_COUNT.replace("<matches>", conditions), names) or (0,)
    first = database.rows(_SAMPLE.replace("<matches>", conditions), names)
    return int(count), count >= MOST_MEMBERS, shown(database, [(finished_at, job_id) for job_id, finished_at in first])


def discarded(database: Database, *, limit: int) -> list[UUID]:
    """Return discarded jobs whose files are yet to be deleted."""
    return [job_id for (job_id,) in database.rows("SELECT job_id FROM discards ORDER BY job_id LIMIT %s", (limit,))]


def forget_discarded(database: Database, job_ids: Sequence[UUID], *, fence: int | None) -> None:
    """Note that the files of discarded jobs are deleted."""
    sql = "DELETE FROM discards WHERE job_id = ANY(%(job_ids)s::uuid[]) AND <fence>".replace("<fence>", FENCE)
    database.rows(sql, {"job_ids": list(job_ids), "fence": fence})
