"""Rows as the service would have written them, for tests that call its parts directly."""

from uuid import UUID

from jobs_service import lifecycle
from jobs_service.lifecycle import Ask
from jobs_service.liveness import Liveness
from jobs_service.maintenance.rescuer import Rescuer
from jobs_service.maintenance.service import Turn


def claim_one(database, job_id, worker_id, **token):
    [claim] = lifecycle.claim(database, [Ask(job_id, worker_id, **token)])
    return claim


def complete_one(database, claim, result):
    [completed] = lifecycle.complete(database, [(claim, result)])
    return completed


def add_worker(database, worker_id, *, silent_seconds=0):
    database.rows(
        """INSERT INTO workers (id, hostname, pid, queues, threads, heartbeat_at)
        VALUES (%s, 'test', 1, '{default}', 8, now() - %s * interval '1 second')""",
        (worker_id, silent_seconds),
    )


class Hands:
    """A clock that tests move on."""

    def __init__(self):
        self.seconds = 1_000.0

    def __call__(self):
        return self.seconds

    def move_on(self, seconds):
        self.seconds += seconds


class Sweeps:
    """A rescuer with a lease of 15 s and a heartbeat every 5 s, on a clock that the test moves on."""

    def __init__(self, database, dead_letters):
        self.clock = Hands()
        self.liveness = Liveness(lease_seconds=15, heartbeat_seconds=5, clock=self.clock)
        self.rowless = Liveness(lease_seconds=15, heartbeat_seconds=5, clock=self.clock)
        self.rescuer = Rescuer(database, dead_letters, interval_seconds=5, liveness=self.liveness, rowless=self.rowless)

    def sweep(self, turn=None):
        return self.rescuer.run_once(turn or Turn())["rescued"]

    def rowless_is_silent(self):
        """Have the worker UUID(int=1), which has no row, be silent already."""
        for _ in range(4):
            self.rowless.look({UUID(int=1): None})
            self.clock.move_on(5)

    def sweep_until_silent(self):
        """Sweep until whoever does not beat has been silent for a lease; return what the last sweep rescued."""
        rescued = [self.sweep()]
        for _ in range(3):
            self.clock.move_on(5)
            rescued.append(self.sweep())
        assert rescued[:3] == [0, 0, 0]
        return rescued[3]
