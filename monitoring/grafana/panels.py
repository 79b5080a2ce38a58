"""The kinds of panel that the dashboards use, as Grafana's classic JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from types import MappingProxyType
from typing import Any

#: The Prometheus to query is the first variable of each dashboard, so that a dashboard works on any server.
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

#: The colour of each series name, the same in every panel.
COLOURS = {
    "completed": "green",
    "submitted": "blue",
    "retried": "orange",
    "failed": "red",
    "cancelled": "purple",
    "pending": "blue",
    "processing": "green",
    "retrying": "orange",
    "deferred": "yellow",
    "scheduled": "purple",
    "busy": "green",
    "threads": "text",
    "p50": "green",
    "p95": "orange",
    "p99": "red",
}

#: The labels whose values are in COLOURS.
_COLOURED_LABELS = ("{{outcome}}", "{{state}}")

Json = dict[str, Any]

NO_STEPS: Mapping[float, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression of a panel, and the name of its series. A target is drawn as a dashed line, unfilled."""

    expr: str
    legend: str = ""
    target: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: an instant query, by the table's label. `steps` colours its cells."""

    title: str
    expr: str
    unit: str = "short"
    decimals: int | None = None
    base: str = "text"
    steps: Mapping[float, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel before it has a place: Grafana's JSON, and its width and height in grid units."""

    width: int
    height: int
    body: Json


def stat(
    title: str,
    description: str,
    query: str,
    *,
    unit: str,
    base: str = "green",
    steps: Mapping[float, str] = NO_STEPS,
    decimals: int = 0,
    width: int = 4,
    leads_to: Sequence[Json] = (),
) -> Panel:
    """Return one number. `steps` colours it: from each value on, that colour; below the lowest it has the `base`."""
    body = _body("stat", title, description, [Query(query)], instant=True)
    defaults = {
        "unit": unit,
        "decimals": decimals,
        "color": {"mode": "thresholds"},
        "thresholds": _thresholds(base, steps),
        "links": list(leads_to),
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
    return Panel(width=width, height=4, body=body)


def graph(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str,
    width: int = 12,
    stacked: bool = False,
    maximum: float | None = None,
    lines: Mapping[float, str] = NO_STEPS,
    leads_to: Sequence[Json] = (),
) -> Panel:
    """Return lines over time, from zero up. `lines` are fixed heights worth knowing, each with its colour."""
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
            "thresholdsStyle": {"mode": "dashed" if lines else "off"},
        },
        "links": list(leads_to),
    }
    if lines:
        defaults["thresholds"] = _thresholds("transparent", lines)
    if maximum is not None:
        defaults["max"] = maximum
    body["fieldConfig"] = {"defaults": defaults, "overrides": _styles(queries)}
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


def timeline(title: str, description: str, query: Query, *, words: Mapping[int, tuple[str, str]]) -> Panel:
    """Return a band of states over time for each series. `words` gives each value its word and colour."""
    body = _body("state-timeline", title, description, [query])
    options = {str(value): {"text": text, "color": colour} for value, (text, colour) in words.items()}
    defaults = {
        "unit": "none",
        "color": {"mode": "thresholds"},
        "custom": {"fillOpacity": 70, "lineWidth": 0},
        "mappings": [{"type": "value", "options": options}],
        "thresholds": _thresholds("text", NO_STEPS),
    }
    body["fieldConfig"] = {"defaults": defaults, "overrides": []}
    body["options"] = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "auto",
        "tooltip": {"mode": "single"},
    }
    return Panel(width=24, height=5, body=body)


def table(
    title: str,
    description: str,
    by: Mapping[str, str],
    columns: Sequence[Column],
    *,
    width: int = 24,
    height: int = 7,
    leads_to: Sequence[Json] = (),
) -> Panel:
    """Return a row for each value of the labels and a column for each query. `by` maps labels to their headings."""
    body = _body("table", title, description, [Query(column.expr) for column in columns], instant=True)
    for target in body["targets"]:
        target["format"] = "table"
    if len(columns) == 1:  # Grafana numbers the values only where there are several.
        titles = {"Value": columns[0].title}
    else:
        titles = {
            f"Value #{target['refId']}": column.title for target, column in zip(body["targets"], columns, strict=True)
        }
    organize = {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate([*by, *titles])},
        "renameByName": {**by, **titles},
    }
    body["transformations"] = [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
    linked = [_property(heading, "links", list(leads_to)) for heading in by.values() if leads_to]
    body["fieldConfig"] = {
        "defaults": {"unit": "short", "custom": {"align": "auto", "filterable": False}},
        "overrides": [*linked, *(_column(column) for column in columns)],
    }
    body["options"] = {"cellHeight": "sm", "showHeader": True, "sortBy": []}
    return Panel(width=width, height=height, body=body)


def text(title: str, markdown: str) -> Panel:
    """Return words, in a panel about as high as they are: two lines need a little more than a row of the grid."""
    body = {
        "type": "text",
        "title": title,
        "description": "",
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"mode": "markdown", "content": markdown},
        "targets": [],
    }
    return Panel(width=24, height=3 + round(markdown.count("\n") * 0.65), body=body)


def _property(name: str, property_id: str, value: object) -> Json:
    return {"matcher": {"id": "byName", "options": name}, "properties": [{"id": property_id, "value": value}]}


def _column(column: Column) -> Json:
    properties: list[Json] = [{"id": "unit", "value": column.unit}]
    if column.decimals is not None:
        properties.append({"id": "decimals", "value": column.decimals})
    if column.steps:
        properties += [
            {"id": "thresholds", "value": _thresholds(column.base, column.steps)},
            {"id": "custom.cellOptions", "value": {"type": "color-text"}},
        ]
    return {"matcher": {"id": "byName", "options": column.title}, "properties": properties}


def _thresholds(base: str, steps: Mapping[float, str]) -> Json:
    lowest = {"color": base, "value": None}
    return {"mode": "absolute", "steps": [lowest, *({"color": steps[at], "value": at} for at in sorted(steps))]}


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
        for letter, query in zip(ascii_uppercase, queries, strict=False)
    ]
    return {"type": kind, "title": title, "description": description, "datasource": DATASOURCE, "targets": targets}


def _styles(queries: Sequence[Query]) -> list[Json]:
    legends = {query.legend for query in queries}
    names = COLOURS if legends & set(_COLOURED_LABELS) else [name for name in COLOURS if name in legends]
    return [*(_coloured(name) for name in names), *(_dashed(letter) for letter in _targets(queries))]


def _targets(queries: Sequence[Query]) -> list[str]:
    return [letter for letter, query in zip(ascii_uppercase, queries, strict=False) if query.target]


def _coloured(name: str) -> Json:
    return _property(name, "color", {"fixedColor": COLOURS[name], "mode": "fixed"})


def _dashed(letter: str) -> Json:
    return {
        "matcher": {"id": "byFrameRefID", "options": letter},
        "properties": [
            {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}},
            {"id": "custom.fillOpacity", "value": 0},
            {"id": "custom.stacking", "value": {"group": "targets", "mode": "none"}},
        ],
    }
