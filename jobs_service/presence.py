"""A worker process's row in `workers`: as long as it is fresh, its jobs are its own."""

import os
import socket
import time
from threading import Event, Thread
from uuid import UUID

from jobs_service.database import Database
from jobs_service.logs import get_logger

log = get_logger(__name__)

#: How long a stop waits for the thread: one that stands still is not to hold it up.
STOP_SECONDS = 20.0

# An upsert: a process that was frozen so long that its row was cleared away comes back by the same statement.
_HEARTBEAT = """
INSERT INTO workers (id, hostname, pid, queues, threads) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), beats = workers.beats + 1"""


class Presence:
    """One heartbeat for all the jobs of this process, in a thread of its own."""

    def __init__(self, database: Database, worker_id: UUID, *, threads: int, heartbeat_seconds: float) -> None:
        self.database = database
        self.worker_id = worker_id
        self.threads = threads
        self.heartbeat_seconds = heartbeat_seconds
        self.queues: list[str] = []
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="heartbeat", daemon=True)
        #: When the thread last began to write a heartbeat, by the monotonic clock.
        self.last_turn = time.monotonic()

    def start(self, *, queues: list[str]) -> None:
        self.queues = queues
        self._thread.start()

    def stop(self) -> None:
        """End the heartbeat and clear the row. Only for a process whose jobs have all ended."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def beat(self) -> None:
        """Raises `DatabaseUnavailable`."""
        self.database.rows(_HEARTBEAT, (self.worker_id, socket.gethostname(), os.getpid(), self.queues, self.threads))

    def leave(self) -> None:
        """Raises `DatabaseUnavailable`."""
        self.database.rows("DELETE FROM workers WHERE id = %s", (self.worker_id,))

    def _run(self) -> None:
        answered = True
        while True:
            self.last_turn = time.monotonic()
            try:
                self.beat()
                answered = True
            except Exception as error:  # noqa: BLE001 - without it every job of this process is taken for lost
                if answered:
                    log.warning("Heartbeat not written", error=str(error).strip())
                answered = False
            if self._stopping.wait(self.heartbeat_seconds if answered else self.heartbeat_seconds / 5):
                break
        self._leave_quietly()

    def _leave_quietly(self) -> None:
        try:
            self.leave()
        except Exception as error:  # noqa: BLE001 - the process ends either way
            log.warning("Worker row left behind; the rescuer clears it", error=str(error))
        finally:
            self.database.discard()
