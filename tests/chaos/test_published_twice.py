"""Fault 3: messages come many times, early, late, in other words, and for jobs that nobody knows."""

import uuid

from eventually import eventually

from jobs_service.broker.redis import message_for
from jobs_service.ids import new_id


def publish(stack, job_id, *, priority=5, message_id=None):
    message = message_for(uuid.UUID(job_id), "test-effect", "default", priority)
    # Another member of the sorted set, so that it is not the same message once more.
    changed = message.copy(message_id=message_id or message.message_id)
    with stack.redis() as client:
        client.zadd("jobs:queue:{default}", {changed.encode(): 0})


def is_silent(stack):
    with stack.redis() as client:
        return client.zcard("jobs:queue:{default}") == 0


def test_a_job_runs_once_however_often_it_is_published(stack):
    stack.start(workers=2)
    stack.strike()
    jobs = [stack.submit(payload={"seconds": 0.3}) for _ in range(4)]

    for number in range(5):
        for job_id in jobs:
            publish(stack, job_id, priority=number, message_id=str(uuid.uuid4()))
    stack.settle()
    for job_id in jobs:
        publish(stack, job_id)
    eventually(lambda: is_silent(stack), what="an empty queue")

    assert [stack.job(job_id)["attempts"] for job_id in jobs] == [1] * 4


def test_a_job_that_is_not_due_is_not_run_by_its_message(stack):
    stack.start()
    stack.strike()
    job_id = stack.submit(delay_seconds=1)

    for _ in range(5):
        publish(stack, job_id)
        eventually(lambda: is_silent(stack), what="an empty queue")
    stack.settle()

    assert stack.sql("SELECT started_at >= run_at FROM jobs") == [(True,)]


def test_a_message_for_no_job_harms_nobody(stack):
    stack.start()
    stack.strike()
    for _ in range(5):
        publish(stack, str(new_id()))

    stack.submit_load(8)
    stack.settle()

    assert set(stack.effects()) <= set(stack.accepted)
