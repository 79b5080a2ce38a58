"""The links lead to dashboards that there are, with variables that those have."""

import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from jobs_service.api.console import grafana

DASHBOARDS = Path(__file__).parents[2] / "monitoring" / "grafana" / "dashboards"
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
BASE = "https://grafana.example/sub"

LINKS = [
    grafana.type_dashboard(BASE, "csv-generation&x=<1>", start=NOON, end=NOON),
    grafana.queue_dashboard(BASE, "mail", start=NOON, end=NOON),
    grafana.workers_dashboard(BASE, start=NOON, end=NOON),
]


@pytest.mark.parametrize("link", LINKS)
def test_a_link_leads_to_a_dashboard_and_its_variables(link):
    address = urlsplit(link)
    folder, uid = address.path.rsplit("/", 1)

    dashboard = json.loads((DASHBOARDS / f"{uid}.json").read_text())

    variables = {name.removeprefix("var-") for name in parse_qs(address.query) if name.startswith("var-")}
    assert variables <= {variable["name"] for variable in dashboard["templating"]["list"]}
    assert (f"{BASE}/d", uid) == (f"{address.scheme}://{address.netloc}{folder}", dashboard["uid"])


def test_a_link_is_about_a_time():
    query = parse_qs(urlsplit(LINKS[0]).query)

    assert ["csv-generation&x=<1>"] == query["var-actor_name"]
    assert [["1795693500000"], ["1795695300000"]] == [query["from"], query["to"]]
    assert "to=now" in grafana.queue_dashboard(BASE, "mail", start=NOON)
