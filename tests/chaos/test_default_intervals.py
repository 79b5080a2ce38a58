"""Fault 4 with the service's default intervals: how soon a killed worker's job runs again, as the README promises."""

import os
import signal

import pytest
from eventually import eventually
from service import QUICK

PROMISED_SECONDS = 30


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["one process", "everything", "everything, frozen"])
def test_a_lost_workers_job_runs_again_within_half_a_minute(stack, victim):
    for name in QUICK:
        del stack.service.environ[name]
    worker = stack.start(workers=2)
    job_id = stack.submit(payload={"seconds": 40})
    eventually(lambda: stack.effects()[job_id], what="a running job")
    pid = stack.pid_of(job_id)

    stack.strike()
    if victim == "everything":
        worker.kill()
        stack.service.start_worker(WORKER_PROCESSES="2")
    elif victim == "everything, frozen":
        worker.pause()
        stack.service.start_worker(WORKER_PROCESSES="2")
    else:
        os.kill(pid, signal.SIGKILL)
    stack.sql("UPDATE jobs SET payload = '{}' RETURNING 1")
    stack.settle(seconds=90)

    worker.resume()
    [(seconds,)] = stack.sql("SELECT extract(epoch FROM started_at - %s)::float8 FROM jobs", (stack.struck_at,))
    assert seconds < PROMISED_SECONDS
