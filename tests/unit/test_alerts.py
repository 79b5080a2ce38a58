"""Every alert says who is to act, what is the matter, and where to read on; and is tested with promtool."""

import re
import subprocess

import pytest
import yaml
from console_pages import CONSOLE, is_page
from dashboards import DASHBOARDS, MONITORING, RECORDED, RULES, RULES_FOLDER, metrics, selectors
from monitoring_tools import AMTOOL, PROMTOOL, needs_amtool, needs_promtool

from jobs_service.metrics.catalogue import CATALOGUE

ROOT = MONITORING.parent
TEST_FILES = sorted((MONITORING / "prometheus" / "tests").glob("*.yml"))
ALERTMANAGER = MONITORING / "alertmanager" / "alertmanager.yml"
RUNBOOKS = {path: path.read_text() for path in sorted((ROOT / "docs" / "runbooks").glob("*.md"))}

ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = {rule["alert"] for rule in ALERTS}
CASES = [case for path in TEST_FILES for case in yaml.safe_load(path.read_text())["tests"]]

SEVERITIES = {"critical", "warning", "info", "none"}
#: What Prometheus and the Alertmanager count of themselves.
FOREIGN = {
    "up",
    "scrape_samples_scraped",
    "prometheus_rule_evaluation_failures_total",
    "alertmanager_notifications_failed_total",
}
#: Labels that Prometheus, its client for several processes, or a histogram adds to those in the catalogue.
ADDED_LABELS = {"job", "instance", "pid", "le"}
#: What each section of a runbook answers, in this order.
QUESTIONS = ["What it means", "How to diagnose", "How to fix", "How to verify"]

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])


def fired(case, name):
    """Return whether the alert fires at each time that a case looks at it, in order of time."""
    looks = [look for look in case["alert_rule_test"] if look["alertname"] == name]
    return [bool(look["exp_alerts"]) for look in looks]


def sections(text):
    """Return the sections of a runbook: {title: text}."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_names_are_unique():
    names = [rule["alert"] for rule in ALERTS]

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"Jobs([A-Z][a-z]+)+", name) for name in names)


@each_alert
def test_an_alert_says_how_urgent_it_is_and_whose(alert):
    assert alert["labels"]["severity"] in SEVERITIES
    assert alert["labels"]["team"]


@each_alert
def test_an_alert_says_what_is_the_matter_with_numbers(alert):
    notes = alert["annotations"]

    assert {"summary", "description", "runbook_url", "dashboard_url", "console_url"} == notes.keys()
    assert not notes["summary"].endswith(".")
    assert notes["description"].removesuffix("{{ end }}").endswith(".")
    assert re.search(r"\$value|\b0\b", notes["description"])


@each_alert
def test_an_alert_has_a_section_in_a_runbook(alert):
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")

    assert alert["alert"].lower() == anchor
    assert alert["alert"] in sections(RUNBOOKS[ROOT / path])


@each_alert
def test_an_alert_leads_to_a_dashboard(alert):
    uid = re.match(r"http://localhost:3001/d/([a-z-]+)", alert["annotations"]["dashboard_url"])[1]

    assert uid in DASHBOARDS


@each_alert
def test_an_alert_leads_to_a_page_of_the_console(alert):
    url = re.sub(r"\{\{ [^}]*\}\}", "default", alert["annotations"]["console_url"])

    assert is_page(url.removeprefix(CONSOLE))


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.name)
def test_the_links_of_a_runbook_lead_to_pages_of_the_console(path):
    links = re.findall(rf"\({CONSOLE}([^)]*)\)", RUNBOOKS[path])

    assert links == [link for link in links if is_page(link)]
    sent = {alert["alert"]: alert["annotations"]["console_url"] for alert in ALERTS}
    for title, text in sections(RUNBOOKS[path]).items():
        # What leads further than the overview.
        if sent.get(title, CONSOLE) != CONSOLE:
            assert "In the console: [" in text, title


@each_alert
def test_a_link_to_a_dashboard_chooses_what_the_alert_is_about(alert):
    url = alert["annotations"]["dashboard_url"]
    uid = re.search(r"/d/([a-z-]+)", url)[1]

    for chosen in re.findall(r"var-(\w+)=", url):
        variables = DASHBOARDS[uid]["templating"]["list"]
        assert chosen in {variable["name"] for variable in variables}


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.name)
def test_a_runbook_answers_the_same_questions_about_each_alert(path):
    for title, text in sections(RUNBOOKS[path]).items():
        if title.startswith("Jobs"):
            assert title in NAMES, f"{title} is no alert"
            assert QUESTIONS == re.findall(r"^\*\*([^*]+)\*\*", text, re.MULTILINE), title


@each_rule
def test_a_rule_reads_what_there_is(rule):
    read = metrics(rule["expr"])

    assert read or rule["expr"] == "vector(1)"
    assert not read - CATALOGUE.keys() - RECORDED - FOREIGN


@each_rule
def test_a_rule_matches_labels_that_the_metric_has(rule):
    for selector in selectors(rule["expr"]):
        name, _, matchers = selector.partition("{")
        row = CATALOGUE.get(re.sub(r"_(bucket|count|sum)$", "", name))
        if row:
            asked = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", matchers))
            assert asked <= {*row.label_names, *ADDED_LABELS}, selector


@each_alert
def test_an_alert_is_seen_to_fire_to_stay_quiet_and_to_resolve(alert):
    name = alert["alert"]
    seen = [fired(case, name) for case in CASES if case["name"].startswith(name + " ")]

    assert any(any(looks) for looks in seen), "no case in which it fires"
    if name != "JobsWatchdog":
        assert any(not any(looks) for looks in seen), "no case in which it stays quiet"
        assert any(True in looks and not looks[-1] for looks in seen), "no case in which it resolves"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_case_is_about_one_alert_and_feeds_what_that_reads(case):
    """A case that feeds nothing the alert reads stays quiet whatever the rule says."""
    (name,) = {look["alertname"] for look in case["alert_rule_test"]}
    (alert,) = [rule for rule in ALERTS if rule["alert"] == name]

    fed = {metric for series in case["input_series"] for metric in metrics(series["series"])}
    assert case["name"].startswith(name + " ")
    assert fed & read_in_the_end(alert["expr"]) or "absent" in alert["expr"] or name == "JobsWatchdog"


def read_in_the_end(expr):
    """Return the metrics that an expression reads, recorded ones resolved."""
    expressions = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
    read = set()
    for name in metrics(expr):
        read |= read_in_the_end(expressions[name]) if name in expressions else {name}
    return read


@needs_promtool
def test_promtool_accepts_the_rules():
    subprocess.run([PROMTOOL, "check", "rules", *sorted(RULES_FOLDER.glob("*.yml"))], check=True)


@needs_promtool
@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.name)
def test_the_rules_pass_their_own_tests(path):
    done = subprocess.run([PROMTOOL, "test", "rules", path], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_alertmanager_keeps_quiet_are_alerts_that_exist():
    config = yaml.safe_load(ALERTMANAGER.read_text())
    rules = config["inhibit_rules"]
    matchers = [matcher for rule in rules for matcher in rule["source_matchers"] + rule["target_matchers"]]
    named = [found[1] for matcher in matchers if (found := re.match(r'alertname=~?"(.+)"', matcher))]

    for pattern in "|".join(named).split("|"):
        assert any(re.fullmatch(pattern, name) for name in NAMES), f"{pattern} is no alert"


@needs_amtool
def test_amtool_accepts_the_configuration():
    subprocess.run([AMTOOL, "check-config", ALERTMANAGER], check=True)


@needs_amtool
@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_goes_to_whom_its_severity_says(alert):
    labels = [f"alertname={alert['alert']}", *(f"{name}={value}" for name, value in alert["labels"].items())]
    argv = [AMTOOL, "config", "routes", "test", f"--config.file={ALERTMANAGER}", *labels]

    receiver = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    by_severity = {"critical": "operator", "warning": "operator", "info": "none", "none": "heartbeat"}
    assert by_severity[alert["labels"]["severity"]] == receiver
