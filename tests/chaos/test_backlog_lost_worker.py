"""A worker process is killed while a long backlog waits: its jobs begin again in time, before what is younger."""

import os
import signal

import pytest
from eventually import eventually
from service import QUICK

from jobs_service import lifecycle
from jobs_service.config import Settings
from jobs_service.database import open_database
from jobs_service.ids import new_id
from jobs_service.lifecycle import NewJob

PROMISED_SECONDS = 30

#: Jobs of this length leave the threads of a worker free now and then; the quick ones keep maintenance as busy as can be.
SLOW, QUICK_JOBS = '{"seconds": 0.2}', "{}"


def write_backlog(stack, count, payload):
    database = open_database(Settings.from_env(stack.service.environ))
    for start in range(0, count, 5_000):
        jobs = [
            NewJob(id=new_id(), type="test-nothing", payload=payload, queue="default", priority=5, max_attempts=3)
            for _ in range(min(5_000, count - start))
        ]
        lifecycle.submit(database, jobs)
    database.rows("ANALYZE jobs")
    database.discard()


def kill_one(stack):
    """Kill a worker process that runs a job; return its jobs, and when that was by PostgreSQL's clock."""
    [(pid, worker_id)] = eventually(
        lambda: stack.sql(
            """SELECT pid, workers.id FROM jobs JOIN workers ON workers.id = worker_id
            WHERE status = 'processing' AND type = 'test-effect' LIMIT 1"""
        ),
        what="a running job",
    )
    stack.strike()
    os.kill(pid, signal.SIGKILL)
    sql = "SELECT jobs.id FROM jobs WHERE status = 'processing' AND worker_id = %s"
    return [job_id for (job_id,) in stack.sql(sql, (worker_id,))]


def seconds_to_the_next_begin(stack, job_ids):
    """Wait until each of the jobs has begun once more; return the seconds from the kill to the last of these begins."""
    sql = """SELECT count(*), max(extract(epoch FROM started_at - %s))::float8 FROM jobs
    WHERE id = ANY(%s::uuid[]) AND crashes > 0 AND (attempts > 1 OR status IN ('processing', 'completed'))"""

    def begun():
        [(count, seconds)] = stack.sql(sql, (stack.struck_at, job_ids))
        return seconds if count == len(job_ids) else None

    return eventually(begun, seconds=240, what="the next attempts")


def lose_a_worker_behind(stack, count, payload, *, processes):
    # In line before the backlog, and running until its process is killed.
    lasting = [stack.submit(payload={"seconds": 40}) for _ in range(2)]
    eventually(lambda: all(stack.effects()[job_id] for job_id in lasting), what="running jobs")
    write_backlog(stack, count, payload)
    eventually(
        lambda: stack.sql("SELECT count(*) > 100 FROM jobs WHERE status = 'completed'")[0][0],
        seconds=120,
        what=f"{processes} processes at work on the backlog",
    )
    lost = kill_one(stack)
    assert lost
    seconds = seconds_to_the_next_begin(stack, lost)
    waiting = stack.sql("SELECT count(*) FROM jobs WHERE status = 'pending'")[0][0]
    # The point is made.
    stack.sql("DELETE FROM jobs WHERE status = 'pending' RETURNING 1")
    stack.sql("UPDATE jobs SET payload = '{}' WHERE status = 'processing' RETURNING 1")
    return seconds, waiting
