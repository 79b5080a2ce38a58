"""What became of the jobs that a redrive of many has run again.

Each of them has the redrive's id on its row, until another redrive runs it again, or it is deleted. What is read is
bounded: of each state, `MOST_COUNTED` jobs are counted.
"""

from dataclasses import dataclass
from uuid import UUID

from jobs_service.database.connection import Database
from jobs_service.jobs.dead_letters import DeadLetter, shown
from jobs_service.jobs.lifecycle import Status

#: How many jobs of each state are counted, and how many of those that failed again are shown.
MOST_COUNTED, SAMPLE = 10_000, 10


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How many of a redrive's jobs are in which state now, and the last of them that failed again."""

    jobs: dict[Status, int]
    last_failed: list[DeadLetter]


_COUNTS = """
SELECT state, (
  SELECT count(*)::integer FROM (
    SELECT FROM jobs WHERE redrive_id = %(redrive_id)s AND status = state LIMIT %(most)s
  ) AS counted
) FROM unnest(%(states)s::text[]) AS state"""

_LAST_FAILED = """
SELECT finished_at, id FROM jobs WHERE redrive_id = %(redrive_id)s AND status = 'failed'
ORDER BY redrive_id DESC, status DESC, finished_at DESC LIMIT %(sample)s"""


def read(database: Database, redrive_id: UUID) -> Outcomes:
    """Return what became of the jobs that a redrive has run again. Blocks. Raises `DatabaseUnavailable`."""
    states = [str(state) for state in Status]
    rows = database.rows(_COUNTS, {"redrive_id": redrive_id, "most": MOST_COUNTED, "states": states})
    failed = database.rows(_LAST_FAILED, {"redrive_id": redrive_id, "sample": SAMPLE})
    places = [(finished_at, job_id) for finished_at, job_id in failed]
    return Outcomes({Status(state): count for state, count in rows}, shown(database, places))
