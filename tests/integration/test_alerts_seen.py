"""Alerts seen for real: a Prometheus with the project's rules watches the running service while things break."""

import re

import pytest
import yaml
from dashboards import RULES_FOLDER
from eventually import eventually
from monitoring_tools import PROMETHEUS, needs_prometheus
from service import Service

from devstack.servers import Prometheus, Valkey

pytestmark = needs_prometheus

#: Two minutes of the rules are a second here.
FASTER = 120
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

#: A queue is late soon, but its budget is not used up: it would take longer than a test to be forgotten again.
OBJECTIVES = {"SLO_LATENCY_SECONDS": "0.5", "SLO_LATENCY_RATIO": "0.01"}
THREADS = 4


def faster(duration):
    """Return a duration of PromQL divided by `FASTER`, in milliseconds."""
    number, unit = re.fullmatch(r"(\d+)([smhd])", duration).groups()
    return f"{int(number) * UNITS[unit] * 1000 // FASTER}ms"


def hurried(rule):
    """Return a rule whose windows and waits are shorter; the expression is otherwise as it is."""
    expr = re.sub(r"\[(\w+)\]", lambda window: f"[{faster(window[1])}]", rule["expr"])
    waits = {name: faster(rule[name]) for name in ("for", "keep_firing_for") if name in rule}
    return rule | waits | {"expr": expr}


def write_hurried_rules(folder):
    folder.mkdir()
    for path in RULES_FOLDER.glob("*.yml"):
        groups = yaml.safe_load(path.read_text())["groups"]
        for group in groups:
            group["rules"] = [hurried(rule) for rule in group["rules"]]
        (folder / path.name).write_text(yaml.safe_dump({"groups": groups}))
    return folder


class Watched:
    """The service, a Redis of its own, and the Prometheus that watches both."""

    def __init__(self, service, valkey, prometheus):
        self.service = service
        self.valkey = valkey
        self.prometheus = prometheus
        self.start_worker()

    def start_worker(self):
        self.worker = self.service.start_worker(WORKER_METRICS_PORT=str(self.service.metrics_port))

    def alerts(self):
        """Return {name: state} of the alerts that are pending or firing."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self.prometheus.ask("alerts")["alerts"]}

    def sees(self, name):
        eventually(lambda: self.alerts().get(name) == "firing", seconds=90, what=f"{name} firing")

    def is_over(self, name):
        eventually(lambda: name not in self.alerts(), seconds=90, what=f"{name} resolved")


@pytest.fixture(scope="module")
def watched(postgres, quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    postgres.execute("CREATE DATABASE watched TEMPLATE jobs_template")
    with Valkey(folder / "valkey", save=False) as valkey:
        servers = {"DATABASE_URL": postgres.url_of("watched"), "REDIS_URL": valkey.url}
        files = {"OUTPUT_DIR": str(folder / "output"), "WORKER_THREADS": str(THREADS)}
        service = Service({**quick, **OBJECTIVES, **servers, **files}, folder)
        try:
            service.start_api()
            with prometheus_for(service, folder) as prometheus:
                yield Watched(service, valkey, prometheus)
        finally:
            service.end()


def prometheus_for(service, folder):
    targets = {"jobs-api": service.api_port, "jobs-worker": service.metrics_port}
    rules = write_hurried_rules(folder / "rules")
    return Prometheus(folder / "prometheus", targets=targets, rules=rules, interval="1s", program=PROMETHEUS)


def test_a_service_that_is_well(watched):
    """Only the watchdog fires, which always does; and no rule fails on what the service really exports."""
    for number in range(5):
        watched.service.when(watched.service.post("csv-generation", {"number": number}), "completed")

    eventually(lambda: watched.alerts() == {"JobsWatchdog": "firing"}, seconds=90, what="calm")
    rules = [rule for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {"ok"} == {rule["health"] for rule in rules}


def test_workers_that_are_killed(watched):
    watched.worker.kill()

    watched.sees("JobsWorkersAllDown")
    watched.start_worker()
    watched.is_over("JobsWorkersAllDown")


def test_a_redis_that_stops(watched):
    watched.valkey.stop()

    waiting = watched.service.post("csv-generation", {"accepted": "without Redis"})
    watched.sees("JobsRedisDown")
    watched.valkey.start()
    watched.is_over("JobsRedisDown")
    watched.service.when(waiting, "completed")


def test_a_job_that_kills_its_workers(watched):
    # An increase is seen of a series that was there before.
    series = 'jobs_dead_letters_total{actor_name="test-die",reason="poison"}'
    eventually(lambda: watched.prometheus.ask("query", query=series)["result"], what="the series at 0")
    poison = watched.service.post("test-die", {"how": "kill"})

    watched.sees("JobsPoison")
    assert "poison" == watched.service.when(poison, "failed")["end_reason"]
    watched.is_over("JobsPoison")


def test_a_queue_that_stands_still(watched, tmp_path):
    """Every thread has a job that does not end, and another one waits."""
    payload = {"started": str(tmp_path / "started"), "go": str(tmp_path / "go")}
    jobs = [watched.service.post("test-wait-for-file", payload) for _ in range(THREADS + 1)]

    watched.sees("JobsQueueStalled")
    (tmp_path / "go").touch()
    watched.is_over("JobsQueueStalled")
    for job in jobs:
        watched.service.when(job, "completed")
