"""The dashboards are what build.py makes, follow the rules of Grafana's dashboard-linter, and ask for what there is."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from monitoring_tools import PROMTOOL, needs_promtool

from jobs_service.metrics.definitions import CATALOGUE

MONITORING = Path(__file__).parents[2] / "monitoring"
FILES = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
RULES = [
    rule
    for path in sorted((MONITORING / "prometheus" / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
CONFIG = yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text())

PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel.values[0]["targets"]]

each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
each_panel = pytest.mark.parametrize("panel", PANELS)


def series(expr: str) -> set[str]:
    """Return the names of the series in an expression: words with a selector, or in the form level:metric:operation."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    return set(re.findall(r"\b((?:jobs|http_server|up)\w*|\w+:\w+:\w+)(?=[{\[)\s]|$)", bare)) - {"jobs"}


def exported() -> set[str]:
    """Return the names of what the API and the workers serve."""
    return {name for name in CATALOGUE if not name.startswith("dramatiq_")}


def test_the_committed_files_are_what_the_code_builds(tmp_path):
    subprocess.run([sys.executable, MONITORING / "grafana" / "build.py", tmp_path], check=True)

    built = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_text() for path in FILES}, "run: python monitoring/grafana/build.py"


@each_dashboard
def test_a_dashboard_has_a_fixed_identity_and_is_not_edited_in_the_browser(dashboard):
    assert dashboard["uid"]
    assert dashboard["title"]
    assert dashboard["description"]
    assert 42 == dashboard["schemaVersion"]
    assert dashboard["editable"] is False
    assert dashboard["id"] is None


def test_identities_are_unique():
    assert len(DASHBOARDS) == len({dashboard["uid"] for dashboard in DASHBOARDS.values()})
    assert all(dashboard["uid"] == name for name, dashboard in DASHBOARDS.items())


@each_dashboard
def test_panel_ids_are_unique(dashboard):
    ids = [panel["id"] for panel in dashboard["panels"]]

    assert len(ids) == len(set(ids))
    assert all(number > 0 for number in ids)


@each_dashboard
def test_panels_neither_overlap_nor_leave_the_grid(dashboard):
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@each_dashboard
def test_variables_choose_the_data_source_and_the_queues(dashboard):
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}

    assert ("datasource", "Data source") == (variables["datasource"]["type"], variables["datasource"]["label"])
    for variable in variables.values():
        if variable["type"] == "query":
            assert (2, True, True, ".+") == tuple(
                variable[key] for key in ("refresh", "multi", "includeAll", "allValue")
            )


@each_panel
def test_a_panel_says_what_it_shows_and_in_what_unit(panel):
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]


@each_panel
def test_a_panel_asks_the_chosen_data_source(panel):
    chosen = {"type": "prometheus", "uid": "${datasource}"}

    assert chosen == panel["datasource"]
    assert all(chosen == target["datasource"] for target in panel["targets"])


@each_panel
def test_queries_have_names_of_their_own(panel):
    names = [target["refId"] for target in panel["targets"]]

    assert names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_rates_are_over_the_interval_that_fits_the_zoom(expr):
    assert all(window == "$__rate_interval" for window in re.findall(r"\bi?rate\([^\[]*\[([^\]]*)\]", expr)), (
        "rate() over a fixed window is empty or blurred at other zooms"
    )


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_counters_are_only_seen_as_rates(expr):
    counters = re.findall(r"(\w*\(?)\b\w+(?:_total|_bucket|_count|_sum)\b", expr)

    assert all(before in {"rate(", "irate(", "increase("} for before in counters)


@pytest.mark.parametrize("expr", [*EXPRESSIONS, *(rule["expr"] for rule in RULES)])
def test_what_several_processes_know_alike_is_counted_once(expr):
    """App and worker both export what PostgreSQL says: a plain sum would double with each replica."""
    for name in ("jobs_current", "jobs_dead", "jobs_workers", "jobs_queue_oldest_eligible_age_seconds"):
        for before in re.findall(rf"([\w ,()]*)\b{name}\b", expr):
            assert re.search(r"max( by \([\w, ]+\))? ?\($", before), f"{name} needs max() around it"


@pytest.mark.parametrize("expr", [*EXPRESSIONS, *(rule["expr"] for rule in RULES)])
def test_every_series_asked_for_exists(expr):
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for name in series(expr)}

    assert asked or expr == "vector(1)"
    assert not asked - exported() - recorded - {"up"}


@pytest.mark.xfail(reason="panels and rules for the newest metrics are being written", strict=True)
def test_every_metric_is_on_a_panel_or_in_a_rule():
    asked = set().union(*(series(expr) for expr in [*EXPRESSIONS, *(rule["expr"] for rule in RULES)]))
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}

    unseen = exported() - shown
    assert not unseen, f"nobody looks at {sorted(unseen)}: add a panel in monitoring/grafana/overview.py"


@pytest.mark.parametrize("job", CONFIG["scrape_configs"], ids=lambda job: job["job_name"])
def test_a_flood_of_series_fails_its_own_scrape(job):
    assert (20_000, 20) == (job["sample_limit"], job["label_limit"])


def test_grafana_knows_the_scrape_interval():
    """$__rate_interval is computed from it: with a shorter one, rates would have holes."""
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())

    assert CONFIG["global"]["scrape_interval"] == source["datasources"][0]["jsonData"]["timeInterval"]


def test_grafana_loads_the_folder_that_compose_mounts():
    provider = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/jobs.yml").read_text())["providers"][0]
    compose = yaml.safe_load((MONITORING.parent / "docker-compose.yml").read_text())

    path = provider["options"]["path"]
    assert any(f":{path}:" in volume for volume in compose["services"]["grafana"]["volumes"])
    assert provider["allowUiUpdates"] is False


@needs_promtool
def test_promtool_accepts_the_configuration():
    subprocess.run([PROMTOOL, "check", "config", MONITORING / "prometheus" / "prometheus.yml"], check=True)


@needs_promtool
def test_promtool_accepts_every_expression_of_every_panel(tmp_path):
    rules = [
        {"record": f"panel:expression:{number}", "expr": with_variables(expr)}
        for number, expr in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    subprocess.run([PROMTOOL, "check", "rules", file], check=True)


def with_variables(expr: str) -> str:
    """Return the expression as Grafana sends it when everything is chosen."""
    return expr.replace("$__rate_interval", "1m").replace("$queue_name", ".+")
