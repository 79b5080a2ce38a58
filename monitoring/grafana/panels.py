# ruff: noqa: INP001 - a script's neighbour: build.py is run by its path
"""A small builder for Grafana's classic dashboard JSON: panels, rows, variables, and the grid they are laid out on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

#: What Grafana 12.1 to 13 call current. Newer servers migrate it up as they load it.
SCHEMA_VERSION = 42
#: Columns of Grafana's grid.
COLUMNS = 24

#: A dashboard works on any server: which Prometheus it asks is its first variable.
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

#: Colour by meaning, the same in every panel.
COLOURS = {
    "completed": "green",
    "accepted": "blue",
    "retried": "orange",
    "failed": "red",
    "cancelled": "purple",
    "pending": "blue",
    "processing": "green",
    "retrying": "orange",
    "scheduled": "purple",
}

Json = dict[str, Any]

NO_STEPS: Mapping[float, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression of a panel, and the name of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel before it has a place: Grafana's JSON, and its width and height in grid units."""

    width: int
    height: int
    body: Json


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row and the panels below it, which flow from left to right."""

    title: str
    panels: Sequence[Panel]


def stat(
    title: str,
    description: str,
    query: str,
    *,
    unit: str,
    base: str = "green",
    steps: Mapping[float, str] = NO_STEPS,
    decimals: int = 0,
) -> Panel:
    """Return one number. `steps` colours it: from each value on, that colour; below the lowest it has the `base`."""
    body = _body("stat", title, description, [Query(query)], instant=True)
    thresholds = [{"color": base, "value": None}, *({"color": steps[at], "value": at} for at in sorted(steps))]
    defaults = {
        "unit": unit,
        "decimals": decimals,
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": thresholds},
    }
    body["fieldConfig"] = {"defaults": defaults, "overrides": []}
    body["options"] = {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    }
    return Panel(width=4, height=4, body=body)


def graph(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str,
    width: int = 12,
    stacked: bool = False,
    maximum: float | None = None,
) -> Panel:
    """Return lines over time, from zero up."""
    body = _body("timeseries", title, description, queries)
    defaults: Json = {
        "unit": unit,
        "min": 0,
        "color": {"mode": "palette-classic"},
        "custom": {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        },
    }
    if maximum is not None:
        defaults["max"] = maximum
    body["fieldConfig"] = {"defaults": defaults, "overrides": [_coloured(name) for name in COLOURS]}
    body["options"] = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel(width=width, height=8, body=body)


def heatmap(title: str, description: str, query: str, *, unit: str, width: int = 12) -> Panel:
    """Return a histogram over time, one cell per bucket. The query keeps `le`."""
    body = _body("heatmap", title, description, [Query(query, "{{le}}")])
    body["targets"][0]["format"] = "heatmap"
    body["fieldConfig"] = {"defaults": {"unit": unit}, "overrides": []}
    body["options"] = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": unit},
    }
    return Panel(width=width, height=8, body=body)


def dashboard(*, uid: str, title: str, description: str, variables: Sequence[Json], rows: Sequence[Row]) -> Json:
    """Return the whole dashboard; every panel gets an id and a place."""
    return {
        "annotations": {"list": []},
        "description": description,
        "editable": False,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "id": None,
        "links": [],
        "panels": [{**body, "id": number} for number, body in enumerate(_place(rows), start=1)],
        "preload": False,
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["jobs"],
        "templating": {"list": list(variables)},
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "title": title,
        "uid": uid,
        "version": 1,
    }


def datasource_variable() -> Json:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
    }


def label_variable(name: str, label: str, metric: str) -> Json:
    """Return a choice of the values that the label `name` has on `metric`; at first all of them."""
    query = f"label_values({metric}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"Variable-{name}"},
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "allValue": ".+",
        "hide": 0,
        "includeAll": True,
        "multi": True,
        "options": [],
        # On every change of the time range: a queue that was added since the page was opened is there.
        "refresh": 2,
        "regex": "",
        "sort": 1,
    }


def _body(kind: str, title: str, description: str, queries: Sequence[Query], *, instant: bool = False) -> Json:
    targets = [
        {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "instant": instant,
            "legendFormat": query.legend or "__auto",
            "range": not instant,
            "refId": letter,
        }
        for letter, query in zip("ABCDEFGH", queries, strict=False)
    ]
    return {"type": kind, "title": title, "description": description, "datasource": DATASOURCE, "targets": targets}


def _coloured(name: str) -> Json:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"fixedColor": COLOURS[name], "mode": "fixed"}}],
    }


def _place(rows: Sequence[Row]) -> Iterator[Json]:
    y = 0
    for row in rows:
        yield {
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
        }
        y += 1
        x = line_height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                y, x, line_height = y + line_height, 0, 0
            yield {**panel.body, "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y}}
            x, line_height = x + panel.width, max(line_height, panel.height)
        y += line_height
