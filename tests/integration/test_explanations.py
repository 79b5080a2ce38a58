"""/jobs/{id}/explain: every state in one sentence, with a reason and facts."""

import dataclasses
from uuid import uuid4

import falcon.testing
import pytest
from plans import Watch
from rows import add_worker, claim_one, complete_one
from samples import a_failure, new_job
from time_travel import set_dates

from jobs_service.api.app import create_app
from jobs_service.jobs import explanations, lifecycle
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.explanations import Reason
from jobs_service.jobs.lifecycle import EndReason

HOUR = 3_600


@pytest.fixture
def client(settings):
    # A worker's one heartbeat is recent for as long as a test takes.
    return falcon.testing.TestClient(create_app(dataclasses.replace(settings, lease_seconds=HOUR / 2)))


@pytest.fixture
def explain(client):
    def explain(job_id):
        reply = client.simulate_get(f"/jobs/{job_id}/explain")
        assert 200 == reply.status_code, reply.json
        assert str(job_id) == reply.json["job_id"]
        return reply.json

    return explain


def told(explained):
    return explained["reason"], explained["explanation"]


def test_a_job_that_is_due_later(explain, submit):
    explained = explain(submit(delay_seconds=HOUR))

    assert Reason.SCHEDULED == explained["reason"]
    assert f"It is not due before {explained['facts']['due_at']}." == explained["explanation"]
    assert explained["what_to_do"] is None


@pytest.mark.usefixtures("worker_id")
def test_a_job_behind_others_counts_those_of_its_line_that_run_before_it(explain, submit):
    submit(priority=9)
    submit()
    job_id = submit()
    submit()
    submit(priority=1)
    submit(type="EMAIL_SEND", priority=9)
    submit(priority=9, delay_seconds=HOUR)

    explained = explain(job_id)

    assert (Reason.BEHIND_OTHERS, 2) == (explained["reason"], explained["facts"]["jobs_ahead"])
    assert explained["explanation"] == (
        "It waits behind 2 jobs of csv-generation on the queue default; none of them has ended in the last minutes, so "
        "its start cannot be estimated."
    )
    assert "estimated_start" not in explained["facts"]


def test_the_start_is_estimated_by_the_rate_of_its_line(explain, database, submit, worker_id):
    for job_type in ["csv-generation"] * 10 + ["EMAIL_SEND"] * 7:
        complete_one(database, claim_one(database, submit(type=job_type), worker_id), "1")
    ahead = [submit() for _ in range(20)]

    explained = explain(submit())

    # Ten in five minutes.
    assert 2.0 == explained["facts"]["jobs_per_minute"]
    assert (len(ahead), 1) == (explained["facts"]["jobs_ahead"], explained["facts"]["live_workers"])
    assert explained["explanation"].endswith("and starts in about 10 minutes.")
    assert explained["facts"]["estimated_start"] > explained["facts"]["due_at"]


@pytest.mark.usefixtures("worker_id")
def test_a_long_line_is_counted_to_a_limit(explain, submit, monkeypatch):
    monkeypatch.setattr(explanations, "MAX_AHEAD", 3)
    for priority in (5, 5, 9, 9, 5):
        submit(priority=priority)

    explained = explain(submit())

    assert (3, True) == (explained["facts"]["jobs_ahead"], explained["facts"]["jobs_ahead_is_capped"])
    assert explained["explanation"].startswith("It waits behind more than 3 jobs")


@pytest.mark.usefixtures("worker_id")
def test_the_next_job(explain, submit):
    assert explain(submit())["reason"] == Reason.NEXT


@pytest.mark.usefixtures("worker_id")
def test_a_job_of_a_paused_queue(explain, database, submit):
    database.rows("INSERT INTO queue_pauses (queue, reason, paused_by) VALUES ('default', 'the disk is full.', 'anna')")

    explained = explain(submit())

    pause = explained["facts"]["paused"]
    assert ("anna", "the disk is full.") == (pause["by"], pause["reason"])
    assert told(explained) == (
        Reason.QUEUE_PAUSED,
        f"The queue default was paused by anna at {pause['since']}: the disk is full.",
    )
    assert "POST /queues/default/resume" in explained["what_to_do"]


def test_a_queue_without_a_live_worker(explain, database, submit):
    add_worker(database, uuid4(), silent_seconds=HOUR)

    explained = explain(submit())

    assert told(explained) == (Reason.NO_WORKER, "No live worker serves the queue default.")
    assert 0 == explained["facts"]["live_workers"]


@pytest.mark.usefixtures("worker_id")
def test_a_type_that_nobody_knows(explain, submit):
    assert Reason.UNKNOWN_TYPE == explain(submit(type="gone"))["reason"]


def test_a_job_between_attempts(explain, database, submit, worker_id):
    job_id = submit()
    lifecycle.retry(
        database, claim_one(database, job_id, worker_id), a_failure(message="refused\nagain."), delay_seconds=60
    )

    explained = explain(job_id)

    at = explained["facts"]["due_at"]
    assert told(explained) == (
        Reason.BETWEEN_ATTEMPTS,
        f"Attempt 1 of 3 failed: refused again. The next one begins at {at}.",
    )


def test_a_job_that_waits_for_a_server(explain, database, submit, worker_id):
    job_id = submit()
    claim = claim_one(database, job_id, worker_id)
    lifecycle.defer(database, claim, a_failure(message="no route"), deferral=Deferral(), server="https://a.example")

    explained = explain(job_id)

    server = explained["facts"]["server"]
    assert ("https://a.example", "no route") == (server["name"], server["error"])
    assert Reason.SERVER_UNAVAILABLE == explained["reason"]
    assert f"unavailable since {server['away_since']}: no route." in explained["explanation"]

    database.rows("DELETE FROM servers")
    assert "which answers again" in explain(job_id)["explanation"]


def test_a_job_that_is_deferred_without_a_server_or_postponed(explain, database, submit, worker_id):
    deferred, postponed = submit(), submit()
    lifecycle.defer(database, claim_one(database, deferred, worker_id), a_failure(message="later"), deferral=Deferral())
    lifecycle.snooze(database, claim_one(database, postponed, worker_id), "at night", delay_seconds=60)

    assert (Reason.DEFERRED, True) == (explain(deferred)["reason"], "later" in explain(deferred)["explanation"])
    assert (Reason.DEFERRED, True) == (explain(postponed)["reason"], "at night" in explain(postponed)["explanation"])


def test_a_running_job(explain, database, submit, worker_id):
    job_id = submit()
    claim_one(database, job_id, worker_id)

    explained = explain(job_id)

    since = explained["facts"]["since"]
    assert told(explained) == (
        Reason.RUNNING,
        f"Attempt 1 of 3 runs since {since} on test, process 1, and may run 60 seconds.",
    )
    assert str(worker_id) == explained["facts"]["worker"]["worker_id"]

    database.rows("UPDATE jobs SET timeout_seconds = 7200")
    assert explain(job_id)["explanation"].endswith("and may run 2 hours.")

    set_dates(database.rows, "workers", heartbeat_at=-HOUR)
    assert Reason.WORKER_SILENT == explain(job_id)["reason"]
    database.rows("DELETE FROM workers")
    assert Reason.WORKER_SILENT == explain(job_id)["reason"]


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason != EndReason.CANCELLED_BY_OPERATOR])
def test_a_dead_letter_says_why_and_what_to_do(explain, database, submit, worker_id, reason):
    job_id = submit()
    failure = a_failure(message="it {broke}")
    lifecycle.fail(database, claim_one(database, job_id, worker_id), failure, reason=reason)

    explained = explain(job_id)

    assert (Reason.HELD if reason == EndReason.AMBIGUOUS else Reason.DEAD) == explained["reason"]
    assert (reason, "it {broke}") == (explained["facts"]["end_reason"], explained["facts"]["last_error"])
    assert explained["what_to_do"]
    if "retry" in explained["what_to_do"]:
        assert f"POST /jobs/{job_id}/retry" in explained["what_to_do"]


def test_a_cancelled_and_a_completed_job(explain, database, submit, worker_id):
    cancelled, completed = submit(), submit()
    lifecycle.cancel(database, cancelled)
    complete_one(database, claim_one(database, completed, worker_id), "1")

    assert explain(cancelled)["explanation"].endswith(", without a reason.")
    database.rows("UPDATE jobs SET cancel_reason = 'ordered twice' WHERE id = %s", (cancelled,))
    assert explain(cancelled)["explanation"].endswith(": ordered twice.")
    assert Reason.CANCELLED == explain(cancelled)["reason"]
    assert (Reason.COMPLETED, "with attempt 1.") == (
        explain(completed)["reason"],
        explain(completed)["explanation"][-15:],
    )


@pytest.mark.parametrize("job_id", [uuid4(), "x"])
def test_no_such_job(client, job_id):
    reply = client.simulate_get(f"/jobs/{job_id}/explain")

    assert (404, "job_not_found") == (reply.status_code, reply.json["code"])


@pytest.mark.usefixtures("worker_id")
def test_a_long_line_costs_what_is_counted(client, database, monkeypatch):
    """The statements of the last job of 3,000, where 100 are counted."""
    jobs = [new_job() for _ in range(3_000)]
    lifecycle.submit(database, jobs)
    monkeypatch.setattr(explanations, "MAX_AHEAD", 100)
    watch = Watch(monkeypatch)
    # Without what a first connection asks.
    client.simulate_get(f"/jobs/{uuid4()}/explain")
    watch.clear()

    client.simulate_get(f"/jobs/{max(job.id for job in jobs)}/explain")

    about_it, ahead, rate = watch.plans
    assert "finished_at DESC LIMIT" in rate.sql
    for plan in (about_it, ahead):
        assert plan.rows <= 101, str(plan)
