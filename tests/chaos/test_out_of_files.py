"""A fault of our own: a worker process has no file descriptor left for a while."""

import resource

from eventually import eventually


def test_a_worker_without_file_descriptors_fails_attempts_and_recovers(stack):
    worker = stack.start()
    pids = stack.serving_pids(worker)
    before = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids]

    stack.strike()
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[0][1]))
    jobs = [stack.submit("csv-generation", {"name": "Alice", "score": 95}, max_attempts=100) for _ in range(4)]
    eventually(lambda: all(stack.job(job_id)["history"] for job_id in jobs), what="failed attempts")
    for pid, limits in zip(pids, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    stack.settle()

    assert {stack.job(job_id)["history"][0]["error"] for job_id in jobs} == {"OSError"}
    assert {stack.job(job_id)["status"] for job_id in jobs} == {"completed"}
    assert stack.worker_pids(worker) == pids
