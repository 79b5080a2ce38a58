"""What Prometheus gets from the real API and workers."""

import os
import re
import signal
import subprocess
import urllib.request
from dataclasses import dataclass

import pytest
from eventually import eventually
from monitoring_tools import PROMTOOL, needs_promtool
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from service import Service

from devstack.processes import descendants
from jobs_service.metrics.catalogue import ATTEMPT_OUTCOMES, CATALOGUE, Source

#: The migrated database that tests/conftest.py makes.
TEMPLATE = "jobs_template"

#: Samples that are there only when there is something to tell.
ONLY_SOMETIMES = {
    "jobs_canary_last_success_timestamp_seconds": "no canary has run yet",
    "jobs_canary_latency_seconds": "no canary has run yet",
    "jobs_dead_oldest_timestamp_seconds": "there is no dead letter",
    "jobs_pg_last_autovacuum_timestamp_seconds": "autovacuum has not run yet",
    "jobs_attempt_errors_total": "no attempt has failed",
    "jobs_console_info": "CONSOLE_URL is not set",
    "http_server_request_duration_seconds": "the first scrape comes before its own observation",
}


@dataclass(frozen=True)
class Scrapes:
    """What the two endpoints answered, in this order: before the first job, and after a mixed load."""

    fresh: list[str]
    loaded: list[str]
    openmetrics: list[tuple[str, str]]
    plain: list[tuple[str, str]]


@pytest.fixture(scope="module")
def scrapes(postgres, valkey, tmp_path_factory):
    """One stack for all tests that only read: it is gone when they begin."""
    postgres.execute(f"CREATE DATABASE test_scrapes TEMPLATE {TEMPLATE}")
    with valkey.client() as client:
        client.flushall()
    urls = {"DATABASE_URL": postgres.url_of("test_scrapes"), "REDIS_URL": f"{valkey.url}/0"}
    folder = tmp_path_factory.mktemp("scrapes")
    service = Service(
        {"CANARY_INTERVAL_SECONDS": "0", "RETRY_BACKOFF_SECONDS": "0.1", "RELAY_INTERVAL_SECONDS": "0.1", **urls},
        folder,
    )
    service.environ["OUTPUT_DIR"] = str(folder / "output")
    try:
        return take_scrapes(started(service))
    finally:
        service.end()
        postgres.execute("DROP DATABASE test_scrapes WITH (FORCE)")


def take_scrapes(service):
    ports = (service.api_port, service.metrics_port)
    fresh = [scrape(port)[1] for port in ports]
    mixed_load(service)
    settled = {"jobs_finished_total": 3, "jobs_worker_running": 0, "jobs_dlq_length": 1, "jobs_dead": 1}
    # Histograms are written once a second.
    settled |= {"jobs_run_duration_seconds_count": 5, "jobs_end_to_end_seconds_count": 3}
    eventually(lambda: settled == {name: value(service, name) for name in settled}, what="settled metrics")
    return Scrapes(
        fresh=fresh,
        loaded=[scrape(port)[1] for port in ports],
        openmetrics=[scrape(port, "application/openmetrics-text; version=1.0.0") for port in ports],
        plain=[scrape(port, "text/plain;version=0.0.4") for port in ports],
    )


def mixed_load(service):
    """One job completes, one fails once and completes, one fails twice and is a dead letter."""
    jobs = [service.post("test-fail-times", {"times": times}, max_attempts=2) for times in (0, 1, 9)]
    for job_id, status in zip(jobs, ("completed", "completed", "failed"), strict=True):
        service.when(job_id, status)


def started(service):
    """Start an API and a worker, and wait until the worker's process has looked at itself."""
    service.start_api()
    service.worker = service.start_worker()
    eventually(lambda: samples(service, "jobs_worker_heartbeat_timestamp_seconds"), what="a first sample")
    return service


@pytest.fixture
def stack(service):
    return started(service)


def scrape(port, accept=""):
    """Return the content type and the text of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=15) as reply:
        return reply.headers["Content-Type"], reply.read().decode()


def of_name(text, name):
    """Return {labels: value} of the samples of one name."""
    found = [sample for family in parse_text(text) for sample in family.samples if sample.name == name]
    return {tuple(sorted(sample.labels.items())): sample.value for sample in found}


def samples(service, name, port=None):
    try:
        return of_name(scrape(port or service.metrics_port)[1], name)
    except OSError:
        return {}


def value(service, name, port=None):
    """Return the sum over all series of one metric."""
    return sum(samples(service, name, port).values())


def exported(texts):
    """Return the names of all families with a sample."""
    families = [family for text in texts for family in parse_text(text) if family.samples]
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


def test_a_fresh_stack_exports_the_whole_catalogue_and_nothing_else(scrapes):
    assert CATALOGUE.keys() - ONLY_SOMETIMES.keys() == exported(scrapes.fresh) - ONLY_SOMETIMES.keys()


def test_what_is_known_in_advance_is_zero_before_anything_happens(scrapes):
    _, text = scrapes.fresh
    rows = [row for row in CATALOGUE.values() if {"actor_name", "queue_name"} & {*row.label_names}]
    counted = {row.name.removesuffix("_total") for row in rows if row.origin in {Source.WORKER, Source.DRAMATIQ}}
    families = [family for family in parse_text(text) if family.type != "gauge" and family.name in counted]

    assert {0} == {sample.value for family in families for sample in family.samples}
    for outcome in ATTEMPT_OUTCOMES:
        series = f'{{actor_name="test-fail-times",outcome="{outcome}",queue_name="default"}}'
        assert f"jobs_attempts_total{series} 0.0" in text


@needs_promtool
def test_promtool_has_nothing_to_object(scrapes):
    for text in scrapes.loaded:
        checked = subprocess.run(
            [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        # The one name is Dramatiq's.
        objections = [line for line in checked.stderr.splitlines() if "dramatiq_message_duration_millis" not in line]
        assert [] == objections


def test_every_format_prometheus_may_ask_for_can_be_read(scrapes):
    for kind, text in scrapes.openmetrics:
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        assert list(parse_openmetrics(text))
    for kind, text in scrapes.plain:
        assert kind.startswith("text/plain; version=")
        assert list(parse_text(text))


def test_dramatiqs_names_have_the_right_values(scrapes):
    _, text = scrapes.loaded

    expected = {
        "dramatiq_messages_total": 5,
        "dramatiq_message_errors_total": 3,
        "dramatiq_message_retries_total": 2,
        "dramatiq_message_rejects_total": 1,
        "dramatiq_messages_inprogress": 0,
        "dramatiq_delayed_messages_inprogress": 0,
        "dramatiq_message_duration_milliseconds_count": 5,
    }
    assert expected == {name: sum(of_name(text, name).values()) for name in expected}
    buckets = of_name(text, "dramatiq_message_duration_milliseconds_bucket")
    assert 5 == sum(count for labels, count in buckets.items() if ("le", "+Inf") in labels)


def test_what_ends_is_counted_by_reason_error_age_and_attempts(scrapes):
    _, text = scrapes.loaded
    job = {"actor_name": "test-fail-times", "queue_name": "default"}

    def number(name, **labels):
        return of_name(text, name)[tuple(sorted(labels.items()))]

    assert 1 == number("jobs_dead_letters_total", **job, reason="attempts_exhausted")
    assert 3 == number("jobs_attempt_errors_total", **job, error_type="RuntimeError")
    assert 3 == number("jobs_end_to_end_seconds_count", queue_name="default")
    assert 5 == number("jobs_attempts_per_job_sum", **job)
    assert 2 == number("jobs_state_sync_duration_seconds_count", operation="complete")
    assert 1 == number("jobs_state_sync_duration_seconds_count", operation="fail")
    assert 1 == number("jobs_log_records_total", level="error", logger="events")


def test_a_late_start_is_one_beyond_the_queues_own_target(service):
    service.start_api()
    job_id = service.post("test-fail-times", {"times": 0})
    service.start_worker(SLO_LATENCY_SECONDS="3600", SLO_QUEUE_LATENCY_SECONDS="default=0.001")

    service.when(job_id, "completed")

    eventually(lambda: value(service, "jobs_started_late_total") == 1, what="a late start")
    assert {(("queue_name", "default"),): 0.001} == samples(service, "jobs_queue_slo_latency_seconds")


def test_gauges_of_a_killed_process_are_gone_at_the_next_scrape(stack, tmp_path):
    waiting = {"started": str(tmp_path / "started"), "go": str(tmp_path / "go")}
    stack.post("test-wait-for-file", waiting)
    eventually(lambda: value(stack, "jobs_worker_running") == 1, what="a running attempt")
    assert value(stack, "jobs_worker_oldest_running_seconds") > 0
    stack.worker.send(signal.SIGSTOP)  # or the supervisor would start a successor, whose gauges are there at once

    commands = [pid for pid in descendants(stack.worker.pid) if descendants(pid)]
    for pid in {child for command in commands for child in descendants(command)}:
        os.kill(pid, signal.SIGKILL)

    gone = ("jobs_worker_running", "jobs_worker_threads", "jobs_worker_heartbeat_timestamp_seconds")
    eventually(lambda: [{}, {}, {}] == [samples(stack, name) for name in gone], what="no gauge of the dead")
    (tmp_path / "go").touch()
    stack.worker.send(signal.SIGCONT)
    eventually(lambda: value(stack, "jobs_worker_threads") == 4, what="the successor's gauges")


def test_a_postgresql_that_is_down_blanks_what_it_knows_and_nothing_else(stack, postgres):
    postgres.stop()
    try:
        for port in (stack.api_port, stack.metrics_port):

            def seen(port=port):
                success = {
                    dict(key)["collector"]: n for key, n in samples(stack, "jobs_collector_success", port).items()
                }
                assert success["jobs"] == success["postgresql"] == 0
                assert success["redis"] == success["settings"] == 1
                return True

            eventually(seen, what="failing collectors")
            assert 0 == value(stack, "jobs_pg_up", port)
            assert 1 == value(stack, "jobs_redis_up", port)
    finally:
        postgres.start()

    eventually(lambda: value(stack, "jobs_pg_up") == 1, what="PostgreSQL's metrics")


def test_metrics_are_for_the_internal_network(service):
    service.start_api()
    url = f"http://127.0.0.1:{service.api_port}/metrics"
    request = urllib.request.Request(url, headers={"X-Forwarded-For": "203.0.113.7"})

    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)
    assert re.search("^jobs_build_info", scrape(service.api_port)[1], re.MULTILINE)
