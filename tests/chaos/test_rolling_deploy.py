"""Fault 22: the API knows a new job type and an old worker does not; it gets the messages too."""


def test_an_old_worker_buries_nothing_that_a_new_one_can_do(stack):
    stack.service.start_api()
    old = stack.service.start_worker(ACTOR_MODULES="trying")

    stack.strike()
    new_jobs = [stack.submit() for _ in range(8)]
    old_jobs = [stack.submit("csv-generation", {"name": "Alice", "score": 95}) for _ in range(8)]
    stack.until_ended(old_jobs)
    assert stack.values(new_jobs, "status") == {"pending"}

    # Both at once for a while, as in a deployment; then only the new one.
    stack.service.start_worker()
    stack.until_ended(new_jobs[:4])
    assert old.stop(seconds=60) == 0
    stack.settle()

    assert stack.values(new_jobs, "attempts") == {1}
    assert "No actor for this job type" in stack.service.log(old)


def test_a_job_whose_type_is_gone_from_the_new_api_is_still_done_by_an_old_worker(stack):
    api = stack.service.start_api()
    job_id = stack.submit()
    api.stop(seconds=60)
    stack.strike()

    stack.service.start_api(ACTOR_MODULES="trying")
    stack.service.start_worker()
    stack.settle()

    assert stack.job(job_id)["status"] == "completed"
