"""Every expression of every panel and rule, asked of a real Prometheus that scraped the real service at work."""

import os
import re
import signal

import pytest
from dashboards import DASHBOARDS, RULES, RULES_FOLDER, expressions, panels, selectors, with_variables
from eventually import eventually
from monitoring_tools import PROMETHEUS, needs_prometheus

from devstack.servers import Prometheus

#: Metrics that are not there in this test, each with the reason. What asks for them has no answer.
ABSENT = {
    "ALERTS": "nothing is wrong",
    "alertmanager_notifications_failed_total": "there is no Alertmanager",
    "alertmanager_notifications_total": "there is no Alertmanager",
    "jobs_pg_last_autovacuum_timestamp_seconds": "autovacuum comes after a minute at the soonest",
    "prometheus_notifications_sent_total": "there is no Alertmanager",
    'up{job="alertmanager"}': "there is no Alertmanager",
}

#: Long enough that what happened once is still in it.
WINDOW = "5m"


@pytest.fixture
def prometheus(service, tmp_path, free_port):
    port = free_port()
    targets = {"jobs-api": service.api_port, "jobs-worker": service.metrics_port, "prometheus": port}
    folder = tmp_path / "prometheus"
    with Prometheus(folder, port, targets=targets, rules=RULES_FOLDER, interval="1s", program=PROMETHEUS) as server:
        yield server


@needs_prometheus
def test_every_panel_and_rule_has_an_answer_from_a_service_at_work(service, prometheus, mail, tmp_path):
    service.start_api(CANARY_INTERVAL_SECONDS="1", CONSOLE_URL="http://localhost:3000/console")
    service.start_worker(CANARY_INTERVAL_SECONDS="1", MAIL_HOST="127.0.0.1", MAIL_PORT=str(mail.port))
    eventually(lambda: _answer(prometheus, "sum(up) == 3"), what="three targets scraped")

    # Twice, because a counter that is not there before its first step is seen to grow at the second. And a worker
    # process that starts anew is what the dashboards mark as a deploy.
    _mixed_work(service, tmp_path / "first")
    eventually(lambda: _answer(prometheus, "sum(jobs_attempt_errors_total) > 0"), what="the first round scraped")
    _kill_the_worker_of(tmp_path / "first" / "started")
    _mixed_work(service, tmp_path / "second")

    eventually(lambda: _all_answered(prometheus, dict(_questions())), what="an answer to each")
    assert not [rule for rule in _rules(prometheus) if rule["health"] != "ok"]
    for expr in _single_numbers():
        assert 1 == len(_answer(prometheus, expr)), expr
    for folder in ("first", "second"):
        (tmp_path / folder / "go").touch()


def test_what_is_absent_is_asked_for():
    asked = {selector for _, expr in _questions(everything=True) for selector in selectors(expr)}

    assert set(ABSENT) <= asked | {selector.partition("{")[0] for selector in asked}


def _mixed_work(service, folder):
    """Have a job of each fate: done, mailed, retried, exhausted, rejected; one that goes on, and one for later."""
    folder.mkdir()
    fates = {
        service.post("csv-generation", {"name": "Alice", "score": 95}): "completed",
        service.post("EMAIL_SEND", {"to": "test@example.com", "subject": "Hello", "body": "Done."}): "completed",
        service.post("test-fail-times", {"times": 1}): "completed",
        service.post("test-fail-times", {"times": 9}, max_attempts=1): "failed",
        service.post("test-reject", {}): "failed",
    }
    service.post("csv-generation", {"name": "Later"}, delay_seconds=3600)
    service.post("test-wait-for-file", {"started": str(folder / "started"), "go": str(folder / "go")})
    assert 422 == service.request("POST", "/jobs", {"type": "nobody-knows", "payload": {}})[0]
    for job_id, status in fates.items():
        service.when(job_id, status)


def _kill_the_worker_of(started):
    pid = int(eventually(started.read_text, what="a running job").split()[0])
    os.kill(pid, signal.SIGKILL)


def _questions(*, everything=False):
    """Yield (where it stands, what is asked): choices, panels, recording rules, and each series an alert reads.

    An alert's own expression has no answer while all is well. What reads what is absent is left out.
    """
    for place, expr in [*_choices(), *_panels(), *_rules_read()]:
        if everything or not any(_is_absent(selector) for selector in selectors(expr)) or " or " in expr:
            yield place, expr


def _is_absent(selector):
    return selector in ABSENT or selector.partition("{")[0] in ABSENT


def _choices():
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"]:
            for metric, label in re.findall(r"label_values\((.*), (\w+)\)", str(variable["query"])):
                yield f"{dashboard['uid']}: ${label}", with_variables(f"count by ({label}) ({metric})")


def _panels():
    for place, expr in expressions():
        yield place, with_variables(expr, WINDOW)


def _rules_read():
    for rule in RULES:
        if "record" in rule:
            yield rule["record"], rule["expr"]
        else:
            yield from ((f"{rule['alert']} reads {selector}", selector) for selector in selectors(rule["expr"]))


def _single_numbers():
    stats = [panel for board in DASHBOARDS.values() for panel in panels(board) if panel["type"] == "stat"]
    return [with_variables(panel["targets"][0]["expr"], WINDOW) for panel in stats]


def _all_answered(prometheus, questions):
    unanswered = {place: expr for place, expr in questions.items() if not _answer(prometheus, expr)}
    assert not unanswered, "\n".join(f"{place}: {expr}" for place, expr in unanswered.items())
    return True


def _answer(prometheus, expr):
    return prometheus.ask("query", query=expr)["result"]


def _rules(prometheus):
    return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
