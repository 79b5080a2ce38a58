"""A fault of our own: the leader is killed between two batches of an action on many, before it has told of it."""

from eventually import eventually

JOBS = 25


def test_the_next_leader_redrives_the_rest_and_no_member_twice(stack):
    """Each job fails again when it is redriven, so one that were moved twice would have failed three times."""
    stack.service.start_api()
    orders = {"FAILPOINTS": "bulk_actions.after_batch=kill once"}
    stack.service.start_worker(WORKER_PROCESSES="2", **orders)
    job_ids = [stack.submit(payload={"rejected": True}) for _ in range(JOBS)]
    stack.settle()

    stack.strike()
    status, redrive = stack.service.request(
        "POST", "/dead-letters/redrives", {"filter": {"type": "test-effect"}, "rate_per_second": 50}
    )
    assert (202, JOBS) == (status, redrive["matched"])
    # It fails while the redrive runs: it is no member.
    late = stack.submit(payload={"rejected": True})

    eventually((stack.folder / "bulk_actions.after_batch").exists, what="a killed leader")
    path = f"/dead-letters/redrives/{redrive['id']}"
    eventually(lambda: stack.service.get(path)[1]["state"] == "completed", what="the end of the redrive")
    redrive = stack.service.get(path)[1]
    assert (JOBS, 0) == (redrive["moved"], redrive["skipped"])
    eventually(lambda: stack.values([*job_ids, late], "status") == {"failed"}, what="jobs that have failed again")
    # Attempts that were lost with the leader's process are not of this kind.
    assert {2} == {stack.errors(job_id).count("Rejected") for job_id in job_ids}
    assert 1 == stack.errors(late).count("Rejected")

    # The invariants are about jobs that were not redriven.
    for job_id in (*job_ids, late):
        assert 204 == stack.service.request("DELETE", f"/dead-letters/{job_id}")[0]
    stack.accepted.clear()


def test_the_next_leader_cancels_the_rest_and_nothing_that_came_later(stack):
    stack.service.start_api()
    stack.service.start_worker(WORKER_PROCESSES="2", FAILPOINTS="bulk_actions.after_batch=kill once")
    job_ids = [stack.submit(delay_seconds=3_600) for _ in range(JOBS)]

    stack.strike()
    status, action = stack.service.request(
        "POST", "/cancellations", {"filter": {"type": "test-effect"}, "reason": "twice", "rate_per_second": 50}
    )
    assert (202, JOBS) == (status, action["matched"])
    late = stack.submit()

    eventually((stack.folder / "bulk_actions.after_batch").exists, what="a killed leader")
    path = f"/cancellations/{action['id']}"
    eventually(lambda: stack.service.get(path)[1]["state"] == "completed", what="the end of the cancellation")
    action = stack.service.get(path)[1]
    assert (JOBS, 0) == (action["moved"], action["skipped"])
    assert {"cancelled"} == stack.values(job_ids, "status")
    assert {"twice"} == stack.values(job_ids, "cancel_reason")
    stack.service.when(late, "completed")
