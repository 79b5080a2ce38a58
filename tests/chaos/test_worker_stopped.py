"""Fault 7: a worker is told to stop under load, with jobs that are longer than it may wait, and told twice."""

import signal

from eventually import eventually


def is_running_some(stack):
    return stack.sql("SELECT count(*) FROM jobs WHERE status = 'processing'")[0][0] > 0


def is_led(stack):
    """Tell whether some process holds the lease of the leader, which gives it up as the first thing when it stops."""
    return stack.sql("SELECT count(*) FROM leases WHERE expires_at > '-infinity'")[0][0] > 0


def test_a_stop_under_load_costs_no_job_an_attempt(stack):
    worker = stack.start(workers=2)
    jobs = [stack.submit(payload={"seconds": 0.1}) for _ in range(40)]
    eventually(lambda: is_running_some(stack), what="work in progress")

    stack.strike()
    assert worker.stop(seconds=20) == 0
    left = stack.sql("SELECT id::text, status, attempts FROM jobs WHERE finished_at IS NULL")
    assert all((status, attempts) == ("pending", 0) for _, status, attempts in left)
    stack.service.start_worker(WORKER_PROCESSES="2")
    stack.settle()

    assert {stack.job(job_id)["attempts"] for job_id in jobs} == {1}


def test_a_stop_gives_back_what_it_could_not_finish(stack, tmp_path):
    worker = stack.start(WORKER_SHUTDOWN_SECONDS="8.5")
    started, go = tmp_path / "started", tmp_path / "go"
    job_id = stack.submit("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(started.exists, what="a running job")

    stack.strike()
    assert worker.stop(seconds=20) == 0

    job = stack.job(job_id)
    assert (job["status"], job["attempts"], job["history"]) == ("pending", 0, [])
    go.touch()
    stack.service.start_worker()
    stack.settle()
    assert stack.job(job_id)["attempts"] == 1


def test_an_interrupted_job_that_had_its_effect_is_told_as_unknown(stack):
    worker = stack.start(WORKER_SHUTDOWN_SECONDS="8.5")
    job_id = stack.submit(payload={"seconds": 11})
    held = stack.submit(payload={"seconds": 11}, on_ambiguous="hold")
    eventually(lambda: stack.effects()[job_id] and stack.effects()[held], what="running jobs")

    stack.strike()
    assert worker.stop(seconds=20) == 0

    assert [(entry["attempt"], entry["ambiguous"]) for entry in stack.job(job_id)["history"]] == [(1, True)]
    assert stack.job(held)["dead_reason"] == "ambiguous"
    stack.sql("UPDATE jobs SET payload = '{}' WHERE status = 'pending' RETURNING 1")
    stack.service.start_worker()
    stack.settle()
    assert stack.effects() == {job_id: 2, held: 1}


def test_a_second_signal_does_not_wait(stack, tmp_path):
    worker = stack.start(WORKER_SHUTDOWN_SECONDS="60", STOP_GRACE_SECONDS="70")
    started, go = tmp_path / "started", tmp_path / "go"
    job_id = stack.submit("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(lambda: started.exists() and is_led(stack), what="a leader with a job")

    stack.strike()
    worker.send(signal.SIGTERM)
    eventually(lambda: not is_led(stack), what="a worker that has begun to stop")
    worker.send(signal.SIGTERM)
    eventually(lambda: not worker.running, what="the end of the worker")

    go.touch()
    stack.service.start_worker()
    stack.settle()
    assert stack.job(job_id)["attempts"] == 2
