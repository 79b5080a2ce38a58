"""The dashboards are what build.py makes, follow the rules of Grafana's dashboard-linter, and ask for what there is."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from console_pages import is_page
from dashboards import (
    DASHBOARDS,
    FILES,
    MONITORING,
    RECORDED,
    RULES,
    annotations,
    everything,
    expressions,
    metrics,
    panels,
    selectors,
    with_variables,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from monitoring_tools import PROMTOOL, needs_promtool

from jobs_service.metrics.catalogue import CATALOGUE, Source

register_default_plugins()

CONFIG = yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text())

PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in panels(dashboard)
]
GRAPHS = [panel for panel in PANELS if panel.values[0]["type"] in {"timeseries", "state-timeline"}]
EXPRESSIONS = [pytest.param(expr, id=place) for place, expr in expressions()]
RULE_EXPRESSIONS = [pytest.param(rule["expr"], id=rule.get("alert") or rule["record"]) for rule in RULES]

ASKED = {name for entry in [*EXPRESSIONS, *RULE_EXPRESSIONS] for name in metrics(entry.values[0])}
#: Asked for by a variable alone.
ASKED |= {"jobs_console_info"}

#: Grafana's names of units that the panels use. A name it does not know is shown as if it were a word.
UNITS = {"none", "short", "s", "ms", "ops", "cps", "reqps", "bytes", "percentunit"}
#: What Prometheus and the Alertmanager say of themselves.
FOREIGN = re.compile(r"up|ALERTS|(prometheus|alertmanager|scrape)_\w+")
#: Metrics that are the same on every app and worker, because they come from PostgreSQL, Redis or the settings.
KNOWN_ALIKE = {name for name, row in CATALOGUE.items() if row.origin is Source.SCRAPE}

each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
each_panel = pytest.mark.parametrize("panel", PANELS)
each_expression = pytest.mark.parametrize("expr", EXPRESSIONS)


def variables(dashboard):
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def links(panel):
    """Return the links of a panel: of its series, or of a table's cells."""
    config = panel["fieldConfig"]
    properties = [entry for override in config["overrides"] for entry in override["properties"]]
    cells = [link for entry in properties if entry["id"] == "links" for link in entry["value"]]
    return [*config["defaults"].get("links", []), *cells]


def test_the_committed_files_are_what_the_code_builds(tmp_path):
    subprocess.run([sys.executable, MONITORING / "grafana" / "build.py", tmp_path], check=True)

    built = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_text() for path in FILES}, "run: python monitoring/grafana/build.py"


@each_dashboard
def test_a_dashboard_has_a_fixed_identity_and_is_not_edited_in_the_browser(dashboard):
    assert dashboard["uid"]
    assert dashboard["title"]
    assert dashboard["description"].endswith(".")
    assert 42 == dashboard["schemaVersion"]
    assert dashboard["editable"] is False
    assert dashboard["id"] is None


@each_dashboard
def test_grafana_knows_every_field(dashboard):
    """Its own models keep what they know, and drop the rest: a misspelt option does nothing, and nobody is told."""
    kept = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))

    assert not list(dropped(dashboard, kept))


def dropped(written, kept, path=""):
    """Yield the places whose values are not empty and were not kept."""
    if isinstance(written, dict):
        for key, value in written.items():
            if key in kept:
                yield from dropped(value, kept[key], f"{path}/{key}")
            elif value:
                yield f"{path}/{key}"
    elif isinstance(written, list):
        assert len(written) == len(kept), path
        for value, other in zip(written, kept, strict=True):
            yield from dropped(value, other, f"{path}[]")
    elif written != kept:
        yield path


def test_a_field_that_grafana_does_not_know_is_seen():
    dashboard = {"title": "x", "panels": [{"type": "stat", "options": {"colourMode": "value"}}]}

    kept = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))

    assert ["/panels[]/options/colourMode"] == list(dropped(dashboard, kept))


def test_identities_are_unique():
    assert len(DASHBOARDS) == len({dashboard["title"] for dashboard in DASHBOARDS.values()})
    assert all(dashboard["uid"] == name for name, dashboard in DASHBOARDS.items())


@each_dashboard
def test_panel_ids_are_unique(dashboard):
    ids = [panel["id"] for panel in everything(dashboard)]

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
def test_variables_choose_the_data_source_and_what_is_shown(dashboard):
    source, *others, console = dashboard["templating"]["list"]

    assert ("datasource", "datasource", "Data source") == (source["name"], source["type"], source["label"])
    for variable in others:
        assert (2, True, True, ".+") == tuple(variable[key] for key in ("refresh", "multi", "includeAll", "allValue"))
    assert ("console", "label_values(jobs_console_info, url)") == (console["name"], console["query"]["query"])


@each_dashboard
def test_every_choice_has_an_effect_and_none_is_missing(dashboard):
    asked = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    asked += [variable["query"]["query"] for variable in variables(dashboard).values() if variable["type"] == "query"]
    used = set(re.findall(r"\$([a-z]\w*)", " ".join(asked)))

    assert used == variables(dashboard).keys() - {"datasource", "console"}


@each_dashboard
def test_a_dashboard_marks_deploys_and_alerts(dashboard):
    assert ["Deploys", "Alerts"] == [entry["name"] for entry in dashboard["annotations"]["list"]]
    assert all(entry["enable"] for entry in dashboard["annotations"]["list"])


@each_dashboard
def test_a_dashboard_leads_to_all_others(dashboard):
    link, console = dashboard["links"]

    assert ("dashboards", True, True) == (link["type"], link["keepTime"], link["includeVars"])
    assert set(link["tags"]) <= set(dashboard["tags"])
    # "raw": otherwise Grafana would encode the address.
    assert ("link", "${console:raw}") == (console["type"], console["url"])


def test_the_page_of_dashboards_lists_each():
    page = (MONITORING.parent / "docs" / "dashboards.md").read_text()

    listed = re.findall(r"\| \[([^\]]+)\]\(http://localhost:3001/d/([\w-]+)\)", page)
    assert sorted((board["title"], board["uid"]) for board in DASHBOARDS.values()) == sorted(listed)


def test_the_runbooks_have_a_panel_for_every_alert():
    titles = {panel["title"] for panel in everything(DASHBOARDS["jobs-runbooks"])}

    assert not {rule["alert"] for rule in RULES if "alert" in rule} - titles


@each_panel
def test_a_link_leads_to_a_dashboard_that_can_show_what_was_clicked(panel):
    for link in links(panel):
        if link["url"].startswith("${console:raw}/"):
            continue
        uid, parameters = re.fullmatch(r"/d/([\w-]+)\?(.*)", link["url"]).groups()
        assert link["title"]
        assert uid in DASHBOARDS
        assert "${__url_time_range}" in parameters
        for variable, label in re.findall(r"var-(\w+)=\$\{__field\.labels\.(\w+)\}", parameters):
            assert variable in variables(DASHBOARDS[uid])
            assert all(label in target["legendFormat"] for target in panel["targets"])


@each_panel
def test_a_link_to_the_console_leads_to_a_page_that_there_is(panel):
    for link in links(panel):
        if link["url"].startswith("${console:raw}"):
            path, label = re.fullmatch(r"\$\{console:raw\}(.+)\$\{__field\.labels\.(\w+)\}", link["url"]).groups()
            assert is_page(f"{path}default")
            assert all(label in target["legendFormat"] for target in panel["targets"])


@each_panel
def test_a_panel_says_what_it_shows_and_in_what_unit(panel):
    assert panel["title"]
    assert panel["description"].endswith(".")
    properties = [entry for override in panel["fieldConfig"]["overrides"] for entry in override["properties"]]
    units = {entry["value"] for entry in properties if entry["id"] == "unit"}
    assert {panel["fieldConfig"]["defaults"]["unit"], *units} <= UNITS


@pytest.mark.parametrize("entry", [*PANELS, *(pytest.param(entry, id=entry["name"]) for entry in annotations())])
def test_the_chosen_data_source_is_asked(entry):
    chosen = {"type": "prometheus", "uid": "${datasource}"}

    assert chosen == entry["datasource"]
    assert all(chosen == target["datasource"] for target in entry.get("targets", []))


@each_panel
def test_queries_have_names_of_their_own(panel):
    names = [target["refId"] for target in panel["targets"]]

    assert names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("panel", GRAPHS)
def test_series_are_named_by_labels_they_have(panel):
    """A legend of a label that was summed away is empty, and an automatic one is the whole expression."""
    for target in panel["targets"]:
        assert "__auto" != target["legendFormat"]
        lists = re.findall(r"\bby \(([^)]*)\)|\b(\w+):\w+:\w+", target["expr"])
        kept = {label for pair in lists for label in re.findall(r"\w+", " ".join(pair))}
        assert not kept or set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept


@each_expression
def test_rates_are_over_the_interval_that_fits_the_zoom(expr):
    assert all(window == "$__rate_interval" for window in re.findall(r"\bi?rate\([^\[]*\[([^\]]*)\]", expr)), (
        "rate() over a fixed window is empty or blurred at other zooms"
    )


@each_expression
def test_counters_are_only_seen_as_rates(expr):
    counters = re.findall(r"(\w*\(?)(?<![\w:])\w+(?:_total|_bucket|_count|_sum)\b", expr)

    assert all(before in {"rate(", "irate(", "increase("} for before in counters)


@pytest.mark.parametrize("expr", [*EXPRESSIONS, *RULE_EXPRESSIONS])
def test_what_several_processes_know_alike_is_counted_once(expr):
    """App and worker both export what PostgreSQL says: a plain sum would double with each replica."""
    for name in KNOWN_ALIKE & metrics(expr):
        for before in re.findall(rf"([\w ,()]*)\b{name}\b", expr):
            assert re.search(r"(max|min|absent)( by \([\w, ]+\))? ?\((increase\()?$", before), f"{name} needs max()"


@pytest.mark.parametrize("expr", [*EXPRESSIONS, *RULE_EXPRESSIONS])
def test_every_series_asked_for_exists(expr):
    asked = metrics(expr)

    assert asked or expr == "vector(1)"
    assert not {name for name in asked - CATALOGUE.keys() - RECORDED if not FOREIGN.fullmatch(name)}


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_metric_is_on_a_panel_or_in_a_rule(name):
    assert name in ASKED, "nobody looks at it: add a panel below monitoring/grafana/"


def test_what_an_expression_reads_is_found():
    expr = 'sum by (queue_name) (rate(jobs_finished_total{outcome="failed"}[5m])) / on (queue_name) a:jobs_b:c > up'

    assert {'jobs_finished_total{outcome="failed"}', "a:jobs_b:c", "up"} == selectors(expr)


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
        for number, (_, expr) in enumerate(expressions())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    subprocess.run([PROMTOOL, "check", "rules", file], check=True)
