"""What a client asks of a job beside its payload: a queue, tags, and a time limit of its own."""

from concurrent.futures import ThreadPoolExecutor

import falcon.testing
import pytest
from eventually import eventually

from jobs_service.api.app import create_app
from jobs_service.broker.redis import blocking_client, message_for
from jobs_service.ids import new_id

CSV = {"type": "csv-generation", "payload": {"name": "Alice"}}


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


def post(client, **wishes):
    return client.simulate_post("/jobs", json=CSV | wishes)


def test_tags_queue_and_timeout_are_kept_and_shown(client):
    tags = ["invoices", "été 2026", 'a "quoted" \\ one', "{braces, and commas}", "NULL", "x" * 64]

    job_id = post(client, tags=tags, queue="default", timeout_seconds=7).json["job_id"]

    job = client.simulate_get(f"/jobs/{job_id}").json
    assert (tags, "default", 7) == (job["tags"], job["queue"], job["timeout_seconds"])
    assert [job] == client.simulate_get("/jobs").json["jobs"]


def test_a_job_without_wishes_has_none(client, row):
    job_id = post(client, tags=[], queue=None, timeout_seconds=None).json["job_id"]

    job = client.simulate_get(f"/jobs/{job_id}").json
    assert ([], "default", None) == (job["tags"], job["queue"], job["timeout_seconds"])
    assert (None, None) == row(job_id, "tags", "timeout_seconds")


@pytest.mark.parametrize(
    ("wish", "pointer", "sentence"),
    [
        ({"queue": "nope"}, "/queue", "known queues: default"),
        ({"queue": ""}, "/queue", ""),
        ({"queue": "x" * 51}, "/queue", ""),
        ({"queue": "Default"}, "/queue", "known queues: default"),
        ({"timeout_seconds": 0}, "/timeout_seconds", ""),
        ({"timeout_seconds": 1.5}, "/timeout_seconds", ""),
        ({"timeout_seconds": 65}, "/timeout_seconds", "at most 64"),
        ({"timeout_seconds": 10**9}, "/timeout_seconds", ""),
        ({"tags": "invoices"}, "/tags", ""),
        ({"tags": [""]}, "/tags/0", ""),
        ({"tags": ["a", 5]}, "/tags/1", ""),
        ({"tags": ["a", "x" * 65]}, "/tags/1", ""),
        ({"tags": ["a", "b\n"]}, "/tags/1", ""),
        ({"tags": ["\u202eevil"]}, "/tags/0", ""),
        ({"tags": ["a", "b", "a"]}, "/tags", "only once"),
        ({"tags": [str(number) for number in range(21)]}, "/tags", ""),
    ],
)
def test_a_wish_that_cannot_be_met_is_named(client, wish, pointer, sentence):
    reply = post(client, **wish)

    assert (422, "invalid_request") == (reply.status_code, reply.json["code"])
    [problem] = reply.json["errors"]
    assert pointer == problem["pointer"]
    assert sentence in problem["detail"]


def test_a_canary_keeps_to_its_own_queue(client):
    reply = client.simulate_post("/jobs", json={"type": "canary-default", "payload": {}, "queue": "default"})

    assert (422, "/queue") == (reply.status_code, reply.json["errors"][0]["pointer"])


def test_a_job_runs_in_another_queue_than_its_type_s(service):
    modules = {"ACTOR_MODULES": "trying,elsewhere"}
    service.start_api(**modules)
    service.start_worker(**modules)

    direct = service.post("test-fail-times", {"times": 1}, queue="elsewhere")
    later = service.post("csv-generation", {"a": 1}, queue="elsewhere", delay_seconds=0.3)

    # The first attempt is published by the API, the second one and the later job by the relay.
    assert ("elsewhere", 2) == tuple(service.when(direct, "completed")[field] for field in ("queue", "attempts"))
    assert "elsewhere" == service.when(later, "completed")["queue"]


def test_a_timeout_takes_the_place_of_the_type_s(service, tmp_path):
    """The type's limit is a minute; the job's own ends the attempt."""
    service.start_api()
    service.start_worker()
    payload = {"started": str(tmp_path / "started"), "go": str(tmp_path / "go")}

    job_id = service.post("test-wait-for-file", payload, timeout_seconds=1, max_attempts=2)

    job = service.when(job_id, "failed")
    assert 1 == job["timeout_seconds"]
    assert ["TimeLimitExceeded"] * 2 == [entry["error"] for entry in job["history"]]


def test_a_type_at_its_limit_goes_on_in_one_queue_when_a_job_of_it_ends_in_another(broker):
    """The consumer of the one waits in Redis without the type's line, for minutes if nobody ends its wait."""
    broker.learn(["csv-generation"])
    broker.limits.set("csv-generation", 1)
    here, there = (broker.consume(queue, prefetch=4, timeout=600_000) for queue in ("default", "elsewhere"))
    wait_for_long(here)
    publish(broker, "elsewhere")
    running = next(there)
    publish(broker, "default")
    with ThreadPoolExecutor(1) as pool:
        popped = pool.submit(lambda: next(here) or next(here))
        eventually(lambda: here._left_out, what="a wait without the type")

        there.ack(running)

        assert popped.result(timeout=30) is not None
    here.close()
    there.close()


def publish(broker, queue):
    broker.enqueue(message_for(new_id(), "csv-generation", queue, 5))


def wait_for_long(consumer):
    consumer.client = blocking_client(consumer.broker.client, 600)
