"""Fault 7: a worker is told to stop under load, with jobs that are longer than it may wait, and told twice."""

import signal

import pytest
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
    assert worker.stop(seconds=60) == 0
    left = stack.sql("SELECT id::text, status, attempts FROM jobs WHERE finished_at IS NULL")
    assert all((status, attempts) == ("pending", 0) for _, status, attempts in left)
    stack.service.start_worker(WORKER_PROCESSES="2")
    stack.settle()

    assert stack.values(jobs, "attempts") == {1}


def test_an_idle_worker_stops_before_its_waits_end(stack):
    waits = {"dramatiq_worker_timeout": "500000", "WORKER_SHUTDOWN_SECONDS": "500", "STOP_GRACE_SECONDS": "600"}
    worker = stack.start(**waits)
    jobs = [stack.submit()]
    stack.until_ended(jobs)

    stack.strike()
    assert worker.stop(seconds=60) == 0

    assert stack.values(jobs, "attempts") == {1}
    stack.service.start_worker()


def test_a_stop_gives_back_what_it_could_not_finish(stack, tmp_path):
    worker = stack.start(WORKER_SHUTDOWN_SECONDS="8.5")
    started, go = tmp_path / "started", tmp_path / "go"
    job_id = stack.submit("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(started.exists, what="a running job")

    stack.strike()
    assert worker.stop(seconds=60) == 0

    job = stack.job(job_id)
    assert (job["status"], job["attempts"], job["history"]) == ("pending", 0, [])
    go.touch()
    stack.service.start_worker()
    stack.settle()
    assert stack.job(job_id)["attempts"] == 1


def test_an_interrupted_job_that_had_its_effect_is_told_as_unknown(stack):
    worker = stack.start(WORKER_SHUTDOWN_SECONDS="8.5")
    job_id = stack.submit(payload={"seconds": 40})
    held = stack.submit(payload={"seconds": 40}, on_ambiguous="hold")
    eventually(lambda: stack.effects()[job_id] and stack.effects()[held], what="running jobs")

    stack.strike()
    assert worker.stop(seconds=60) == 0

    assert [(entry["attempt"], entry["ambiguous"]) for entry in stack.job(job_id)["history"]] == [(1, True)]
    assert stack.job(held)["end_reason"] == "ambiguous"
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
    job = stack.job(job_id)
    assert (job["attempts"], job["worker_losses"]) == (1, 1)


def running_jobs(stack, folder, count):
    """Start jobs that wait for a file, and return their ids and that file."""
    go = folder / f"go-{count}"
    started = [folder / f"started-{count}-{number}" for number in range(count)]
    jobs = [stack.submit("test-wait-for-file", {"started": str(path), "go": str(go)}) for path in started]
    eventually(lambda: all(path.exists() for path in started), what="running jobs")
    return jobs, go


def states(stack, job_ids):
    return stack.values(job_ids, "status", "attempts", "worker_losses", "jsonb_array_length(history)")


def test_work_that_was_done_gets_its_verdict_from_a_database_that_comes_back_late(
    stack, postgres_proxy, own_valkey, tmp_path
):
    """It is away from before the stop until the worker's patience is over."""
    worker = stack.start(WORKER_THREADS="6", WORKER_SHUTDOWN_SECONDS="8.5", STOP_GRACE_SECONDS="80")
    done, go = running_jobs(stack, tmp_path, 3)
    interrupted, _ = running_jobs(stack, tmp_path, 2)
    begun = stack.submit(payload={"seconds": 50}, on_ambiguous="hold")
    eventually(lambda: stack.effects()[begun], what="an effect that has begun")

    stack.strike()
    postgres_proxy.down()
    worker.send(signal.SIGTERM)
    go.touch()
    # The last thing that Dramatiq does with its patience: its consumers leave.
    eventually(lambda: not is_listened_to(own_valkey), what="the end of the worker's patience")
    postgres_proxy.heal()
    eventually(lambda: not worker.running, what="the end of the worker")

    assert states(stack, done) == {("completed", 1, 0, 0)}
    assert states(stack, interrupted) == {("pending", 0, 0, 0)}
    assert stack.job(begun)["end_reason"] == "ambiguous"
    assert stack.job(begun)["history"][0]["ambiguous"] is True
    stack.sql("UPDATE jobs SET payload = jsonb_set(payload, '{go}', %s) RETURNING 1", (f'"{go}"',))
    stack.service.start_worker()


def is_listened_to(valkey):
    with valkey.client() as client:
        return any(other["cmd"] == "bzpopmin" for other in client.client_list())


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_reply_that_is_lost_during_a_stop_costs_no_job_an_attempt(stack, postgres_proxy, tmp_path, times):
    worker = stack.start(WORKER_SHUTDOWN_SECONDS="8.5", STOP_GRACE_SECONDS="80")
    jobs, go = running_jobs(stack, tmp_path, 4)

    stack.strike()
    postgres_proxy.lose_reply(b"SET status = 'pending', attempts = attempts - 1", times=times)
    assert worker.stop(seconds=60) == 0

    assert postgres_proxy.lost == times
    assert states(stack, jobs) == {("pending", 0, 0, 0)}
    told = [line["event"] for job_id in jobs for line in stack.service.lines(worker, job_id)]
    assert told.count("Job released") == 4
    go.touch()
    stack.service.start_worker()
