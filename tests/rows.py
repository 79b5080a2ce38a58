"""Rows as the service would have written them, for tests that call its parts directly."""

from jobs_service import lifecycle
from jobs_service.lifecycle import Ask


def claim_one(database, job_id, worker_id, **token):
    [claim] = lifecycle.claim(database, [Ask(job_id, worker_id, **token)])
    return claim


def complete_one(database, claim, result):
    [completed] = lifecycle.complete(database, [(claim, result)])
    return completed


def release_one(database, claim):
    [released] = lifecycle.release(database, [claim])
    return released


def rescue(database, *worker_ids):
    """Rescue the jobs of these workers, which stand still at what they have beaten by now."""
    beats = dict(database.rows("SELECT id, beats FROM workers"))
    return lifecycle.rescue(database, {worker_id: beats.get(worker_id) for worker_id in worker_ids})


def add_worker(database, worker_id, *, silent_seconds=0):
    database.rows(
        """INSERT INTO workers (id, hostname, pid, queues, threads, heartbeat_at)
        VALUES (%s, 'test', 1, '{default}', 8, now() - %s * interval '1 second')""",
        (worker_id, silent_seconds),
    )
