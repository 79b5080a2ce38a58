"""PostgreSQL commits, and its reply is lost: the statement is sent again, and must not count again."""

import pytest
from eventually import eventually

#: What each statement of a job's way is recognised by: words at its beginning, which are also in the name under which
#: it is prepared.
STATEMENTS = {
    "submitted": b"due <= now() AS is_due",
    "claimed": b"SET status = 'processing'",
    "effect begun": b"SET effect_started_at",
    "completed": b"SET status = 'completed'",
    "retried": b"SET status = 'pending', error",
    "failed": b"SET status = 'failed', end_reason",
    "noted as published": b"SET publish_at",
    "heartbeat": b"INSERT INTO workers",
    "elected": b"INSERT INTO leases",
}


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_a_commit_that_was_not_heard_of_counts_once(stack, postgres_proxy, statement):
    stack.service.environ["REPUBLISH_SECONDS"] = "0.3"
    is_of_the_start = statement == STATEMENTS["elected"]
    if is_of_the_start:
        lose_every_other_reply(postgres_proxy, statement)
    stack.start()
    with stack.no_process_ends():
        stack.strike()
        if not is_of_the_start:
            lose_every_other_reply(postgres_proxy, statement)
        # On a slow machine two replies in a row may be missed; then a job is refused, and may run all the same.
        accepted = stack.submit_load(16)
        assert accepted
        eventually(lambda: postgres_proxy.lost >= (1 if is_of_the_start else 2), what="lost replies")
        stack.settle()

    assert len(accepted) <= stack.sql("SELECT count(*) FROM jobs")[0][0] <= 16
    assert {1} == set(stack.effects().values())
    assert 0 == stack.sql("SELECT sum(worker_losses) FROM jobs")[0][0]
    # One attempt each, but for those that were asked to fail.
    assert 0 == stack.sql("SELECT count(*) FROM jobs WHERE attempts > 1 AND jsonb_array_length(history) = 0")[0][0]


def test_a_job_whose_commit_is_not_heard_of_twice_is_refused_and_may_run(stack, postgres_proxy):
    """The one case in which a 503 is not a no: docs/api.md says so. The job is written once, not twice."""
    stack.start()
    stack.submit()
    stack.settle()
    stack.strike()
    postgres_proxy.lose_reply(STATEMENTS["submitted"], times=2)

    assert stack.submit() is None

    eventually(lambda: 2 == len(stack.effects()), what="the job that was refused")
    eventually(lambda: [(2,)] == stack.sql("SELECT count(*) FROM jobs WHERE status = 'completed'"), what="its end")


def lose_every_other_reply(proxy, statement):
    """Two in a row would be an outage: a statement is sent again once."""
    for spared in (0, 2, 4):
        proxy.lose_reply(statement, spared=spared)
