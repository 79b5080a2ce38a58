"""Keeps `job_dlq` equal to the failed rows."""

from jobs_service.database import Database
from jobs_service.dead_letters import DeadLetterList
from jobs_service.maintenance.service import Service


class DeadLetters(Service):
    """Compares lengths, and writes the list anew when they differ: after lost data, or a push that did not arrive."""

    name = "dead_letters"

    def __init__(self, database: Database, dead_letters: DeadLetterList, *, interval_seconds: float) -> None:
        self.database = database
        self.dead_letters = dead_letters
        self.interval_seconds = interval_seconds

    def run_once(self) -> dict[str, int]:
        listed = self.dead_letters.length()
        (failed,) = self.database.row("SELECT count(*) FROM jobs WHERE status = 'failed'") or (0,)
        if listed == failed:
            return {"rebuilt": 0}
        rows = self.database.rows("SELECT id FROM jobs WHERE status = 'failed' ORDER BY finished_at, id")
        self.dead_letters.replace(job_id for (job_id,) in rows)
        return {"rebuilt": len(rows)}
