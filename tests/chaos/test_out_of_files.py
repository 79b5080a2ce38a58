"""A fault of our own: a process can open no further file, for a while or because a job or clients have them all."""

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

from eventually import eventually

from devstack.processes import descendants

CSV_JOB = ("csv-generation", {"name": "Alice", "score": 95})


def test_a_worker_that_can_open_nothing_is_replaced_and_fails_no_job_for_it(stack, tmp_path):
    worker = stack.start()
    pids = stack.serving_pids(worker)
    started, go = tmp_path / "started", tmp_path / "go"
    running = stack.submit("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(started.exists, what="a running job")

    stack.strike()
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))
    jobs = [stack.submit(*CSV_JOB) for _ in range(8)]
    eventually(lambda: "This process stops and is replaced" in stack.service.log(worker), what="a process that stops")
    go.touch()
    stack.settle()

    assert stack.values(jobs, "status") == {"completed"}
    assert stack.row(running, "status", "attempts") == ("completed", 1)
    # What had begun when the last descriptor was gone was isolated for it, and nothing else.
    assert {entry["error"] for job_id in jobs for entry in stack.job(job_id)["history"]} <= {"WorkerLost"}
    assert max(stack.values(jobs, "worker_losses")) <= 1
    eventually(lambda: stack.worker_pids(worker) and not {*pids} & {*stack.worker_pids(worker)}, what="another process")


def test_a_job_that_leaks_descriptors_fails_alone(stack):
    worker = stack.start()
    pids = stack.serving_pids(worker)

    stack.strike()
    innocent = [stack.submit(*CSV_JOB) for _ in range(8)]
    leaking = stack.submit("test-leak", {}, max_attempts=2)
    innocent += [stack.submit(*CSV_JOB) for _ in range(16)]
    stack.settle()

    assert stack.values(innocent, "status") == {"completed"}
    assert max(stack.values(innocent, "worker_losses")) <= 1
    # First among the others, which counts against the process; then alone, which counts against the job.
    job = stack.job(leaking)
    errors = [entry["error"] for entry in job["history"]]
    assert (job["status"], errors) == ("failed", ["WorkerLost", "OSError", "OSError"])
    eventually(lambda: stack.worker_pids(worker) and not {*pids} & {*stack.worker_pids(worker)}, what="another process")


def test_an_api_that_can_open_nothing_has_fewer_clients_from_then_on(stack):
    api = stack.service.start_api()
    assert stack.submit()
    [pid] = descendants(api.pid)
    stack.strike()
    highest = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 40, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))

    with ExitStack() as idle:
        for _ in range(120):
            idle.enter_context(socket.create_connection(("127.0.0.1", stack.service.api_port), timeout=30))
        eventually(lambda: "No more files can be opened" in stack.service.log(api), what="a lower limit")
        for _ in range(5):
            assert stack.submit()
    assert [pid] == descendants(api.pid)
    stack.service.start_worker()
