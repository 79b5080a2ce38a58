"""PostgreSQL's clock is set by an hour while jobs run: nobody alive loses a job, and nobody dead keeps one."""

import json
import os
import signal

import pytest
from eventually import eventually
from faketime import ClockedPostgres, needs_faketime

pytestmark = needs_faketime

HOUR = 3_600


@pytest.fixture
def clocked_postgres(stack):
    return stack.start_own_postgres(kind=ClockedPostgres)


def running(stack, tmp_path, name):
    """Submit a job that waits for a file, and return its id and the file once it runs."""
    started, go = tmp_path / f"{name}.started", tmp_path / f"{name}.go"
    job_id = stack.submit("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(started.exists, what="a running job")
    return job_id, go


def beats(stack):
    return dict(stack.sql("SELECT id, beats FROM workers"))


def until_all_have_beaten(stack, times):
    before = beats(stack)
    eventually(
        lambda: all(count >= before[worker] + times for worker, count in beats(stack).items()), what="heartbeats"
    )


def steps(stack):
    return stack.service.metrics().get("jobs_database_clock_steps_total", 0)


def told(stack, worker):
    """Return the steps, in seconds, that the log tells of."""
    lines = [json.loads(line) for line in stack.service.log(worker).splitlines() if "clock was set" in line]
    return [line["seconds"] for line in lines]


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_step_takes_no_job_from_a_living_worker_and_is_told(stack, clocked_postgres, tmp_path, seconds):
    worker = stack.start(workers=2)
    jobs = [running(stack, tmp_path, f"job{number}") for number in range(6)]
    until_all_have_beaten(stack, 2)

    clocked_postgres.set_clock(seconds)

    eventually(lambda: steps(stack) >= 1, what="a step that was counted")
    # Twice the time in which a silent worker loses its jobs.
    until_all_have_beaten(stack, 10)
    assert seconds == pytest.approx(told(stack, worker)[0], abs=60)
    for _, go in jobs:
        go.touch()
    stack.settle()
    assert stack.values([job_id for job_id, _ in jobs], "attempts", "worker_losses") == {(1, 0)}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_killed_workers_job_runs_again_in_time_whatever_the_clock_does(stack, clocked_postgres, tmp_path, seconds):
    stack.start(workers=2)
    job_id, go = running(stack, tmp_path, "job")
    pid = stack.pid_of(job_id)

    clocked_postgres.set_clock(seconds)
    os.kill(pid, signal.SIGKILL)
    go.touch()

    # Far sooner than the clock is back where it was.
    stack.settle()
    assert stack.job(job_id)["worker_losses"] == 1


def test_leadership_goes_on_through_steps(stack, clocked_postgres):
    stack.start(workers=2)
    for seconds in (HOUR, 0, -HOUR, 0):
        clocked_postgres.set_clock(seconds)
        late = stack.submit(delay_seconds=0.5)
        stack.until_ended([late])
    held = "SELECT count(*) FROM leases JOIN workers ON workers.id = holder WHERE expires_at > clock_timestamp()"
    eventually(lambda: stack.sql(held) == [(1,)], what="one leader")
