"""Deletes the events of jobs after their retention."""

from jobs_service.database.connection import Database
from jobs_service.jobs import event_log, lifecycle
from jobs_service.maintenance.service import Service, Turn

#: Rows of one statement.
BATCH = 5_000


class EventPruner(Service):
    """Keeps `job_events` as long as clients may resume from it."""

    name = "event_pruner"

    def __init__(self, database: Database, *, interval_seconds: float, retention_seconds: float) -> None:
        self.database = database
        self.interval_seconds = interval_seconds
        self.retention_seconds = retention_seconds

    def run_once(self, turn: Turn) -> dict[str, int]:
        deleted = event_log.disown(self.database, fence=lifecycle.FENCE, token=turn.fence)
        while True:
            batch = event_log.prune(
                self.database,
                retention_seconds=self.retention_seconds,
                limit=BATCH,
                fence=lifecycle.FENCE,
                token=turn.fence,
            )
            deleted += batch
            if batch < BATCH:
                break
            if turn.is_over:
                turn.again()
                break
        return {"events": deleted}
