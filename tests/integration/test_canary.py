"""Canaries: one a queue at a time, through the API if there is one, few on the table, in nobody's way."""

import socket

import pytest
from eventually import eventually
from rows import claim_one, complete_one

from jobs_service import lifecycle
from jobs_service.lifecycle import Ask, DeadReason, Failure
from jobs_service.maintenance import canary as canary_module
from jobs_service.maintenance.canary import KEPT, Canary
from jobs_service.maintenance.service import Turn
from jobs_service.publisher import Publisher
from jobs_service.registry import JobType, Registry
from jobs_service.submission import Submitter


@pytest.fixture
def registry():
    registry = Registry()
    registry.add(JobType("csv-generation", dict, len))
    registry.add(JobType("slow", dict, len, queue="slow"))
    registry.add_canaries()
    return registry


@pytest.fixture
def canary(database, broker, registry, settings):
    def canary(api_url=""):
        submitter = Submitter(database, Publisher(broker), registry, settings)
        return Canary(database, submitter, registry.canaries, interval_seconds=60, api_url=api_url)

    return canary


def on_their_way(database):
    return dict(database.rows("SELECT type, id FROM jobs WHERE status IN ('pending', 'processing')"))


def test_every_queue_has_one_canary_and_no_second_before_it_has_ended(canary, database, worker_id):
    assert {"submitted": 2, "pruned": 0} == canary().run_once(Turn())
    first = on_their_way(database)
    assert {"canary-default", "canary-slow"} == first.keys()
    claim = claim_one(database, first["canary-default"], worker_id)
    assert {"submitted": 0, "pruned": 0} == canary().run_once(Turn())

    complete_one(database, claim, "null")

    assert {"submitted": 1, "pruned": 0} == canary().run_once(Turn())
    assert first["canary-slow"] == on_their_way(database)["canary-slow"]


def test_a_few_finished_ones_are_kept_the_newest(canary, database, worker_id, submit):
    other = submit()
    service = canary()
    completed, failed = [], []
    for number in range(2 * (KEPT + 2)):
        service.run_once(Turn())
        claim = claim_one(database, on_their_way(database)["canary-default"], worker_id)
        if number % 2:
            complete_one(database, claim, "null")
            completed.append(claim.job_id)
        else:
            lifecycle.bury(database, claim, Failure("E", "m", "t", 0), reason=DeadReason.REJECTED)
            failed.append(claim.job_id)
    service.run_once(Turn())

    for status, ids in (("completed", completed), ("failed", failed)):
        rows = database.rows("SELECT id FROM jobs WHERE type = 'canary-default' AND status = %s ORDER BY id", (status,))
        assert ids[-KEPT:] == [job_id for (job_id,) in rows]
    assert lifecycle.claim(database, [Ask(other, worker_id)]) != [None]


@pytest.mark.usefixtures("worker_id")
def test_an_api_that_does_not_answer_holds_up_nothing(canary, database, monkeypatch, free_port):
    monkeypatch.setattr(canary_module, "API_SECONDS", 0.2)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"http://127.0.0.1:{port}" for port in (silent.getsockname()[1], free_port())]

        assert [{"submitted": 0, "pruned": 0}] * 2 == [canary(url).run_once(Turn()) for url in urls]
    assert {} == on_their_way(database)


def test_a_canary_goes_through_the_api_to_a_worker_and_into_the_metrics(service):
    api = service.start_api()
    url = f"http://127.0.0.1:{service.api_port}"
    # Served by the worker's metrics process, for which the setting counts as well.
    service.start_worker(CANARY_SECONDS="0.1", CANARY_URL=url)

    accepted = 'jobs_enqueued_total{actor_name="canary-default",queue_name="default",source="api"}'
    eventually(lambda: _api_metrics(service)[accepted] > KEPT + 2, what="canaries accepted by the API")
    samples = eventually(lambda: _with_canary(service.metrics()), what="canaries in the metrics")
    assert samples['jobs_canary_last_success_timestamp_seconds{queue_name="default"}'] > 1_700_000_000
    assert 0 <= samples['jobs_canary_latency_seconds{queue_name="default"}'] < 60
    assert ("type", "canary-default") in {item for line in _events(service, api) for item in line.items()}
    # Not in the lists, unless asked for.
    assert [] == service.get("/jobs")[1]["jobs"]
    assert [] == service.get("/jobs?status=completed")[1]["jobs"]
    assert {"canary-default"} == {job["type"] for job in service.get("/jobs?type=canary-default")[1]["jobs"]}
    # The type of the canary is nobody's to post.
    assert "canary" not in service.request("POST", "/jobs", {"type": "nonsense", "payload": {}})[1]["detail"]


def test_switched_off_there_are_none(service):
    service.start_api()
    service.start_worker()
    job_id = service.post("csv-generation", {"a": 1})
    service.when(job_id, "completed")

    assert not [name for name in service.metrics() if name.startswith("jobs_canary")]
    assert [] == service.get("/jobs?type=canary-default")[1]["jobs"]


def _with_canary(samples):
    return samples if 'jobs_canary_latency_seconds{queue_name="default"}' in samples else None


def _api_metrics(service):
    _, text = service.get("/metrics")
    lines = [line for line in text.splitlines() if line[0] != "#"]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def _events(service, child):
    return service.lines(child, service.get("/jobs?type=canary-default")[1]["jobs"][0]["job_id"])
