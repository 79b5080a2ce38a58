"""Canaries: one a queue at a time, through the API if there is one, off the table when through, in nobody's way."""

import socket
import urllib.error
from contextlib import suppress

import pytest
from eventually import eventually
from rows import claim_one
from samples import a_failure
from time_travel import MINUTE, make_older

from jobs_service.broker.publisher import Publisher
from jobs_service.jobs import lifecycle
from jobs_service.jobs.job_types import JobType, Registry
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.maintenance import canary as canary_module
from jobs_service.maintenance.canary import Canary
from jobs_service.maintenance.service import Turn
from jobs_service.metrics.queue_stats import JobRows
from jobs_service.submission.submit import Submitter


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
    assert {"submitted": 2} == canary().run_once(Turn())
    first = on_their_way(database)
    assert {"canary-default", "canary-slow"} == first.keys()
    claim = claim_one(database, first["canary-default"], worker_id)
    assert {"submitted": 0} == canary().run_once(Turn())

    lifecycle.complete_canary(database, claim)

    assert {"submitted": 1} == canary().run_once(Turn())
    assert first["canary-slow"] == on_their_way(database)["canary-slow"]


def test_one_that_came_through_leaves_the_table_and_one_that_failed_does_not(canary, database, worker_id, submit):
    other = submit()
    service = canary()
    service.run_once(Turn())
    first = on_their_way(database)
    completed = claim_one(database, first["canary-default"], worker_id)
    failed = claim_one(database, first["canary-slow"], worker_id)

    assert lifecycle.complete_canary(database, completed)
    assert lifecycle.fail(database, failed, a_failure(), reason=EndReason.REJECTED)

    assert {(other, "pending"), (failed.job_id, "failed")} == set(database.rows("SELECT id, status FROM jobs"))
    assert {"submitted": 2} == service.run_once(Turn())


def test_the_metrics_tell_of_the_last_that_came_through(canary, database, worker_id):
    service, rows = canary(), JobRows(database, queues=["default", "slow"], lease_seconds=15)
    seen = []
    for _ in range(2):
        service.run_once(Turn())
        claim = claim_one(database, on_their_way(database)["canary-slow"], worker_id)
        make_older(database.rows, claim.job_id, MINUTE)
        assert lifecycle.complete_canary(database, claim)
        seen.append({family.name: family.samples for family in rows.canaries()})

    for samples in seen:
        assert 60 <= value(samples["jobs_canary_latency_seconds"]) < 3_600
    first, second = (value(samples["jobs_canary_last_success_timestamp_seconds"]) for samples in seen)
    assert first < second
    assert [] == [
        sample for family in JobRows(database, queues=[], lease_seconds=15).canaries() for sample in family.samples
    ]


def value(samples):
    [sample] = samples
    assert {"queue_name": "slow"} == sample.labels
    return sample.value


@pytest.mark.usefixtures("worker_id")
def test_an_api_that_does_not_answer_holds_up_nothing(canary, database, monkeypatch, free_port):
    monkeypatch.setattr(canary_module, "API_SECONDS", 0.2)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"http://127.0.0.1:{port}" for port in (silent.getsockname()[1], free_port())]

        assert [{"submitted": 0}] * 2 == [canary(url).run_once(Turn()) for url in urls]
    assert {} == on_their_way(database)


def test_a_canary_goes_through_the_api_to_a_worker_and_into_the_metrics(service, database):
    service.start_api()
    url = f"http://127.0.0.1:{service.api_port}"
    # Served by the worker's metrics process, for which the setting counts as well.
    worker = service.start_worker(CANARY_INTERVAL_SECONDS="0.1", CANARY_URL=url)

    accepted = 'jobs_submitted_total{actor_name="canary-default",queue_name="default",source="api"}'
    eventually(lambda: _api_metrics(service)[accepted] > 4, what="canaries accepted by the API")
    samples = eventually(lambda: _with_canary(_metrics_if_served(service) or {}), what="canaries in the metrics")
    assert samples['jobs_canary_last_success_timestamp_seconds{queue_name="default"}'] > 1_700_000_000
    assert 0 <= samples['jobs_canary_latency_seconds{queue_name="default"}'] < 60
    (last,) = database.row("SELECT job_id FROM canaries WHERE queue = 'default'")
    assert {"canary-default"} == {line["type"] for line in service.lines(worker, str(last)) if "type" in line}
    # Not in the lists: whether one waits or none does.
    assert [] == service.get("/jobs")[1]["jobs"]
    # The type of the canary is nobody's to post.
    assert "canary" not in service.request("POST", "/jobs", {"type": "nonsense", "payload": {}})[1]["detail"]
    worker.stop(seconds=15)
    assert [] == database.rows("SELECT id, status, attempts FROM jobs WHERE status NOT IN ('pending', 'processing')")


def test_the_lists_leave_out_one_that_waits_unless_asked_for_it(service):
    service.start_api()
    service.post("canary-default", {})

    assert [] == service.get("/jobs")[1]["jobs"]
    assert [] == service.get("/jobs?status=pending")[1]["jobs"]
    assert ["canary-default"] == [job["type"] for job in service.get("/jobs?type=canary-default")[1]["jobs"]]


def test_switched_off_there_are_none(service):
    service.start_api()
    service.start_worker()
    job_id = service.post("csv-generation", {"a": 1})
    service.when(job_id, "completed")

    samples = eventually(lambda: _metrics_if_served(service), what="the worker's metrics")
    assert not [name for name in samples if name.startswith("jobs_canary")]
    assert [] == service.get("/jobs?type=canary-default")[1]["jobs"]


def _metrics_if_served(service):
    """The process that serves them starts beside the one that runs jobs, and may be the later one."""
    with suppress(urllib.error.URLError):
        return service.metrics()


def _with_canary(samples):
    return samples if 'jobs_canary_latency_seconds{queue_name="default"}' in samples else None


def _api_metrics(service):
    _, text = service.get("/metrics")
    lines = [line for line in text.splitlines() if line[0] != "#"]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
