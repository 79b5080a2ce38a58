"""/queues, /workers and /stats: what they count, and that they say where they do not count further."""

import dataclasses
from uuid import UUID, uuid4

import falcon.testing
import pytest
from rows import add_worker, claim_one, complete_one
from samples import a_failure, new_job
from time_travel import HOUR, MINUTE, set_dates

from jobs_service.api.app import create_app
from jobs_service.api.resources import shared_reads
from jobs_service.database.connection import open_database
from jobs_service.jobs import lifecycle, statistics
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.maintenance.history import History
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.service import Turn
from jobs_service.metrics.clock import DatabaseClock
from jobs_service.worker.attempt import RunningAttempts
from jobs_service.worker.heartbeat import Heartbeat


@pytest.fixture
def client(settings, monkeypatch):
    # However slow this machine is, each request reads anew.
    monkeypatch.setattr(shared_reads, "KEPT_TIMES", 0)
    # A worker's one heartbeat is recent for as long as a test takes.
    return falcon.testing.TestClient(create_app(dataclasses.replace(settings, lease_seconds=HOUR / 2)))


@pytest.fixture
def queue(client):
    return lambda name="default": client.simulate_get(f"/queues/{name}").json


def test_an_empty_queue(client, queue):
    shown = queue()

    assert ["EMAIL_SEND", "csv-generation"] == shown["job_types"]
    assert not any(shown["depth"].values())
    assert (None, 0.0, 0, None) == (
        shown["oldest_waiting_seconds"],
        shown["completed_per_minute"],
        shown["live_workers"],
        shown["paused"],
    )
    assert [shown] == client.simulate_get("/queues").json["queues"]


def test_a_queue_has_its_jobs_by_state(queue, database, submit, worker_id):
    submit(priority=1), submit(type="EMAIL_SEND"), submit(delay_seconds=HOUR)
    claims = [claim_one(database, submit(), worker_id) for _ in range(5)]
    lifecycle.retry(database, claims[0], a_failure(), delay_seconds=HOUR)
    lifecycle.defer(database, claims[1], a_failure(), deferral=Deferral())
    lifecycle.fail(database, claims[2], a_failure(), reason=EndReason.REJECTED)
    complete_one(database, claims[3], "1")
    set_dates(database.rows, "jobs", [submit()], run_at=-HOUR)

    shown = queue()

    assert {
        "due": 3,
        "scheduled": 1,
        "retrying": 1,
        "deferred": 1,
        "processing": 1,
        "failed": 1,
        "is_capped": False,
    } == shown["depth"]
    assert HOUR <= shown["oldest_waiting_seconds"] < 2 * HOUR
    # One each in five minutes.
    assert (0.2, 0.2, 1) == tuple(shown[name] for name in ("completed_per_minute", "failed_per_minute", "live_workers"))


def test_a_queue_of_which_nothing_is_due_has_nothing_that_waits(queue, submit):
    submit(delay_seconds=HOUR)

    assert (1, None) == (queue()["depth"]["scheduled"], queue()["oldest_waiting_seconds"])


def test_a_queue_has_its_figures_by_type(queue, database, submit, worker_id):
    submit(), submit(type="EMAIL_SEND")
    complete_one(database, claim_one(database, submit(), worker_id), "1")

    shown = queue()

    assert ["EMAIL_SEND", "csv-generation"] == [found["type"] for found in shown["by_type"]]
    assert [(1, 0.2, 0.0), (1, 0.4, 0.2)] == [
        (found["depth"]["due"], found["submitted_per_minute"], found["completed_per_minute"])
        for found in shown["by_type"]
    ]
    assert (2, 0.6, 0.2) == (shown["depth"]["due"], shown["submitted_per_minute"], shown["completed_per_minute"])


def test_a_queue_has_the_target_of_the_settings(settings):
    targets = {"slo_latency_seconds": 60.0, "slo_queue_latency_seconds": "mail=5"}
    client = falcon.testing.TestClient(create_app(dataclasses.replace(settings, **targets)))
    lifecycle.submit(open_database(settings), [new_job(queue="mail")])

    assert {"default": 60.0, "mail": 5.0} == {
        found["name"]: found["target_seconds"] for found in client.simulate_get("/queues").json["queues"]
    }


def test_the_time_to_drain_is_that_of_the_due_jobs_at_the_present_rate(queue, database, submit, worker_id):
    assert 0.0 == queue()["drain_seconds"]
    claims = [claim_one(database, submit(), worker_id) for _ in range(4)]
    submit(), submit(), submit(delay_seconds=HOUR)
    assert queue()["drain_seconds"] is None
    for claim in claims[:3]:
        complete_one(database, claim, "1")
    lifecycle.fail(database, claims[3], a_failure(), reason=EndReason.REJECTED)

    # Four in five minutes, so two in half of that.
    assert 150.0 == queue()["drain_seconds"]
    database.rows("UPDATE workers SET heartbeat_at = now() - interval '1 day'")
    assert queue()["drain_seconds"] is None
    database.rows("UPDATE workers SET heartbeat_at = now()")
    database.rows("INSERT INTO queue_pauses (queue, reason, paused_by) VALUES ('default', 'why', 'anna')")
    assert queue()["drain_seconds"] is None


def test_only_what_was_submitted_lately_counts_as_submitted(queue, database, submit, monkeypatch):
    """The time is in the ids. Ids of another origin have none."""
    job_id = submit()
    ids = [UUID(int=job_id.int - (minutes * 60_000 << 80)) for minutes in (1, 2, 6)]
    lifecycle.submit(database, [new_job(id=each) for each in [*ids, UUID("f81d4fae-7dec-41d0-a765-00a0c91e6bf6")]])

    assert 0.6 == queue()["submitted_per_minute"]
    monkeypatch.setattr(statistics, "RECENT", {"recent": 300, "recent_jobs": 3})
    # Three in two minutes, or a little more.
    assert 1.5 == pytest.approx(queue()["submitted_per_minute"], rel=0.3)


def test_counting_ends_at_a_limit(queue, database, monkeypatch):
    monkeypatch.setattr(statistics, "MAX_COUNTED", 5)
    lifecycle.submit(database, [new_job() for _ in range(7)])

    assert (5, True) == (queue()["depth"]["due"], queue()["depth"]["is_capped"])


def test_a_rate_of_many_jobs_is_that_of_the_last_ones(queue, database, submit, worker_id, monkeypatch):
    monkeypatch.setattr(statistics, "RECENT", {"recent": 300, "recent_jobs": 4})
    ids = [submit() for _ in range(6)]
    for job_id in ids:
        complete_one(database, claim_one(database, job_id, worker_id), "1")
    for seconds, job_id in enumerate(ids):
        set_dates(database.rows, "jobs", [job_id], finished_at=-10 * (seconds + 1))

    # Four in 40 seconds.
    assert 6 == pytest.approx(queue()["completed_per_minute"], rel=0.2)


def test_a_queue_is_shown_for_its_jobs_its_workers_or_its_pause(client, database, submit):
    submit(queue="jobs")
    database.rows(
        "INSERT INTO workers (id, hostname, pid, queues, threads) VALUES (%s, 'h', 1, '{served}', 1)", (uuid4(),)
    )
    database.rows("INSERT INTO queue_pauses (queue, reason, paused_by) VALUES ('paused', 'why', 'anna')")

    shown = {found["name"]: found for found in client.simulate_get("/queues").json["queues"]}

    assert {"default", "jobs", "served", "paused"} == shown.keys()
    assert ("anna", "why") == (shown["paused"]["paused"]["by"], shown["paused"]["paused"]["reason"])
    assert (1, 1) == (shown["jobs"]["depth"]["due"], shown["served"]["live_workers"])


def test_no_such_queue(client):
    reply = client.simulate_get("/queues/nope")

    assert (404, "queue_not_found") == (reply.status_code, reply.json["code"])


def test_workers_and_what_they_run(client, database, submit, worker_id):
    silent = uuid4()
    add_worker(database, silent, silent_seconds=HOUR)
    job_id = submit()
    claim_one(database, job_id, worker_id)

    live, other = client.simulate_get("/workers").json["workers"]

    assert (str(worker_id), "test", 1, ["default"], 8, 1, True) == tuple(
        live[name] for name in ("worker_id", "host", "pid", "queues", "threads", "busy", "is_live")
    )
    assert live["version"] is None
    assert [str(job_id)] == [job["job_id"] for job in live["current_jobs"]]
    assert (str(silent), False, 0, []) == tuple(
        other[name] for name in ("worker_id", "is_live", "busy", "current_jobs")
    )


def test_a_worker_writes_its_version_once(client, database):
    worker = Heartbeat(
        database,
        uuid4(),
        RunningAttempts(),
        threads=1,
        version="0.1.0+4f1c2ab0",
        heartbeat_interval_seconds=1,
        liveness=Liveness(lease_seconds=1, heartbeat_interval_seconds=1),
        clock=DatabaseClock(leads=lambda: False),
    )
    for worker.version in ("0.1.0+4f1c2ab0", "other"):
        worker.beat()

    assert ["0.1.0+4f1c2ab0"] == [found["version"] for found in client.simulate_get("/workers").json["workers"]]


def test_stats_have_the_figures_of_each_type(client, database, submit, worker_id):
    submit(), submit(queue="other"), submit(type="EMAIL_SEND")
    complete_one(database, claim_one(database, submit(), worker_id), "1")

    mail, csv = client.simulate_get("/stats").json["by_type"]

    assert ("EMAIL_SEND", 1, None) == (mail["type"], mail["depth"]["due"], mail["run_seconds"]["p50"])
    assert ("csv-generation", 2, 0.2, 0.6) == (
        csv["type"],
        csv["depth"]["due"],
        csv["completed_per_minute"],
        csv["submitted_per_minute"],
    )
    assert csv["run_seconds"]["p50"] >= 0


def test_stats_count_by_status_and_say_what_is_estimated(client, database, submit, worker_id, monkeypatch):
    for _ in range(20):
        complete_one(database, claim_one(database, submit(), worker_id), "1")
    submit()
    database.rows("ANALYZE jobs")
    monkeypatch.setattr(statistics, "MAX_COUNTED", 10)

    jobs = client.simulate_get("/stats").json["jobs"]

    assert {"jobs": 1, "is_estimate": False} == jobs["pending"]
    assert {"jobs": 20, "is_estimate": True} == jobs["completed"]
    assert {"pending", "processing", "completed", "failed", "cancelled"} == jobs.keys()


def test_an_estimate_without_statistics_is_what_was_counted(client, database, monkeypatch):
    lifecycle.submit(database, [new_job() for _ in range(20)])
    monkeypatch.setattr(statistics, "MAX_COUNTED", 10)

    assert {"jobs": 10, "is_estimate": True} == client.simulate_get("/stats").json["jobs"]["pending"]


def test_recent_rates_and_percentiles(client, database, submit, worker_id):
    assert {"p50": None, "p95": None, "p99": None} == client.simulate_get("/stats").json["recent"]["latency_seconds"]
    for seconds in range(1, 11):
        job_id = submit()
        complete_one(database, claim_one(database, job_id, worker_id), "1")
        database.rows(
            """UPDATE jobs SET started_at = finished_at - %(s)s * interval '1 second',
            created_at = (finished_at - 2 * %(s)s * interval '1 second') AT TIME ZONE 'utc' WHERE id = %(id)s""",
            {"s": seconds, "id": job_id},
        )
    lifecycle.cancel(database, submit())

    recent = client.simulate_get("/stats").json["recent"]

    assert (300.0, 2.0, 0.0, 0.2) == tuple(
        recent[name] for name in ("seconds", "completed_per_minute", "failed_per_minute", "cancelled_per_minute")
    )
    assert (5.5, 11.0) == (recent["run_seconds"]["p50"], recent["latency_seconds"]["p50"])
    assert 9 < recent["run_seconds"]["p95"] < recent["run_seconds"]["p99"] <= 10


def history_to_its_end(database):
    service = History(database, interval_seconds=15)
    while service.run_once(Turn())["minutes"]:
        pass


def test_an_hour_of_history_by_minute(client, database, submit, worker_id):
    """With the minutes of the hour before the leader began, and the empty ones; the present one is not over."""
    job_id, other = submit(), submit(queue="other")
    for each in (job_id, other):
        complete_one(database, claim_one(database, each, worker_id), "1")
    set_dates(database.rows, "jobs", [job_id], finished_at=-20 * MINUTE)
    set_dates(database.rows, "jobs", [other], finished_at=-20 * MINUTE)

    history_to_its_end(database)

    shown = client.simulate_get("/stats").json["history"]
    assert 59 <= len(shown) <= 60
    assert sorted(minute["at"] for minute in shown) == [minute["at"] for minute in shown]
    assert [2] == [minute["completed"] for minute in shown if minute["completed"]]
    assert [(1,), (1,)] == database.rows("SELECT completed FROM job_minutes WHERE queue <> '' AND completed > 0")


def test_submissions_are_counted_by_their_ids(database, client, submit):
    job_id = submit()
    older = new_job(id=type(job_id)(int=job_id.int - (10 * MINUTE * 1000 << 80)))
    lifecycle.submit(database, [older])

    history_to_its_end(database)

    assert [1] == [
        minute["submitted"] for minute in client.simulate_get("/stats").json["history"] if minute["submitted"]
    ]


def test_history_is_written_once_and_kept_for_a_day(database):
    history_to_its_end(database)
    rows = database.rows("SELECT count(*) FROM job_minutes")
    database.rows(
        "UPDATE job_minutes SET minute = minute - interval '2 days' WHERE minute < now() - interval '30 minutes'"
    )

    History(database, interval_seconds=15).run_once(Turn())
    history_to_its_end(database)

    assert rows == database.rows("SELECT count(*) FROM job_minutes")
    assert 0 == History(database, interval_seconds=15).run_once(Turn())["minutes"]


def test_a_leader_that_was_replaced_writes_no_minute(database):
    History(database, interval_seconds=15).run_once(Turn(fence=7))

    assert [] == database.rows("SELECT FROM job_minutes")


@pytest.mark.parametrize("path", ["/queues", "/queues/default", "/workers", "/stats"])
def test_without_postgresql_it_is_503(settings, path):
    away = dataclasses.replace(settings, database_url="postgresql://x@127.0.0.1:1/x")
    client = falcon.testing.TestClient(create_app(away))

    for _ in range(2):
        assert 503 == client.simulate_get(path).status_code
