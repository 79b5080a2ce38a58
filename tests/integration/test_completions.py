"""The thread that completes attempts: those that waited together get each its own verdict."""

import pytest
from dramatiq.broker import MessageProxy
from eventually import eventually
from rows import claim_one

from jobs_service.broker.redis import message_for
from jobs_service.events import JobCompleted, JobFailed, JobRetried, VerdictRefused
from jobs_service.jobs import lifecycle
from jobs_service.worker.attempt import ATTEMPT_ARGUMENT, RunningAttempt

#: What PostgreSQL refuses in a jsonb.
NOT_STORABLE = "not JSON"


@pytest.fixture
def returned(lifecycle_sync, database, submit, worker_id):
    """Make an attempt that returns and waits for its verdict. Return its job's id."""

    def returned(result, **fields):
        running = RunningAttempt(claim_one(database, submit(**fields), worker_id))
        lifecycle_sync.attempts.add(running)
        lifecycle_sync.attempts.begin(running)
        running.result = result
        claim = running.claim
        message = MessageProxy(message_for(claim.job_id, claim.type, claim.queue, 5))
        message.kwargs[ATTEMPT_ARGUMENT] = running
        lifecycle_sync.after_process_message(None, message)
        return claim.job_id

    return returned


def complete_all(lifecycle_sync):
    lifecycle_sync.completions.start()
    eventually(lambda: not list(lifecycle_sync.attempts), what="the verdicts")


def outcomes(announced):
    return {event.job_id: type(event) for event in announced}


def test_attempts_that_wait_together_share_a_statement(lifecycle_sync, returned, database, row):
    statements, answer = [], database.rows

    def rows(statement, *arguments, **options):
        statements.append(statement)
        return answer(statement, *arguments, **options)

    job_ids = [returned(str(number)) for number in range(3)]
    database.rows = rows
    complete_all(lifecycle_sync)

    assert 1 == len(statements)
    assert [("completed", str(number)) for number in range(3)] == [
        row(job_id, "status", "result") for job_id in job_ids
    ]


def test_a_result_that_cannot_be_stored_is_the_failure_of_its_job_alone(lifecycle_sync, returned, announced, row):
    good, bad, last = returned("1"), returned(NOT_STORABLE), returned(NOT_STORABLE, max_attempts=1)
    complete_all(lifecycle_sync)

    assert ["completed", "pending", "failed"] == [row(job_id, "status") for job_id in (good, bad, last)]
    assert {str(good): JobCompleted, str(bad): JobRetried, str(last): JobFailed} == outcomes(announced)


def test_an_attempt_whose_lease_is_gone_does_not_change_its_job(lifecycle_sync, returned, database, announced, row):
    good, cancelled = returned("1"), returned("2")
    lifecycle.cancel(database, cancelled)
    complete_all(lifecycle_sync)

    assert ("cancelled", None) == row(cancelled, "status", "result")
    assert "completed" == row(good, "status")
    assert {str(good): JobCompleted, str(cancelled): VerdictRefused} == outcomes(announced)


def test_a_thread_without_room_among_those_that_wait_settles_its_attempt_itself(lifecycle_sync, returned, row):
    waiting = [returned("1") for _ in range(lifecycle_sync.completions.most)]
    last = returned("2")

    assert "completed" == row(last, "status")
    assert {"processing"} == {row(job_id, "status") for job_id in waiting}
    complete_all(lifecycle_sync)
    assert {"completed"} == {row(job_id, "status") for job_id in waiting}
