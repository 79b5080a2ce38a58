"""Takes jobs back from workers that went silent, and clears away those workers' rows."""

import time
from uuid import UUID

from jobs_service import events, lifecycle
from jobs_service.database import Database
from jobs_service.dead_letters import DeadLetterList
from jobs_service.events import Event
from jobs_service.failpoints import failpoint
from jobs_service.lifecycle import Rescued, Status, Unheard
from jobs_service.maintenance.service import Service

BATCH = 500

_SILENT = """
SELECT DISTINCT jobs.worker_id, beats FROM jobs LEFT JOIN workers ON workers.id = jobs.worker_id
WHERE status = 'processing' AND jobs.started_at < now() - %(lease)s * interval '1 second'
  AND (heartbeat_at IS NULL OR heartbeat_at <= now() - %(lease)s * interval '1 second')"""

_CLEAR = "DELETE FROM workers WHERE heartbeat_at < now() - 10 * %s * interval '1 second'"


class Rescuer(Service):
    """Sweeps over processing rows. Their number is that of running jobs, not of all jobs."""

    name = "rescuer"

    def __init__(
        self,
        database: Database,
        dead_letters: DeadLetterList,
        *,
        interval_seconds: float,
        lease_seconds: float,
        heartbeat_seconds: float,
    ) -> None:
        self.database = database
        self.dead_letters = dead_letters
        self.interval_seconds = interval_seconds
        self.lease_seconds = lease_seconds
        # After an outage of PostgreSQL every heartbeat is old: the living get the time to beat first.
        self.delay_seconds = heartbeat_seconds * 1.2
        self._ran_at = _seconds_awake_or_asleep()
        self._unheard = Unheard()

    def begin(self) -> None:
        # Not to lead is no sleep.
        self._ran_at = _seconds_awake_or_asleep()

    def run_once(self) -> dict[str, int]:
        if self._has_slept():
            # So have the workers beside it: their heartbeats are old, and they are well.
            return {"rescued": 0}
        rescued = 0
        silent: dict[UUID, int | None] = dict(self.database.rows(_SILENT, {"lease": self.lease_seconds}))
        while batch := lifecycle.rescue(self.database, silent, limit=BATCH, unheard=self._unheard):
            failpoint("rescuer.after_rescue")
            for job in batch:
                self._tell(job)
            rescued += len(batch)
        self.database.rows(_CLEAR, (self.lease_seconds,))
        return {"rescued": rescued}

    def _has_slept(self) -> bool:
        before, self._ran_at = self._ran_at, _seconds_awake_or_asleep()
        return self._ran_at - before > self.lease_seconds + self.interval_seconds

    def _tell(self, job: Rescued) -> None:
        facts = job.facts | job.origin.fields
        events.emit(Event.RESCUED, **facts, worker_id=str(job.worker_id))
        if job.on_ambiguous:
            events.emit(Event.AMBIGUOUS, **facts, policy=str(job.on_ambiguous))
        if job.status is Status.FAILED:
            self.dead_letters.push(job.job_id)
            events.emit(Event.FAILED, **facts, error="WorkerLost", reason=job.dead_reason)


def _seconds_awake_or_asleep() -> float:
    """Return a clock that nobody sets and that goes on while the machine sleeps, where there is one (Linux)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
