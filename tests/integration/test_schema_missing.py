"""A verdict that meets a missing table waits for it, and not for ever: then the process has to go."""

import signal
import threading

import pytest
from dramatiq.broker import MessageProxy
from eventually import eventually
from rows import claim_one

from jobs_service.broker.redis import message_for
from jobs_service.worker import database_wait
from jobs_service.worker.attempt import ATTEMPT_ARGUMENT, RunningAttempt


@pytest.fixture
def sync(lifecycle_sync):
    lifecycle_sync.completions.start()
    return lifecycle_sync


@pytest.fixture
def running(sync, database, submit, worker_id):
    """An attempt whose function has returned."""
    running = RunningAttempt(claim_one(database, submit(), worker_id))
    sync.attempts.add(running)
    sync.attempts.begin(running)
    running.result = "1"
    return running


@pytest.fixture
def signals():
    received = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: received.append(signum))
    yield received
    signal.signal(signal.SIGTERM, before)


def settle(sync, running):
    claim = running.claim
    message = MessageProxy(message_for(claim.job_id, claim.type, claim.queue, 5))
    message.kwargs[ATTEMPT_ARGUMENT] = running
    sync.after_process_message(None, message)


def test_a_verdict_waits_for_a_table_that_comes_back(sync, running, signals, database, row):
    database.rows("ALTER TABLE jobs RENAME TO jobs_elsewhere")
    answer, asked = database.rows, threading.Event()

    def rows(*statement, **options):
        try:
            return answer(*statement, **options)
        finally:
            asked.set()

    database.rows = rows
    restore = threading.Thread(target=lambda: (asked.wait(), answer("ALTER TABLE jobs_elsewhere RENAME TO jobs")))
    restore.start()

    settle(sync, running)

    restore.join()
    eventually(lambda: row(running.claim.job_id, "status") == "completed", what="the verdict")
    assert not signals


def test_a_process_whose_verdicts_find_no_table_for_too_long_ends(sync, running, signals, row, monkeypatch):
    monkeypatch.setattr(database_wait, "SCHEMA_PATIENCE_SECONDS", 0.0)
    sync.claims.database.rows("ALTER TABLE jobs RENAME COLUMN result TO outcome")

    settle(sync, running)

    eventually(lambda: signals, what="a signal to stop")
    eventually(lambda: not list(sync.attempts), what="an attempt that nothing settles any more")
    sync.claims.database.rows("ALTER TABLE jobs RENAME COLUMN outcome TO result")
    # With its worker, for the rescuer to take back.
    assert row(running.claim.job_id, "status") == "processing"
