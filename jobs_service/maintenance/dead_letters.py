"""Keeps `job_dlq` equal to the failed rows."""

import time
from uuid import UUID

from jobs_service.database import Database
from jobs_service.dead_letters import DeadLetterList
from jobs_service.maintenance.service import Service, Turn

#: Seconds between two comparisons id by id. In between the lengths are compared, which costs nothing.
COMPARE_SECONDS = 60.0


class DeadLetters(Service):
    """Writes the list anew when it differs: after lost data, a push that did not arrive, or a stranger's hand."""

    name = "dead_letters"

    def __init__(self, database: Database, dead_letters: DeadLetterList, *, interval_seconds: float) -> None:
        self.database = database
        self.dead_letters = dead_letters
        self.interval_seconds = interval_seconds
        self._compared_at = 0.0

    def run_once(self, turn: Turn) -> dict[str, int]:  # noqa: ARG002 - one comparison is one step
        (failed,) = self.database.row("SELECT count(*) FROM jobs WHERE status = 'failed'") or (0,)
        if self.dead_letters.length() == failed and not self._is_time_to_compare():
            return {"rebuilt": 0}
        ids = self._failed()
        if sorted(map(str, ids)) == sorted(self.dead_letters.ids()):
            return {"rebuilt": 0}
        self.dead_letters.replace(ids)
        return {"rebuilt": len(ids)}

    def _failed(self) -> list[UUID]:
        rows = self.database.rows("SELECT id FROM jobs WHERE status = 'failed' ORDER BY finished_at, id")
        return [job_id for (job_id,) in rows]

    def _is_time_to_compare(self) -> bool:
        if time.monotonic() < self._compared_at + COMPARE_SECONDS:
            return False
        self._compared_at = time.monotonic()
        return True
