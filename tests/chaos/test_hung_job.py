"""Fault 21: a job that does not end, in a loop of Python or blocked in C. Its neighbour goes on."""

from eventually import eventually


def test_a_loop_is_interrupted_by_its_time_limit_and_retried(stack):
    worker = stack.start()
    pids = stack.serving_pids(worker)
    stack.strike()
    job_id = stack.submit("test-loop", {}, max_attempts=2)
    stack.submit_load(8)

    stack.settle()

    assert stack.errors(job_id) == ["TimeLimitExceeded"] * 2
    assert stack.worker_pids(worker) == pids


def test_a_job_that_hangs_where_no_limit_reaches_it_costs_its_process_and_no_neighbour(stack, tmp_path):
    worker = stack.start()
    started, go = tmp_path / "started", tmp_path / "go"
    neighbour = stack.submit("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(started.exists, what="a running neighbour")

    stack.strike()
    hung = stack.submit("test-hang", {}, max_attempts=1)
    eventually(lambda: stack.job(hung)["finished_at"], what="the end of the hung job")
    go.touch()
    stack.settle()

    # With a process to itself its clock is one that it cannot hold up.
    assert stack.errors(hung) == ["WorkerLost", "TimeLimitExceeded"]
    assert "Attempts hang" in stack.service.log(worker)
    assert stack.job(neighbour)["attempts"] == 1


def test_hung_jobs_on_every_thread_leave_the_worker_working(stack):
    stack.start(WORKER_THREADS="2")
    stack.strike()
    hung = [stack.submit("test-hang", {}, max_attempts=1) for _ in range(2)]
    stack.submit_load(8)

    stack.settle()

    assert stack.values(hung, "status") == {"failed"}


def test_a_job_that_holds_pythons_lock_costs_its_process_and_the_others_go_on(stack):
    worker = stack.start(workers=2)
    before = stack.serving_pids(worker)
    stack.strike()
    held = stack.submit("test-hold-the-lock", {}, max_attempts=1)
    stack.submit_load(8)

    stack.settle()

    assert stack.errors(held) == ["WorkerLost", "TimeLimitExceeded"]
    eventually(lambda: set(before) - set(stack.worker_pids(worker)), what="a process that has ended")
    eventually(lambda: len(stack.worker_pids(worker)) == len(before), what="one in its place")
