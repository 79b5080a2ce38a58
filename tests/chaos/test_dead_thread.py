"""A thread of a worker process has died: the process is replaced, and none of its jobs is done twice for that."""

import pytest
from eventually import eventually

OURS = ["heartbeat", "maintenance", "sampler", "time limits", "settler", "consumer of default", "watchdog"]


@pytest.mark.parametrize("name", OURS)
def test_a_process_with_a_dead_thread_is_replaced(stack, name):
    """With one process: retries and jobs for later have to go on."""
    worker = stack.start()
    pids = stack.serving_pids(worker)

    stack.strike()
    jobs = [stack.submit(payload={"fail_times": 1}), stack.submit(delay_seconds=1)]
    ending = stack.submit("test-end-thread", {"name": name}, max_attempts=1)
    eventually(lambda: stack.worker_pids(worker) and not {*pids} & {*stack.worker_pids(worker)}, what="another process")
    jobs.append(stack.submit(payload={"fail_times": 1}))
    stack.settle()

    assert stack.values([*jobs, ending], "status") == {"completed"}


def test_a_job_whose_heartbeat_died_is_not_done_twice(stack, tmp_path):
    """It runs for much longer than a lease lasts, and the process waits for it."""
    # On a busy machine a heartbeat may be a second late, and a job that was taken back for that takes longer.
    stack.service.environ |= {"LEASE_SECONDS": "3", "WORKER_SHUTDOWN_SECONDS": "25"}
    worker = stack.start(workers=2)
    stack.serving_pids(worker)
    started, go = tmp_path / "started", tmp_path / "go"

    stack.strike()
    stack.submit("test-end-thread", {"name": "heartbeat"}, max_attempts=1)
    running = [stack.submit(payload={"seconds": 7}, max_attempts=1) for _ in range(8)]
    waiting = stack.submit("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(lambda: "the thread has died: heartbeat" in stack.service.log(worker), what="a process that stops")
    stack.until_ended(running)
    go.touch()
    stack.settle()

    assert max(stack.effects().values()) == 1
    ended = [stack.job(job_id) for job_id in [*running, waiting]]
    assert [] == [(job["end_reason"], job["history"]) for job in ended if job["status"] != "completed"]
