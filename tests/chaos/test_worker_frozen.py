"""Fault 6: a worker is frozen for longer than its lease, and wakes up while its successor is at work, or done."""

from eventually import eventually
from time_travel import HOUR, set_dates


def test_a_late_verdict_is_refused_and_counted(stack):
    frozen = stack.start()
    job_id = stack.submit(payload={"seconds": 5})
    eventually(lambda: stack.effects()[job_id], what="a running job")

    stack.strike()
    frozen.pause()
    stack.sql("UPDATE jobs SET payload = '{}' RETURNING 1")
    stack.service.start_worker()
    stack.settle()
    frozen.resume()

    job = stack.job(job_id)
    assert (job["status"], job["attempts"], job["worker_losses"]) == ("completed", 1, 1)
    # Its heartbeat may find the lease gone before its verdict does.
    late = [
        f'jobs_attempts_total{{actor_name="test-effect",outcome="{outcome}",queue_name="default"}}'
        for outcome in ("refused", "interrupted")
    ]
    eventually(lambda: sum(stack.service.metrics()[each] for each in late) == 1, what="an attempt without a verdict")
    assert stack.job(job_id) == job


def test_a_worker_frozen_before_its_effect_does_not_have_it_any_more(stack):
    """The hang stands for the freeze: between the claim and begin_effect the job was given to somebody else."""
    stack.start(FAILPOINTS="worker.after_claim=hang:4 once", HEARTBEAT_INTERVAL_SECONDS="0.2")
    job_id = stack.submit()
    eventually((stack.folder / "worker.after_claim").exists, what="a hanging claim")
    set_dates(stack.sql, "workers", heartbeat_at=-HOUR)
    set_dates(stack.sql, "jobs", started_at=-HOUR)
    stack.sql("UPDATE jobs SET worker_id = gen_random_uuid() RETURNING 1")

    stack.strike()
    stack.settle()

    assert stack.effects()[job_id] == 1
