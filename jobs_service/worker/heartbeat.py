"""A worker process's row in `workers`: as long as it is fresh, no other process takes its jobs."""

import os
import socket
import time
from threading import Event, Thread
from uuid import UUID

from structlog.stdlib import get_logger

from jobs_service.database.connection import Database
from jobs_service.maintenance.liveness import Liveness
from jobs_service.metrics.clock import DatabaseClock, steady_seconds
from jobs_service.worker.attempt import RunningAttempts

log = get_logger(module=__name__)

#: Seconds that a stop waits for the thread, which may stand still.
STOP_SECONDS = 20.0

# An upsert: the row of a process that was frozen for long may have been deleted, and is written anew. The answer has
# the counters of all workers, so that a process that becomes the leader already knows which are silent. It also has
# those of the process's leases that are gone; each row is looked up by its id, whatever the statistics say.
_HEARTBEAT = """
WITH beat AS (
  INSERT INTO workers (id, hostname, pid, queues, threads, version)
  VALUES (%(id)s, %(hostname)s, %(pid)s, %(queues)s, %(threads)s, %(version)s)
  ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), beats = workers.beats + 1
  RETURNING id, beats
)
SELECT id, beats, extract(epoch FROM clock_timestamp())::float8,
       ARRAY(SELECT lease FROM unnest(%(held_jobs)s::uuid[], %(held_leases)s::uuid[]) AS held (job_id, lease)
             WHERE (SELECT lease_token FROM jobs WHERE jobs.id = held.job_id) IS DISTINCT FROM held.lease)
FROM (SELECT id, beats FROM beat UNION ALL SELECT id, beats FROM workers WHERE id <> %(id)s) AS all_workers"""


class Heartbeat:
    """A thread that writes one heartbeat for all jobs of this process, and reads those of the other processes."""

    def __init__(
        self,
        database: Database,
        worker_id: UUID,
        attempts: RunningAttempts,
        *,
        threads: int,
        version: str,
        heartbeat_interval_seconds: float,
        liveness: Liveness,
        clock: DatabaseClock,
    ) -> None:
        self.database = database
        self.worker_id = worker_id
        self.attempts = attempts
        self.threads = threads
        self.version = version
        self.heartbeat_interval_seconds = heartbeat_interval_seconds
        self.liveness = liveness
        self.clock = clock
        self.queues: list[str] = []
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="heartbeat", daemon=True)
        #: When the thread last began to write a heartbeat, by the monotonic clock.
        self.last_turn = time.monotonic()

    def start(self, *, queues: list[str]) -> None:
        self.queues = queues
        self._thread.start()

    def stop(self) -> None:
        """End the heartbeat and delete the row. Only for a process whose jobs have all ended."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def beat(self) -> None:
        """Write one heartbeat, and interrupt the attempts whose leases are gone. Raises `DatabaseUnavailable`."""
        held = self.attempts.held()
        names = {
            "id": self.worker_id,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "queues": self.queues,
            "threads": self.threads,
            "version": self.version,
            "held_jobs": list(held.values()),
            "held_leases": list(held),
        }
        asked_at = steady_seconds()
        rows = self.database.rows(_HEARTBEAT, names, reserved=True)
        self.liveness.look({worker_id: beats for worker_id, beats, *_ in rows})
        self.clock.compare(rows[0][2], asked_at=asked_at, answered_at=steady_seconds())
        if lost := rows[0][3]:
            self.attempts.cancel(lost)

    def leave(self) -> None:
        """Delete the row. Raises `DatabaseUnavailable`."""
        self.database.rows("DELETE FROM workers WHERE id = %s", (self.worker_id,))

    def _run(self) -> None:
        answered = True
        while True:
            self.last_turn = time.monotonic()
            try:
                self.beat()
                answered = True
            except Exception as error:  # noqa: BLE001 - without heartbeats every job of this process would be taken for lost
                if answered:
                    log.warning("Heartbeat not written", error=str(error).strip())
                answered = False
            if self._stopping.wait(
                self.heartbeat_interval_seconds if answered else self.heartbeat_interval_seconds / 5
            ):
                break
        self._leave_quietly()

    def _leave_quietly(self) -> None:
        try:
            self.leave()
        except Exception as error:  # noqa: BLE001 - the process ends either way
            log.warning("Worker row not deleted; the rescuer will delete it", error=str(error))
        finally:
            self.database.discard()
