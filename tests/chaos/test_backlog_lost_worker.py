"""A worker process is killed while a long backlog waits: its jobs begin again in time, before what is younger."""

import os
import signal

import pytest
from eventually import eventually
from rows import write_backlog
from samples import new_job
from service import QUICK

from jobs_service.config import Settings

PROMISED_SECONDS = 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "payload"),
    [
        pytest.param(2, '{"seconds": 0.2}', id="two processes"),
        # As busy as maintenance can be: the window is drained as fast as it is filled.
        pytest.param(4, "{}", id="four processes, quick jobs"),
    ],
)
def test_a_lost_workers_jobs_run_again_within_half_a_minute(stack, processes, payload):
    for name in QUICK:
        del stack.service.environ[name]

    seconds, waiting = lose_a_worker(stack, 150_000, payload, processes=processes)

    assert waiting > 10_000
    assert seconds < PROMISED_SECONDS


def test_a_lost_workers_jobs_go_before_what_is_younger(stack):
    _, waiting = lose_a_worker(stack, 5_000, '{"seconds": 0.2}', processes=2)

    assert waiting > 2_500


def lose_a_worker(stack, count, payload, *, processes):
    """Kill one of the processes at work on a backlog.

    Returns the seconds until all of its jobs have begun again, and how many jobs were waiting then.
    """
    stack.start(workers=processes)
    lasting = [stack.submit(payload={"seconds": 40}) for _ in range(2)]
    eventually(lambda: all(stack.effects()[job_id] for job_id in lasting), what="running jobs")
    # For the attempts after the kill.
    stack.sql("UPDATE jobs SET payload = '{}' RETURNING 1")
    backlog = [new_job(type="test-effect", payload=payload) for _ in range(count)]
    write_backlog(Settings.from_env(stack.service.environ), backlog)
    eventually(lambda: stack.sql("SELECT count(*) > 100 FROM jobs WHERE status = 'completed'")[0][0], what="work")
    worker_id, lost = kill_the_process_of(stack, lasting[0])
    seconds = eventually(
        lambda: seconds_to_the_next_begin(stack, worker_id, lost), seconds=240, what="the next attempts"
    )
    [(waiting,)] = stack.sql("SELECT count(*) FROM jobs WHERE status = 'pending'")
    eventually(lambda: is_quiet(stack), seconds=60, what="quiet")
    return seconds, waiting


def is_quiet(stack):
    """Delete what waits, for the point is made, and tell whether nothing runs any more."""
    waiting = "SELECT id FROM jobs WHERE status = 'pending' ORDER BY id FOR UPDATE SKIP LOCKED"
    stack.sql(f"DELETE FROM jobs WHERE id IN ({waiting}) RETURNING 1")
    return not stack.sql("SELECT FROM jobs WHERE finished_at IS NULL LIMIT 1")


def kill_the_process_of(stack, job_id):
    """Return its worker id and the jobs that were lost with it."""
    pid, worker_id = stack.pid_of(job_id), stack.job(job_id)["worker_id"]
    stack.strike()
    os.kill(pid, signal.SIGKILL)
    sql = "SELECT id::text FROM jobs WHERE status = 'processing' AND worker_id = %s"
    return worker_id, [job_id for (job_id,) in stack.sql(sql, (worker_id,))]


def seconds_to_the_next_begin(stack, worker_id, job_ids):
    """Return the seconds from the kill to the last of the next attempts' begins, once all have begun.

    PostgreSQL may still have completed some of the jobs for the killed process.
    """
    sql = """SELECT count(*) FILTER (WHERE status = 'pending' OR (status = 'processing' AND worker_id = %s)),
    max(extract(epoch FROM started_at - %s)) FILTER (WHERE worker_id <> %s)::float8
    FROM jobs WHERE id = ANY(%s::uuid[])"""
    [(waiting, seconds)] = stack.sql(sql, (worker_id, stack.struck_at, worker_id, job_ids))
    return None if waiting else seconds
