"""What PostgreSQL knows about the jobs, as gauges."""

from uuid import uuid4

import pytest
from conftest import add_worker, claim_one
from prometheus_client import CollectorRegistry, generate_latest

from jobs_service import lifecycle
from jobs_service.lifecycle import DeadReason, Failure
from jobs_service.metrics import collector
from jobs_service.metrics.exposition import build_truth
from jobs_service.metrics.rows import STATES
from jobs_service.registry import JobType, Registry

FAILURE = Failure("E", "m", "t", 0)


@pytest.fixture
def gauges(settings, monkeypatch):
    """Return {series: value} as a scrape sees it now."""
    monkeypatch.setattr(collector, "CACHE_SECONDS", 0)
    registry = CollectorRegistry()
    registry.register(build_truth(settings, job_types()))

    def scrape():
        lines = generate_latest(registry).decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    return scrape


def job_types():
    registry = Registry()
    registry.add(JobType("csv-generation", dict, len))
    return registry


def current(gauges):
    return {state: gauges()[f'jobs_current{{queue_name="default",state="{state}"}}'] for state in STATES}


def test_an_empty_table_gives_zeros(gauges):
    assert dict.fromkeys(STATES, 0) == current(gauges)
    assert 0 == gauges()['jobs_queue_oldest_eligible_age_seconds{queue_name="default"}']
    assert 0 == gauges()['jobs_dead{queue_name="default"}']


def test_each_job_is_counted_in_its_state(gauges, submit, database, worker_id):
    submit()
    submit(delay_seconds=60)
    claim_one(database, submit(), worker_id)
    lifecycle.retry(database, claim_one(database, submit(), worker_id), FAILURE, delay_seconds=60)
    lifecycle.bury(database, claim_one(database, submit(), worker_id), FAILURE, reason=DeadReason.REJECTED)

    assert {"scheduled": 1, "pending": 1, "retrying": 1, "processing": 1} == current(gauges)
    assert 1 == gauges()['jobs_dead{queue_name="default"}']


def test_the_oldest_age_is_that_of_the_first_in_line(gauges, submit, database):
    for _ in range(2):
        submit()
    database.rows("UPDATE jobs SET run_at = now() - interval '1 hour' WHERE id = (SELECT id FROM jobs LIMIT 1)")

    assert 3600 <= gauges()['jobs_queue_oldest_eligible_age_seconds{queue_name="default"}'] < 3700


def test_only_living_workers_count(gauges, database, worker_id):
    add_worker(database, uuid4(), silent_seconds=60)

    assert worker_id
    assert 1 == gauges()["jobs_workers"]


def test_a_query_that_fails_does_not_blank_the_others(gauges, database, submit):
    submit()
    database.rows("DROP TABLE workers")

    seen = gauges()

    assert 0 == seen['jobs_collector_success{collector="workers"}']
    assert 1 == seen['jobs_collector_success{collector="jobs"}']
    assert 1 == seen['jobs_current{queue_name="default",state="pending"}']
