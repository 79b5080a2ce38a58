"""Builds a dashboard around its panels: variables, annotations, links, and the grid that holds the panels."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from panels import DATASOURCE, Json, Panel

#: The current schema version of Grafana 12.1 to 13. Newer servers migrate dashboards when they load them.
SCHEMA_VERSION = 42
#: Columns of Grafana's grid.
COLUMNS = 24
#: The tag by which the dashboards link to each other.
TAG = "jobs"


#: The annotations of every graph: name, colour, PromQL, title and text.
_MARKS = (
    ("Deploys", "blue", "changes(max(jobs_worker_start_time_seconds)[2m:]) > 0", "Workers started", ""),
    (
        "Alerts",
        "red",
        'ALERTS{alertname=~"Jobs.*",alertstate="firing"}',
        "{{alertname}}",
        "{{severity}} {{queue_name}}",
    ),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row title and the panels below it, which are placed from left to right."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


def dashboard(*, uid: str, title: str, description: str, variables: Sequence[Json], rows: Sequence[Row]) -> Json:
    """Return the whole dashboard. Every panel gets an id and a position."""
    return {
        "annotations": {"list": [_annotation(*mark) for mark in _MARKS]},
        "description": description,
        "editable": False,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "id": None,
        "links": [_neighbours(), _console()],
        "panels": _numbered(_place(rows), itertools.count(1)),
        "preload": False,
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": [TAG],
        "templating": {"list": [*variables, _console_variable()]},
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
    """Return a variable with the values of the label `name` on `metric`. By default all of them are selected."""
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
        # Refresh with every change of the time range, so that queues added since the page was opened are included.
        "refresh": 2,
        "regex": "",
        "sort": 1,
    }


def link(title: str, uid: str, *, label: str = "") -> Json:
    """Return a panel's link to a dashboard, for the same time and variables, or the clicked series' `label`."""
    chosen = f"${{datasource:queryparam}}&var-{label}=${{__field.labels.{label}}}" if label else "${__all_variables}"
    return {"title": title, "url": f"/d/{uid}?${{__url_time_range}}&{chosen}"}


def cell_link(title: str, uid: str, label: str) -> Json:
    """Return the link of a table cell to a dashboard, for the label's value in that cell."""
    chosen = f"${{datasource:queryparam}}&var-{label}=${{__value.text}}"
    return {"title": title, "url": f"/d/{uid}?${{__url_time_range}}&{chosen}"}


def console_link(title: str, path: str, label: str) -> Json:
    """Return a panel's link to a page of the console, about the clicked series' `label`, with which its URL ends."""
    return {"title": title, "url": f"${{console:raw}}{path}${{__field.labels.{label}}}", "targetBlank": True}


def _console_variable() -> Json:
    """Return a variable that nobody chooses: the address of the console, from the service's setting CONSOLE_URL."""
    query = "label_values(jobs_console_info, url)"
    return {
        "type": "query",
        "name": "console",
        "label": "Console",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "Variable-console"},
        "current": {},
        "hide": 2,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "sort": 0,
    }


def _console() -> Json:
    return {
        "type": "link",
        "title": "Console",
        "tags": [],
        "asDropdown": False,
        "includeVars": False,
        "keepTime": False,
        "targetBlank": True,
        "icon": "external link",
        "tooltip": "The jobs themselves, and what to do with them",
        "url": "${console:raw}",
    }


def _neighbours() -> Json:
    return {
        "type": "dashboards",
        "title": "Jobs",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }


def _annotation(name: str, colour: str, expr: str, title: str, text: str) -> Json:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "expr": expr,
        "iconColor": colour,
        "step": "30s",
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": "",
        "useValueForTime": False,
    }


def _place(rows: Sequence[Row]) -> Iterator[Json]:
    """Yield each row and then its panels, each with its place in the grid; a collapsed row holds its panels."""
    y = 0
    for row in rows:
        title: Json = {
            "type": "row",
            "title": row.title,
            "collapsed": row.collapsed,
            "panels": [],
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
        }
        panels, y = _flow(row.panels, y + 1)
        if row.collapsed:
            title["panels"] = panels
            y = title["gridPos"]["y"] + 1
        yield title
        yield from () if row.collapsed else panels


def _flow(panels: Sequence[Panel], y: int) -> tuple[list[Json], int]:
    """Return the panels placed from left to right and line by line, and the first line below them."""
    placed: list[Json] = []
    x = line_height = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            y, x, line_height = y + line_height, 0, 0
        placed.append({**panel.body, "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y}})
        x, line_height = x + panel.width, max(line_height, panel.height)
    return placed, y + line_height


def _numbered(panels: Iterable[Json], numbers: Iterator[int]) -> list[Json]:
    """Return the panels, each with an id of its own, those of collapsed rows too."""
    numbered = []
    for panel in panels:
        number = next(numbers)
        inside = {"panels": _numbered(panel["panels"], numbers)} if "panels" in panel else {}
        numbered.append({**panel, **inside, "id": number})
    return numbered
