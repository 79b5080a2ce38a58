"""Short forms of the service's verbs, for tests that call its parts directly on a real database."""

from jobs_service.database.connection import open_database
from jobs_service.jobs import lifecycle
from jobs_service.jobs.lifecycle import ClaimRequest, Status
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.pruner import Pruner
from jobs_service.maintenance.rescuer import Rescuer
from jobs_service.maintenance.service import Turn


def claim_one(database, job_id, worker_id, **token):
    [claim] = lifecycle.claim(database, [ClaimRequest(job_id, worker_id, **token)])
    return claim


def complete_one(database, claim, result):
    [completed] = lifecycle.complete(database, [(claim, result)])
    return completed


def release_one(database, claim):
    [released] = lifecycle.release(database, [claim])
    return released


def rescue(database, *worker_ids):
    """Rescue the jobs of these workers, as if none of them sent a further heartbeat."""
    beats = dict(database.rows("SELECT id, beats FROM workers"))
    return lifecycle.rescue(database, {worker_id: beats.get(worker_id) for worker_id in worker_ids})


def add_worker(database, worker_id, *, silent_seconds=0):
    database.rows(
        """INSERT INTO workers (id, hostname, pid, queues, threads, heartbeat_at)
        VALUES (%s, 'test', 1, '{default}', 8, now() - %s * interval '1 second')""",
        (worker_id, silent_seconds),
    )


def pruner(database, outputs, **retention_days):
    """Return a pruner that keeps the jobs of each status for this many days."""
    seconds = {Status(status): days * 86_400 for status, days in retention_days.items()}
    return Pruner(database, outputs, interval_seconds=1, retention_seconds=seconds)


def insert_by_hand(database, job_id, *, type="csv-generation", payload="{}"):  # noqa: A002 - the column's name
    """Insert a job as a person with psql does, who knows only the first four columns."""
    database.rows(
        "INSERT INTO jobs (id, type, status, payload) VALUES (%s, %s, 'pending', %s)", (job_id, type, payload)
    )


def write_backlog(settings, jobs):
    """Submit many jobs in few statements, without messages in Redis, and return their ids."""
    database = open_database(settings)
    for start in range(0, len(jobs), 5_000):
        lifecycle.submit(database, jobs[start : start + 5_000])
    database.discard()
    return [job.id for job in jobs]


class ManualClock:
    """A monotonic clock that stands still until a test advances it."""

    def __init__(self):
        self.seconds = 1_000.0

    def __call__(self):
        return self.seconds

    def advance(self, seconds):
        self.seconds += seconds


class Sweeps:
    """A rescuer with a lease of 15 s and a heartbeat every 5 s, on a clock that the test advances."""

    def __init__(self, database, dead_letters):
        self.clock = ManualClock()
        self.liveness = Liveness(lease_seconds=15, heartbeat_interval_seconds=5, clock=self.clock)
        self.rowless = Liveness(lease_seconds=15, heartbeat_interval_seconds=5, clock=self.clock)
        self.rescuer = Rescuer(database, dead_letters, interval_seconds=5, liveness=self.liveness, rowless=self.rowless)

    def sweep(self, turn=None):
        return self.rescuer.run_once(turn or Turn())["rescued"]

    def rowless_is_silent(self, worker_id):
        """Let a lease pass without a heartbeat of a worker that has no row."""
        for _ in range(4):
            self.rowless.look({worker_id: None})
            self.clock.advance(5)

    def sweep_until_silent(self):
        """Sweep until workers without a heartbeat have been silent for a lease. Return what the last sweep rescued."""
        rescued = [self.sweep()]
        for _ in range(3):
            self.clock.advance(5)
            rescued.append(self.sweep())
        assert rescued[:3] == [0, 0, 0]
        return rescued[3]
