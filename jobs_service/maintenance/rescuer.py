"""Takes jobs back from workers that went silent, and deletes those workers' rows."""

from uuid import UUID

from jobs_service import events
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.service import Service, Turn
from jobs_service.observability import logs

BATCH = 500

#: The row of a silent worker is deleted after so many leases.
CLEARED_LEASES = 10

# All workers, and those that a running job names although they have no row, and so no counter.
_LOOK = """
SELECT id, beats FROM workers
UNION ALL
SELECT DISTINCT worker_id, NULL::bigint FROM jobs
WHERE status = 'processing' AND NOT EXISTS (SELECT FROM workers WHERE workers.id = jobs.worker_id)"""

# A worker that has beaten since the look keeps its row.
_CLEAR = """
DELETE FROM workers USING unnest(%(workers)s::uuid[], %(beats)s::bigint[]) AS silent (id, beats)
WHERE workers.id = silent.id AND workers.beats = silent.beats AND <fence>""".replace("<fence>", lifecycle.FENCE)


class Rescuer(Service):
    """Sweeps over the processing rows: as many as jobs run now, not as there are jobs."""

    name = "rescuer"

    def __init__(
        self,
        database: Database,
        dead_letters: DeadLetterList,
        *,
        interval_seconds: float,
        liveness: Liveness,
        rowless: Liveness,
    ) -> None:
        """`liveness` is fed by the heartbeat, too; `rowless` is for jobs whose worker has no row."""
        self.database = database
        self.dead_letters = dead_letters
        self.interval_seconds = interval_seconds
        self.liveness = liveness
        self.rowless = rowless
        self._lost_reply = lifecycle.LostReply()

    @property
    def slack_seconds(self) -> float:
        # A sweep that finds no silent worker is short: it runs before the other services that are due.
        return 0.0

    def run_once(self, turn: Turn) -> dict[str, int]:
        self._look()
        rescued = self._rescue(self.liveness.silent() | self.rowless.silent(), turn)
        self._clear(self.liveness.silent(CLEARED_LEASES * self.liveness.lease_seconds), turn)
        # When the next worker becomes silent is known: its jobs need not wait for the next regular sweep.
        turn.again(min(self.liveness.seconds_to_next(), self.rowless.seconds_to_next()))
        return {"rescued": rescued}

    def _look(self) -> None:
        found: dict[UUID | None, int | None] = dict(self.database.rows(_LOOK))
        self.liveness.look({worker_id: beats for worker_id, beats in found.items() if beats is not None})
        self.rowless.look({worker_id: beats for worker_id, beats in found.items() if beats is None})

    def _rescue(self, silent: dict[UUID | None, int | None], turn: Turn) -> int:
        rescued = 0
        while not turn.is_over:
            batch = lifecycle.rescue(self.database, silent, limit=BATCH, fence=turn.fence, lost_reply=self._lost_reply)
            if not batch:
                return rescued
            failpoint("rescuer.after_rescue")
            for job in batch:
                with logs.bound(**job.origin.fields):
                    self._announce(job)
            rescued += len(batch)
        turn.again()
        return rescued

    def _clear(self, silent: dict[UUID | None, int | None], turn: Turn) -> None:
        if silent:
            names = {"workers": list(silent), "beats": list(silent.values()), "fence": turn.fence}
            self.database.rows(_CLEAR, names)

    def _announce(self, job: lifecycle.Rescued) -> None:
        events.emit(events.JobRescued(**job.facts, worker_id=str(job.worker_id)))
        if job.on_ambiguous:
            events.emit(events.AttemptAmbiguous(**job.facts, policy=str(job.on_ambiguous)))
        if job.end_reason:
            self.dead_letters.add(events.JobFailed(**job.facts, error=lifecycle.WORKER_LOST, reason=job.end_reason))
