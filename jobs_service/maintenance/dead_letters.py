"""Keeps `job_dlq` equal to the failed rows."""

import time
from collections.abc import Iterator
from uuid import UUID

from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database, Row
from jobs_service.maintenance.service import Service, Turn

#: Seconds between two comparisons id by id. In between only the lengths are compared, which is cheap.
COMPARE_SECONDS = 60.0

#: Ids in one step.
BATCH = 10_000

# Read from the index jobs_by_status, in its order.
_FAILED = """
SELECT id, finished_at FROM jobs
WHERE (status, id) > ('failed', %(after)s) AND status = 'failed'
ORDER BY status, id LIMIT %(limit)s"""


class DeadLetters(Service):
    """Rewrites the list when it differs: after Redis lost data, a push failed, or another program changed the list."""

    name = "dead_letters"

    def __init__(self, database: Database, dead_letters: DeadLetterList, *, interval_seconds: float) -> None:
        self.database = database
        self.dead_letters = dead_letters
        self.interval_seconds = interval_seconds
        self._compared_at = 0.0
        #: A comparison that did not fit into one turn.
        self._comparison: Iterator[int] | None = None

    def run_once(self, turn: Turn) -> dict[str, int]:
        comparison, self._comparison = self._comparison or self._compare(), None
        for rebuilt in comparison:
            if rebuilt:
                return {"rebuilt": rebuilt}
            if turn.is_over:
                self._comparison = comparison
                turn.again()
                break
        return {"rebuilt": 0}

    def _compare(self) -> Iterator[int]:
        """Yield 0 after each step, and the number of ids once the list is rewritten."""
        (count,) = self.database.row("SELECT count(*) FROM jobs WHERE status = 'failed'") or (0,)
        if self.dead_letters.length() == count and not self._is_time_to_compare():
            return
        found: list[Row] = []
        for rows in self._failed():
            found += rows
            yield 0
        failed: list[UUID] = [job_id for job_id, _ in sorted(found, key=lambda row: (row[1], row[0]))]
        listed: list[str] = []
        for page in self.dead_letters.pages(BATCH):
            listed += page
            yield 0
        if len(failed) == len(listed) and set(map(str, failed)) == set(listed):
            return
        for _ in self.dead_letters.replacing(failed, BATCH):
            yield 0
        yield len(failed)

    def _failed(self) -> Iterator[list[Row]]:
        """Yield the failed jobs' ids and when they failed, a batch at a time."""
        rows: list[Row] = [(UUID(int=0), None)]
        while rows:
            rows = self.database.rows(_FAILED, {"after": rows[-1][0], "limit": BATCH})
            yield rows

    def _is_time_to_compare(self) -> bool:
        if time.monotonic() < self._compared_at + COMPARE_SECONDS:
            return False
        self._compared_at = time.monotonic()
        return True
