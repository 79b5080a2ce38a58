"""What the committed dashboards and rules ask Prometheus, for the tests that read it and the one that runs it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

MONITORING = Path(__file__).parents[1] / "monitoring"
RULES_FOLDER = MONITORING / "prometheus" / "rules"
FILES = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
RULES = [
    rule
    for path in sorted(RULES_FOLDER.glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}

#: A series' name, of ours or of the servers that watch us, and its matchers.
_SELECTOR = re.compile(
    r"(?<![\w:\"$])"
    r"((?:jobs|http_server|dramatiq|prometheus|alertmanager|scrape)_\w+|up|ALERTS|\w+:\w+:\w+)"
    r"(\{[^}]*\})?(?![\w:\"(])"
)
_LABEL_LIST = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right) ?\([^)]*\)")


def everything(dashboard: dict) -> list[dict]:
    """Return the rows and the panels, those in collapsed rows too."""
    return [panel for top in dashboard["panels"] for panel in (top, *top.get("panels", []))]


def panels(dashboard: dict) -> list[dict]:
    """Return the panels that ask for something."""
    return [panel for panel in everything(dashboard) if panel["type"] not in {"row", "text"}]


def annotations() -> list[dict]:
    """Return the annotations of all dashboards, each once."""
    found = {entry["name"]: entry for board in DASHBOARDS.values() for entry in board["annotations"]["list"]}
    return list(found.values())


def expressions() -> Iterator[tuple[str, str]]:
    """Return (where it stands, the expression) of every panel and annotation."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']} {target['refId']}", target["expr"]
    for annotation in annotations():
        yield f"annotation: {annotation['name']}", annotation["expr"]


def with_variables(expr: str, window: str = "1m") -> str:
    """Return the expression as Grafana sends it when everything is chosen; `window` is for the rates."""
    expr = expr.replace("$__rate_interval", window).replace("$__range", "1h")
    return re.sub(r"\$[a-z_]+", ".+", expr)


def selectors(expr: str) -> set[str]:
    """Return what an expression reads: the name of each series and its matchers, without ranges."""
    return {name + matchers for name, matchers in _SELECTOR.findall(_LABEL_LIST.sub("", expr))}


def metrics(expr: str) -> set[str]:
    """Return the metrics an expression reads; a histogram's parts are the histogram."""
    names = {selector.partition("{")[0] for selector in selectors(expr)}
    return {name if ":" in name else re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
