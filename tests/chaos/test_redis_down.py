"""Fault 9: Redis is killed and stays away for a while, with nothing on its disk, while jobs run and fail."""

from eventually import eventually


def test_jobs_are_accepted_and_run_to_their_verdicts_while_redis_is_away(stack, own_valkey):
    stack.start()
    with stack.no_process_ends():
        running = [stack.submit(payload={"seconds": 0.5}) for _ in range(4)]
        failing = stack.submit(payload={"seconds": 0.2, "fail_times": 1})
        eventually(lambda: all(stack.effects()[job_id] for job_id in running), what="running jobs")
        stack.submit_load(16)

        stack.strike()
        own_valkey.kill()

        # Committed is accepted, at once.
        assert None not in [stack.submit() for _ in range(16)]
        assert "degraded" == stack.service.get("/readyz")[1]["status"]
        eventually(lambda: {"completed"} == stack.values(running, "status"), what="verdicts")
        own_valkey.start()
        stack.settle()
        assert 2 == stack.job(failing)["attempts"]


def test_a_redis_that_comes_and_goes_costs_nobody_a_job(stack, own_valkey):
    stack.start()
    with stack.no_process_ends():
        stack.strike()
        for _ in range(3):
            stack.submit_load(8)
            own_valkey.kill()
            stack.submit_load(8)
            own_valkey.start()
        stack.settle()
