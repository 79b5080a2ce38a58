"""/attention: each thing that needs a person is found, named in a sentence, and gone when it is mended."""

import dataclasses
from uuid import uuid4

import falcon.testing
import pytest
from rows import add_worker, claim_one, rescue
from samples import a_failure
from time_travel import DAY, HOUR, MINUTE, set_dates

from jobs_service.api.app import create_app
from jobs_service.api.resources import shared_reads
from jobs_service.jobs import attention, lifecycle
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.lifecycle import EndReason


@pytest.fixture
def quick_settings(settings, monkeypatch):
    # However slow this machine is, each request reads anew.
    monkeypatch.setattr(shared_reads, "KEPT_TIMES", 0)
    # A worker's one heartbeat is recent for as long as a test takes.
    return dataclasses.replace(settings, lease_seconds=HOUR / 2, slo_latency_seconds=60, slo_dead_letters=3)


@pytest.fixture
def client(quick_settings):
    return falcon.testing.TestClient(create_app(quick_settings))


@pytest.fixture
def found(client):
    """The findings, without their links."""

    def found():
        reply = client.simulate_get("/attention")
        assert 200 == reply.status_code, reply.text
        return reply.json["findings"]

    return found


@pytest.fixture
def fail(database, submit, worker_id):
    """Let a job fail, so long ago, and return its id."""

    def fail(error="it broke", *, seconds=0, reason=EndReason.REJECTED, job_type="csv-generation"):
        claim = claim_one(database, submit(type=job_type), worker_id)
        lifecycle.fail(database, claim, a_failure(error="OSError", message=error), reason=reason)
        set_dates(database.rows, "jobs", [claim.job_id], finished_at=-seconds)
        return claim.job_id

    return fail


def kinds(findings):
    return [(finding["kind"], finding["severity"]) for finding in findings]


@pytest.mark.usefixtures("worker_id")
def test_nothing_needs_a_person(found, submit):
    submit()

    assert [] == found()


def test_no_live_worker(found, database, submit):
    assert [("no_workers", "critical")] == kinds(found())
    [finding] = found()
    assert "No worker process is live, so no job runs. New jobs wait." == finding["sentence"]
    assert (None, 0) == (finding["since"], finding["count"])

    add_worker(database, uuid4(), silent_seconds=HOUR)
    set_dates(database.rows, "jobs", [submit(), submit()], run_at=-HOUR)

    # One finding: that its queue is late, too, would say nothing more.
    [finding] = found()
    assert "No worker process is live, so no job runs. 2 jobs are due." == finding["sentence"]
    assert finding["since"]
    assert {"workers": "/workers"} == finding["links"]


@pytest.mark.usefixtures("worker_id")
def test_a_queue_that_is_late(found, database, submit):
    first = submit()
    set_dates(database.rows, "jobs", [first], run_at=-50)
    submit()
    assert [] == found()

    set_dates(database.rows, "jobs", [first], run_at=-2 * MINUTE)
    [finding] = found()
    assert ("queue_late", "warning", 2, "default") == tuple(
        finding[name] for name in ("kind", "severity", "count", "queue")
    )
    assert (
        "The first job of the queue default has waited for 2 minutes, longer than its target of 60 seconds. "
        "2 jobs are due."
    ) == finding["sentence"]
    assert {
        "queue": "/queues/default",
        "jobs": "/jobs?status=pending&queue=default",
        "workers": "/workers",
    } == finding["links"]

    set_dates(database.rows, "jobs", [first], run_at=-6 * MINUTE)
    assert [("queue_late", "critical")] == kinds(found())


@pytest.mark.usefixtures("worker_id")
def test_a_queue_has_its_own_target(quick_settings, database, submit):
    settings = dataclasses.replace(quick_settings, slo_queue_latency_seconds="default=600")
    set_dates(database.rows, "jobs", [submit()], run_at=-2 * MINUTE)

    assert [] == falcon.testing.TestClient(create_app(settings)).simulate_get("/attention").json["findings"]


@pytest.mark.usefixtures("worker_id")
def test_a_queue_that_no_worker_serves(found, submit):
    submit(queue="mail/é")

    [finding] = found()

    assert ("queue_without_worker", "critical") == (finding["kind"], finding["severity"])
    assert "1 job is due in the queue mail/é, and no live worker serves it." == finding["sentence"]
    assert "/queues/mail%2F%C3%A9" == finding["links"]["queue"]


@pytest.mark.usefixtures("worker_id")
def test_a_paused_queue_in_which_jobs_wait(found, database, submit):
    database.rows("INSERT INTO queue_pauses (queue, reason, paused_by) VALUES ('default', 'new disk', 'anna')")
    assert [] == found()

    set_dates(database.rows, "jobs", [submit()], run_at=-HOUR)

    [finding] = found()
    assert ("queue_paused", "warning") == (finding["kind"], finding["severity"])
    assert "1 job is due in the queue default, which anna has paused: new disk." == finding["sentence"]
    # Not since the job waits.
    [(paused_at,)] = database.rows("SELECT paused_at FROM queue_pauses")
    assert finding["since"][:19] == f"{paused_at:%Y-%m-%dT%H:%M:%S}"


def test_jobs_that_wait_for_a_server(found, database, submit, worker_id):
    claim = claim_one(database, submit(), worker_id)
    refused = a_failure(error="Unavailable", message="connection refused")
    lifecycle.defer(database, claim, refused, deferral=Deferral(), server="mail:smtp.example.org")

    [finding] = found()

    assert ("server_unavailable", "warning", 1) == tuple(finding[name] for name in ("kind", "severity", "count"))
    assert (
        "1 job waits for the server mail:smtp.example.org, which is unavailable: connection refused."
        == finding["sentence"]
    )
    assert f"/jobs/{claim.job_id}/explain" == finding["links"]["explanation"]
    lifecycle.cancel(database, claim.job_id)
    assert [] == found()


@pytest.mark.usefixtures("worker_id")
def test_jobs_whose_effect_is_unknown_are_held(found, database, submit):
    lost = uuid4()
    add_worker(database, lost)
    claim = claim_one(database, submit(type="EMAIL_SEND", on_ambiguous="hold"), lost)
    lifecycle.begin_effect(database, claim)
    rescue(database, lost)

    [finding] = found()

    assert ("jobs_held", "warning", 1) == tuple(finding[name] for name in ("kind", "severity", "count"))
    assert (
        "1 job of EMAIL_SEND is held: it is unknown whether the effect happened, and on_ambiguous is hold."
        == finding["sentence"]
    )
    group_id = finding["group_id"]
    assert {
        "group": f"/dead-letters/groups/{group_id}",
        "dead_letters": f"/dead-letters?group={group_id}",
        "job": f"/jobs/{claim.job_id}",
    } == finding["links"]


def test_a_new_error(found, client, fail):
    fail("no space after 5 bytes", seconds=MINUTE)
    last = fail("no space after 7 bytes")

    [finding] = found()

    assert ("failures_new", "warning", 2) == tuple(finding[name] for name in ("kind", "severity", "count"))
    assert "2 dead letters of csv-generation have a new error, OSError: no space after N bytes." == finding["sentence"]
    assert str(last) == finding["job_id"]
    [group] = client.simulate_get("/dead-letters/groups").json["groups"]
    assert (group["id"], group["first_seen"]) == (finding["group_id"], finding["since"])
    assert 2 == len(client.simulate_get(finding["links"]["dead_letters"]).json["dead_letters"])


def test_many_failures_are_critical(found, fail):
    for _ in range(4):
        fail()

    assert [("failures_new", "critical")] == kinds(found())


def test_an_old_error_needs_nobody_unless_it_grows(found, fail):
    fail(seconds=3 * DAY)
    for _ in range(5):
        fail(seconds=1.5 * HOUR)
    for _ in range(9):
        fail()
    assert [] == found()

    fail()

    [finding] = found()
    assert "failures_growing" == finding["kind"]
    assert (
        "10 dead letters of csv-generation in the last hour, after 5 in the hour before, have the same error, "
        "OSError: it broke." == finding["sentence"]
    )


@pytest.mark.parametrize("state", ["resolved", "ignored"])
def test_what_was_decided_about_a_group_holds(found, database, client, fail, state):
    fail(seconds=3 * DAY), fail(seconds=1)
    [group] = client.simulate_get("/dead-letters/groups").json["groups"]
    database.rows(
        "INSERT INTO error_groups (id, state, reason, decided_by) VALUES (%s, %s, 'why', 'anna')", (group["id"], state)
    )
    assert [] == found()

    fail(seconds=-1)

    assert ([] if state == "ignored" else ["failures_returned"]) == [finding["kind"] for finding in found()]


def test_more_groups_than_are_looked_at(found, fail, monkeypatch):
    """The newest dead letters are looked at in any case."""
    monkeypatch.setattr(attention, "GROUPS", 3)
    for name in ("one", "two", "three", "four", "five"):
        fail(f"error {name}")

    assert 5 == len(found())


@pytest.mark.usefixtures("worker_id")
def test_redis_is_away(quick_settings):
    away = dataclasses.replace(quick_settings, redis_url="redis://127.0.0.1:1/0")
    client = falcon.testing.TestClient(create_app(away))

    first, second = (client.simulate_get("/attention").json["findings"] for _ in range(2))

    [finding] = first
    assert ("redis_unavailable", "critical") == (finding["kind"], finding["severity"])
    assert "Jobs are accepted and kept, but few or none start, because Redis cannot be used: " in finding["sentence"]
    assert first == second


@pytest.mark.parametrize("end", ["now() - interval '1 minute'", "'-infinity'"])
@pytest.mark.usefixtures("worker_id")
def test_no_worker_leads_maintenance(found, database, end):
    database.rows(
        f"INSERT INTO leases (name, holder, token, expires_at) VALUES ('maintenance', %s, 1, {end})", (uuid4(),)
    )
    database.rows("INSERT INTO job_minutes VALUES (now() - interval '10 minutes', '', 0, 0, 0, 0)")

    assert [("maintenance_stopped", "critical")] == kinds(found())
    assert found()[0]["since"]

    database.rows("UPDATE leases SET expires_at = now() - interval '5 seconds'")
    assert [] == found()


@pytest.mark.usefixtures("worker_id")
def test_the_most_urgent_comes_first_and_the_list_ends(client, found, database, submit, monkeypatch):
    names = ["paused", "late"]
    database.rows("INSERT INTO queue_pauses (queue, reason, paused_by) VALUES ('paused', 'why', 'anna')")
    set_dates(database.rows, "jobs", [submit(queue=name) for name in names], run_at=-HOUR)
    set_dates(database.rows, "jobs", [submit()], run_at=-2 * MINUTE)

    assert [("queue_without_worker", "critical"), ("queue_late", "warning"), ("queue_paused", "warning")] == kinds(
        found()
    )
    monkeypatch.setattr("jobs_service.api.resources.attention.MAX_FINDINGS", 2)
    shown = client.simulate_get("/attention").json
    assert (2, 1) == (len(shown["findings"]), shown["omitted"])


def test_hostile_texts_are_short_and_on_one_line(found, fail):
    fail("<script>\u202e\n" + "x" * 10_000)

    [finding] = found()

    assert "\n" not in finding["sentence"]
    assert 500 > len(finding["sentence"])


def test_without_postgresql_it_is_503(settings):
    away = dataclasses.replace(settings, database_url="postgresql://x@127.0.0.1:1/x")

    assert 503 == falcon.testing.TestClient(create_app(away)).simulate_get("/attention").status_code
