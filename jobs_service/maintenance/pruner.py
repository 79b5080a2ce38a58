"""Deletes jobs that have been finished for longer than their retention, and the files they made."""

import time
from collections.abc import Mapping
from uuid import UUID

from jobs_service import events, lifecycle
from jobs_service.database import Database
from jobs_service.events import Event
from jobs_service.failpoints import failpoint
from jobs_service.ids import earliest_id
from jobs_service.lifecycle import Status
from jobs_service.maintenance.service import Service, Turn
from jobs_service.storage import OutputStore

#: Rows of one statement, and statements of one run.
BATCH = 1_000
BATCHES = 20

# Ids are in the order of acceptance, so the oldest jobs are found by jobs_by_status: no index has to be kept for this
# alone. What was looked at is not looked at again before the walk has reached its end.
_EXPIRED = """
SELECT id, finished_at < now() - %(retention)s * interval '1 second'
FROM jobs
WHERE (status, id) > (%(status)s, %(after)s) AND (status, id) < (%(status)s, %(before)s)
ORDER BY status, id LIMIT %(limit)s"""

_FIRST = UUID(int=0)


class Pruner(Service):
    """Walks over the finished jobs of each status from the oldest on, a piece a run, busy or idle."""

    name = "pruner"

    def __init__(
        self,
        database: Database,
        outputs: OutputStore,
        *,
        interval_seconds: float,
        retention_seconds: Mapping[Status, float],
    ) -> None:
        """A retention of 0 keeps the jobs of that status for ever."""
        self.database = database
        self.outputs = outputs
        self.interval_seconds = interval_seconds
        self.retention_seconds = {status: seconds for status, seconds in retention_seconds.items() if seconds}
        self._after = dict.fromkeys(self.retention_seconds, _FIRST)

    def run_once(self, turn: Turn) -> dict[str, int]:
        pruned = {status.value: self._prune(status, turn) for status in self.retention_seconds}
        for status, jobs in pruned.items():
            if jobs:
                events.emit(Event.PRUNED, status=status, jobs=jobs)
        return {**pruned, "temporary_files": self.outputs.reap()}

    def _prune(self, status: Status, turn: Turn) -> int:
        pruned = 0
        for _ in range(BATCHES):
            if turn.is_over:
                turn.again()
                break
            found = self._walk(status)
            pruned += self._delete(status, [job_id for job_id, is_expired in found if is_expired], turn)
            if len(found) < BATCH:
                break
        return pruned

    def _walk(self, status: Status) -> list[tuple[UUID, bool]]:
        retention = self.retention_seconds[status]
        names = {
            "status": status,
            "retention": retention,
            "after": self._after[status],
            "before": earliest_id(time.time() - retention),
            "limit": BATCH,
        }
        found = [(job_id, bool(is_expired)) for job_id, is_expired in self.database.rows(_EXPIRED, names)]
        self._after[status] = found[-1][0] if len(found) == BATCH else _FIRST
        return found

    def _delete(self, status: Status, job_ids: list[UUID], turn: Turn) -> int:
        if not job_ids:
            return 0
        # Files first: what is left after a crash is a row whose file is gone, and the next run takes it.
        self.outputs.delete(job_ids)
        failpoint("pruner.after_files")
        retention = self.retention_seconds[status]
        return lifecycle.prune(self.database, job_ids, status=status, retention_seconds=retention, fence=turn.fence)
