"""The unfinished jobs that a filter chooses, to be cancelled: counted, shown, and as the members of an action.

They are read in the order of their ids, each status by itself, from the index of a type's jobs or of a status's. The
other conditions are tested on the rows. What is read is limited, however many jobs wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from jobs_service.database.connection import Database
from jobs_service.jobs.bulk_actions import SAMPLE, Selection
from jobs_service.jobs.lifecycle import Status
from jobs_service.jobs.listing import Filters

#: The states of a job that can be cancelled.
UNFINISHED = (Status.PENDING, Status.PROCESSING)

#: How many jobs an action may have, how many of each status it looks at for them, and how many a dry run looks at. They
#: are what PostgreSQL reads and writes within a second or two, and in a moment.
MOST_MEMBERS, MOST_LOOKED_AT, MOST_COUNTED = 100_000, 200_000, 10_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_READ = "SELECT id, type, status, queue, tags, attempts, created_at, transition_token FROM jobs"

# One bound, and the order of the index: between two bounds PostgreSQL may expect few entries, and read and sort them
# all. The walk of `pending` may run on into `processing`, which is left out then.
_OF_STATUS = f"{_READ} WHERE (status, id) >= (state, %(floor)s) ORDER BY status, id LIMIT %(look)s"
_OF_TYPE = f"""{_READ} WHERE type = %(type)s AND status = state AND id >= %(floor)s
  ORDER BY type, status, id NULLS FIRST LIMIT %(look)s"""

_WALKED = """(
  SELECT job.* FROM unnest(%(statuses)s::text[]) AS state
  CROSS JOIN LATERAL (<read>) AS job WHERE status = state AND id < %(before)s
) AS job"""

_TESTS: Mapping[str, str] = {
    "queue": "queue = %(queue)s",
    "tag": "%(tag)s = ANY(tags)",
    "created_after": "created_at >= timestamp '1970-01-01' + %(after)s",
    "created_before": "created_at < timestamp '1970-01-01' + %(until)s",
    "attempts_min": "attempts >= %(attempts_min)s",
}


@dataclass(frozen=True, slots=True)
class UnfinishedJob:
    """What a dry run shows of a job."""

    job_id: UUID
    type: str
    queue: str
    status: Status
    attempts: int
    created_at: datetime


def statuses_of(text: str) -> Sequence[Status]:
    """Return the statuses that a member of an action may still have to be cancelled. `text` is its filter as JSON."""
    status = msgspec.json.decode(text).get("status")
    return [Status(status)] if status else UNFINISHED


_MEMBERS = """
  SELECT id, transition_token, NULL::timestamptz AS finished_at FROM <walked> WHERE <matches> ORDER BY id LIMIT %(most)s
"""


def selection(filters: Filters) -> Selection:
    """Return the query for the members of an action, the jobs that were submitted first."""
    return Selection(_statement(_MEMBERS, filters), _names(filters) | {"look": MOST_LOOKED_AT, "most": MOST_MEMBERS})


_COUNT = "SELECT count(*), count(*) FILTER (WHERE <matches>) FROM <walked> GROUP BY status"

_SAMPLE = """
SELECT id, type, queue, status, attempts, timezone('utc', created_at)
FROM <walked> WHERE <matches> LIMIT %(sample)s"""


def preview(database: Database, filters: Filters) -> tuple[int, bool, list[UnfinishedJob]]:
    """Return how many jobs a filter chooses, whether there may be more, and some of them. Changes nothing."""
    names = _names(filters) | {"look": MOST_COUNTED, "sample": SAMPLE}
    counts = database.rows(_statement(_COUNT, filters), names)
    shown = database.rows(_statement(_SAMPLE, filters), names)
    is_capped = any(looked_at >= MOST_COUNTED for looked_at, _ in counts)
    sample = [UnfinishedJob(job_id, name, queue, Status(status), *rest) for job_id, name, queue, status, *rest in shown]
    return sum(matching for _, matching in counts), is_capped, sample


def _statement(sql: str, filters: Filters) -> str:
    read = _OF_STATUS if filters.type is None else _OF_TYPE
    return sql.replace("<walked>", _WALKED.replace("<read>", read)).replace("<matches>", _tests(filters))


def _tests(filters: Filters) -> str:
    tests = [test for name, test in _TESTS.items() if getattr(filters, name) is not None]
    if filters.type is None:
        tests.append("type <> ALL(%(hidden)s::text[])")
    return " AND ".join(tests) or "TRUE"


def _names(filters: Filters) -> dict[str, Any]:
    return {
        **{name: getattr(filters, name) for name in ("type", "queue", "tag", "attempts_min")},
        "hidden": list(filters.hidden),
        "after": filters.created_after and filters.created_after - _EPOCH,
        "until": filters.created_before and filters.created_before - _EPOCH,
        "floor": filters.floor,
        "before": filters.before(None),
        "statuses": list(UNFINISHED if filters.status is None else [filters.status]),
    }
