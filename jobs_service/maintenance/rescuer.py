"""Takes jobs back from workers that went silent, and clears away those workers' rows."""

from jobs_service import events, lifecycle
from jobs_service.database import Database
from jobs_service.dead_letters import DeadLetterList
from jobs_service.events import Event
from jobs_service.lifecycle import Rescued, Status
from jobs_service.maintenance.service import Service

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

    def run_once(self) -> dict[str, int]:
        rescued = lifecycle.rescue(self.database, lease_seconds=self.lease_seconds)
        for job in rescued:
            self._tell(job)
        self.database.rows(_CLEAR, (self.lease_seconds,))
        return {"rescued": len(rescued)}

    def _tell(self, job: Rescued) -> None:
        facts = {"job_id": str(job.job_id), "type": job.type, "queue": job.queue, "attempt": job.attempts}
        events.emit(Event.RESCUED, **facts, worker_id=str(job.worker_id))
        if job.status is Status.FAILED:
            self.dead_letters.push(job.job_id)
            events.emit(Event.FAILED, **facts, error="WorkerLost", reason=job.dead_reason, seconds=0.0)
