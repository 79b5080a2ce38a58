"""Where processes keep their values: slots, files, and labels without end."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from jobs_service.metrics import dramatiq_names
from jobs_service.metrics.catalogue import _RUN

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """Run Python code in a process that keeps its values in the test's folder, and return what it prints."""

    def run(code):
        environ = {"PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout

    return run


def counted(folder, name):
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    lines = generate_latest(registry).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}


@pytest.mark.parametrize(
    "first", ["prometheus_client", "dramatiq, falcon, gunicorn.app.base", "jobs_service.worker.assembly"]
)
def test_values_are_shared_whatever_is_imported_first(run, first):
    code = f"""
    import {first}
    from jobs_service.metrics.catalogue import STARTED
    print(type(STARTED.labels("default")._value)._multiprocess)
    """

    assert "True" == run(code).strip()


def test_a_successor_goes_on_counting_in_its_predecessors_files(run, tmp_path):
    code = """
    import os, signal
    from jobs_service.metrics import catalogue
    catalogue.STARTED.labels("default").inc(3)
    catalogue.THREADS.labels().set(8)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            run(code)

    assert {'jobs_started_total{queue_name="default"}': 6} == counted(tmp_path, "jobs_started_total")
    assert ["counter_1.db", "gauge_livesum_1.db"] == sorted(path.name for path in tmp_path.glob("*.db"))


def test_processes_at_a_time_have_slots_of_their_own(run, tmp_path):
    code = """
    import os
    from jobs_service.metrics import catalogue; from jobs_service.metrics import multiprocess
    catalogue.STARTED.labels("default").inc()
    if (child := os.fork()) == 0:
        catalogue.STARTED.labels("default").inc()
        print(multiprocess.slot(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(multiprocess.slot())
    """

    assert ["2", "1"] == run(code).split()
    assert {'jobs_started_total{queue_name="default"}': 2} == counted(tmp_path, "jobs_started_total")


def test_a_process_that_only_serves_takes_no_slot(run, tmp_path):
    run("from jobs_service.metrics import exposition")

    assert [] == list(tmp_path.iterdir())


def test_a_thousand_classes_of_exceptions_are_few_series_also_after_a_restart(run, tmp_path):
    code = """
    import sys
    from jobs_service.config import Settings
    from jobs_service.events import JobRetried
    from jobs_service.metrics.slo import Objectives
    from jobs_service.worker.middleware.attempt_metrics import AttemptMetrics
    settings = Settings.from_env({{"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h"}})
    attempts = AttemptMetrics(Objectives(settings))
    for number in range(1000):
        facts = {{"job_id": "x", "type": "t", "queue": "default", "attempt": 1, "error": f"{run}{{number}}"}}
        attempts.on_event(JobRetried(**facts, seconds=0.1, delay_seconds=1.0))
    """
    for number in range(2):
        run(code.format(run=f"Run{number}Error"))

    series = counted(tmp_path, "jobs_attempt_errors_total")
    assert 51 == len(series)
    assert 2000 == sum(series.values())


API = """
    from jobs_service.api.app import count as subscriber
"""
WORKER = """
    from jobs_service.config import Settings
    from jobs_service.metrics.slo import Objectives
    from jobs_service.worker.middleware.attempt_metrics import AttemptMetrics
    settings = Settings.from_env({"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h"})
    subscriber = AttemptMetrics(Objectives(settings)).on_event
"""


@pytest.mark.parametrize("service", [API, WORKER], ids=["api", "worker"])
def test_each_failure_of_a_subscriber_is_counted(run, tmp_path, service):
    code = """
    from jobs_service import events
    def fail(event):
        raise OSError
    events.subscribe("logs", fail)
    events.subscribe("metrics", subscriber)
    for _ in range(3):
        events.emit(events.BreakerClosed(breaker="smtp://mail"))
    """

    run(textwrap.dedent(service) + textwrap.dedent(code))

    assert {'jobs_event_subscriber_errors_total{subscriber="logs"}': 3} == counted(
        tmp_path, "jobs_event_subscriber_errors_total"
    )


def test_our_buckets_hold_every_bound_of_dramatiqs():
    assert {bound / 1000 for bound in dramatiq_names.BUCKETS} <= {*_RUN}


def test_observations_are_written_in_the_end_and_the_same_as_one_by_one(run, tmp_path):
    code = """
    from jobs_service.metrics import observations
    from jobs_service.metrics.catalogue import QUEUE_LATENCY
    for value in (0.0, 0.01, 0.011, 3, 3, 1_000_000):
        observations.add(QUEUE_LATENCY.labels("default"), value)
        QUEUE_LATENCY.labels("other").observe(value)
    """
    run(code)

    series = counted(tmp_path, "jobs_queue_latency_seconds")
    noted = {name: number for name, number in series.items() if "default" in name}
    assert noted == {name.replace("other", "default"): number for name, number in series.items() if "other" in name}
    assert 6 == noted['jobs_queue_latency_seconds_count{queue_name="default"}']


def test_the_benchmarks_bare_service_counts_nothing(run, tmp_path):
    code = f"""
    import runpy
    runpy.run_path({str(ROOT / "bench" / "bare" / "sitecustomize.py")!r})
    from jobs_service.metrics.catalogue import RUN_DURATION, STARTED
    STARTED.labels("default").inc()
    RUN_DURATION.labels("default", "type").observe(1)
    """
    run(code)

    assert [] == list(tmp_path.glob("*.db"))
