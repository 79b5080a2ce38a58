"""Fails jobs that were not begun before their `expires_at`."""

from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database
from jobs_service.events import JobFailed
from jobs_service.jobs import lifecycle
from jobs_service.maintenance.service import Service, Turn
from jobs_service.observability import logs

BATCH = 500


class Expirer(Service):
    """Makes expired jobs dead letters. No worker claims an expired job, so it would stay pending."""

    name = "expirer"

    def __init__(self, database: Database, dead_letters: DeadLetterList, *, interval_seconds: float) -> None:
        self.database = database
        self.dead_letters = dead_letters
        self.interval_seconds = interval_seconds
        self._lost_reply = lifecycle.LostReply()

    def run_once(self, turn: Turn) -> dict[str, int]:
        expired = 0
        while not turn.is_over:
            batch = lifecycle.expire(self.database, limit=BATCH, fence=turn.fence, lost_reply=self._lost_reply)
            if not batch:
                return {"expired": expired}
            for job in batch:
                with logs.bound(**job.origin.fields):
                    self._announce(job)
            expired += len(batch)
        turn.again()
        return {"expired": expired}

    def _announce(self, job: lifecycle.Expired) -> None:
        error = "Expired" if job.end_reason is lifecycle.EndReason.EXPIRED else "Unavailable"
        self.dead_letters.add(JobFailed(**job.facts, error=error, reason=job.end_reason))
