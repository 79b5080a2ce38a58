"""What PostgreSQL knows about the jobs, as gauges."""

import dataclasses
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rows import add_worker, claim_one
from samples import a_failure
from time_travel import HOUR, MINUTE, set_dates

from jobs_service.broker.redis import message_for
from jobs_service.database.connection import open_database
from jobs_service.jobs import lifecycle
from jobs_service.jobs.job_types import JobType, Registry
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.metrics import collector
from jobs_service.metrics.exposition import build_collector
from jobs_service.metrics.queue_stats import STATES

FAILURE = a_failure()


@pytest.fixture
def gauges(settings, monkeypatch):
    """Return {series: value} as a scrape sees it now."""
    monkeypatch.setattr(collector, "CACHE_SECONDS", 0)
    monkeypatch.setattr(collector, "CACHE_FACTOR", 0)
    registry = CollectorRegistry()
    impatient = dataclasses.replace(settings, database_statement_timeout_seconds=1)
    registry.register(build_collector(impatient, job_types()))

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
    lifecycle.fail(database, claim_one(database, submit(), worker_id), FAILURE, reason=EndReason.REJECTED)

    assert {"scheduled": 1, "pending": 1, "retrying": 1, "deferred": 0, "processing": 1} == current(gauges)
    assert 1 == gauges()['jobs_dead{queue_name="default"}']


def test_the_oldest_age_is_that_of_the_first_in_line(gauges, submit, database):
    first, _ = submit(), submit()
    set_dates(database.rows, "jobs", [first], run_at=-HOUR)

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


def test_a_query_that_takes_too_long_is_given_up_and_the_others_are_seen(settings, gauges):
    blocker = open_database(settings)
    with blocker.atomic():
        blocker.execute_sql("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")
        seen = gauges()

    assert 0 == seen['jobs_collector_success{collector="workers"}']
    assert 1 == seen['jobs_collector_success{collector="jobs"}'] == seen["jobs_pg_up"]
    assert 1 == gauges()['jobs_collector_success{collector="workers"}']


def test_due_jobs_that_are_not_published_are_overdue(gauges, submit, database):
    submit()
    submit(delay_seconds=60)
    assert 0 == gauges()['jobs_scheduled_overdue{queue_name="default"}']

    set_dates(database.rows, "jobs", publish_at=-MINUTE)

    assert 1 == gauges()['jobs_scheduled_overdue{queue_name="default"}']


def test_a_job_whose_worker_is_silent_is_stale(gauges, submit, database, worker_id):
    claim_one(database, submit(), worker_id)
    claim_one(database, submit(), uuid4())

    assert 1 == gauges()['jobs_stale_processing{queue_name="default"}']


def test_redis_tells_of_its_queues_and_itself(gauges, broker, dead_letters):
    broker.enqueue(message_for(uuid4(), "csv-generation", "default", 5))
    dead_letters.push(uuid4())

    seen = gauges()
    assert (1, 1) == (seen['jobs_broker_messages{queue_name="default"}'], seen["jobs_dlq_length"])
    assert seen['jobs_redis_memory_bytes{kind="used"}'] > 0
    assert 0 == seen["jobs_redis_evicted_keys_total"]


def test_the_settings_are_series(gauges):
    seen = gauges()

    assert 0.01 == seen['jobs_queue_slo_error_budget_ratio{queue_name="default",slo="success"}']
    assert 60 == seen['jobs_queue_slo_latency_seconds{queue_name="default"}']
    assert 100 == seen['jobs_queue_dead_limit{queue_name="default"}']
    assert 60 == seen['jobs_actor_time_limit_seconds{actor_name="csv-generation",queue_name="default"}']
