"""Fault 18: a job that kills its process at every attempt, in each way there is, among healthy neighbours."""

import pytest
from eventually import eventually


@pytest.mark.parametrize("how", ["kill", "exit", "segfault", "abort"])
def test_a_job_that_kills_its_process_is_poison_and_its_neighbours_are_not(stack, how):
    stack.start(workers=2)
    neighbours = [stack.submit(payload={"seconds": 0.2}, max_attempts=4) for _ in range(10)]
    stack.strike()
    poison = stack.submit("test-die", {"how": how}, max_attempts=10)
    neighbours += [stack.submit(payload={"seconds": 0.2}, max_attempts=4) for _ in range(10)]

    stack.settle()

    job = stack.job(poison)
    # Only the two that it had a process to itself for are known to be its own fault.
    assert (job["end_reason"], job["attempts"], job["worker_losses"]) == ("poison", 2, 3)
    assert stack.values(neighbours, "status") == {"completed"}
    # Once in bad company: after that the suspects run alone.
    assert max(stack.values(neighbours, "worker_losses")) <= 1


@pytest.mark.parametrize(("how", "error"), [("memory", "MemoryError"), ("recursion", "RecursionError")])
def test_a_job_that_asks_for_too_much_fails_alone(stack, how, error):
    worker = stack.start()
    pids = stack.serving_pids(worker)
    stack.strike()
    greedy = stack.submit("test-die", {"how": how}, max_attempts=2)
    stack.submit_load(8)

    stack.settle()

    assert stack.errors(greedy) == [error] * 2
    assert stack.worker_pids(worker) == pids


def test_several_poison_jobs_stop_nobody_for_long(stack):
    stack.start(workers=2)
    stack.strike()
    poison = [stack.submit("test-die", {"how": "kill"}, max_attempts=10) for _ in range(2)]
    jobs = [stack.submit() for _ in range(10)]

    eventually(lambda: all(stack.job(job_id)["finished_at"] for job_id in jobs), what="done neighbours")
    stack.settle()

    assert stack.values(poison, "end_reason") == {"poison"}
    assert stack.values(jobs, "status") == {"completed"}
