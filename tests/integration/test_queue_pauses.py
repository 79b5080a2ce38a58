"""A paused queue: no worker claims a job of it, whatever is restarted or lost, and its jobs keep their places."""

import falcon.testing
import pytest
import redis
from eventually import eventually
from rows import claim_one
from time_travel import HOUR, set_dates

from jobs_service.api.app import create_app
from jobs_service.broker.publisher import Publisher
from jobs_service.events import QueuePaused, QueueResumed
from jobs_service.jobs import lifecycle, queue_pauses
from jobs_service.jobs.job_types import JobType, Registry
from jobs_service.maintenance.canary import Canary
from jobs_service.maintenance.recovery import Recovery
from jobs_service.maintenance.relay import Relay
from jobs_service.maintenance.service import Turn
from jobs_service.metrics.queue_stats import JobRows
from jobs_service.submission.submit import Submitter

REASON = {"reason": "the mail server moves"}


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def paused(database):
    queue_pauses.pause(database, "default", reason="r", by="b")


def test_a_pause_says_who_since_when_and_why_and_a_second_one_changes_nothing(client, announced):
    first = client.simulate_post("/queues/default/pause", json=REASON)
    second = client.simulate_post("/queues/default/pause", json={"reason": "another"})

    assert (200, first.json) == (second.status_code, second.json)
    assert {"name": "default", "paused": {**REASON, "by": "anonymous"}} == {
        "name": first.json["name"],
        "paused": {name: value for name, value in first.json["paused"].items() if name != "since"},
    }
    assert first.json["paused"]["since"].endswith("Z")
    for _ in range(2):
        assert {"name": "default", "paused": None} == client.simulate_post("/queues/default/resume").json
    assert [QueuePaused, QueueResumed] == [type(event) for event in announced]


def test_a_queue_is_resumed_from_the_pause_that_the_client_saw(client):
    seen = client.simulate_post("/queues/default/pause", json=REASON).json["paused"]["since"]
    assert 200 == client.simulate_post("/queues/default/resume", params={"paused_since": seen}).status_code
    assert 200 == client.simulate_post("/queues/default/resume", params={"paused_since": seen}).status_code
    other = client.simulate_post("/queues/default/pause", json={"reason": "another"}).json["paused"]

    refused = client.simulate_post("/queues/default/resume", params={"paused_since": "2026-01-01T00:00:00Z"})

    assert (409, "queue_pause_changed") == (refused.status_code, refused.json["code"])
    assert "another" in refused.json["detail"]
    assert other == client.simulate_get("/queues/default").json["paused"]
    assert 422 == client.simulate_post("/queues/default/resume", params={"paused_since": "now"}).status_code


def test_a_queue_that_nobody_knows_is_not_paused(client, database):
    for action in ("pause", "resume"):
        reply = client.simulate_post(f"/queues/nowhere/{action}", json=REASON)
        assert (404, "queue_not_found") == (reply.status_code, reply.json["code"])
    for body in ({}, {"reason": ""}, {"reason": None}, {"reason": "x", "until": 1}):
        assert 422 == client.simulate_post("/queues/default/pause", json=body).status_code
    assert [(0,)] == database.rows("SELECT count(*) FROM queue_pauses")


@pytest.mark.usefixtures("paused")
def test_no_job_of_a_paused_queue_is_claimed(database, submit, worker_id):
    here, elsewhere = submit(), submit(queue="other")

    assert claim_one(database, here, worker_id) is None
    assert claim_one(database, elsewhere, worker_id)
    queue_pauses.resume(database, "default")
    assert 1 == claim_one(database, here, worker_id).attempts


@pytest.mark.usefixtures("paused")
def test_the_relay_publishes_nothing_of_it_and_all_of_it_afterwards(database, broker, epoch, submit, row):
    relay = Relay(database, broker, epoch, interval_seconds=1, republish_seconds=20)
    job_id = submit()
    set_dates(database.rows, "jobs", run_at=-HOUR)
    place = row(job_id, "run_at")

    assert {"published": 0} == relay.run_once(Turn())
    # Published when it was submitted, and popped during the pause.
    lifecycle.published(database, [job_id], republish_seconds=20)
    queue_pauses.resume(database, "default")

    assert {"published": 1} == relay.run_once(Turn())
    assert place == row(job_id, "run_at")


@pytest.mark.usefixtures("paused")
def test_it_gets_no_canary(database, broker, settings):
    registry = Registry()
    for queue in ("default", "other"):
        registry.add(JobType(queue, dict, len, queue=queue))
    registry.add_canaries()
    submitter = Submitter(database, Publisher(broker), registry, settings)
    canary = Canary(database, submitter, registry.canaries, interval_seconds=60, api_url="")

    assert {"submitted": 1} == canary.run_once(Turn())

    assert [("canary-other",)] == database.rows("SELECT type FROM jobs")


@pytest.mark.usefixtures("paused")
def test_no_job_of_it_probes_a_server_that_is_away(database, submit):
    waiting, other = submit(), submit(queue="other")
    database.rows("UPDATE jobs SET waits_for = 'smtp://mail', deferrals = 1, run_at = now() + interval '1 hour'")
    set_dates(database.rows, "jobs", [waiting], run_at=HOUR / 2)
    database.rows("INSERT INTO servers (name, error, probe_at) VALUES ('smtp://mail', 'x', now())")

    Recovery(database, interval_seconds=1).run_once(Turn())

    assert [(other,)] == database.rows("SELECT prober FROM servers")


@pytest.mark.usefixtures("paused")
def test_the_metrics_show_it(database):
    rows = JobRows(database, queues=["default", "other"], lease_seconds=15)

    [family] = rows.pauses()

    assert {"default": 1, "other": 0} == {sample.labels["queue_name"]: sample.value for sample in family.samples}


def test_a_pause_holds_for_a_busy_worker_and_over_restarts_and_a_lost_redis(service, tmp_path):
    """What runs goes on. What waits starts after the resume, in the order in which it was submitted."""
    service.start_api()
    worker = service.start_worker(WORKER_THREADS="2")
    started, go = tmp_path / "started", tmp_path / "go"
    running = service.post("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(started.exists, what="a running job")

    assert 200 == service.request("POST", "/queues/default/pause", REASON)[0]
    waiting = [service.post("csv-generation", {"number": number}) for number in range(3)]
    go.touch()

    service.when(running, "completed")
    # Each was popped, and not claimed.
    skipped = 'jobs_attempts_total{actor_name="csv-generation",outcome="skipped",queue_name="default"}'
    eventually(lambda: service.metrics()[skipped] >= 3, what="messages without a claim")
    assert {("pending", 0)} == {_state(service.job(job_id)) for job_id in waiting}

    service.stop()
    with redis.Redis.from_url(service.environ["REDIS_URL"]) as client:
        client.flushall()
    service.start_api()
    worker = service.start_worker(WORKER_METRICS_PORT=str(service.metrics_port))
    # Redis was empty: the relay has seen it, and published whatever may run.
    eventually(lambda: "Redis was empty" in service.log(worker), what="a relay that begins anew")
    assert {("pending", 0)} == {_state(service.job(job_id)) for job_id in waiting}
    assert 1.0 == service.metrics()['jobs_queue_paused{queue_name="default"}']

    assert 200 == service.request("POST", "/queues/default/resume")[0]
    jobs = [service.when(job_id, "completed") for job_id in waiting]
    assert sorted(job["started_at"] for job in jobs) == [job["started_at"] for job in jobs]


def _state(job):
    return job["status"], job["attempts"]
