"""Draw a dashboard as a picture, from a Prometheus: `python monitoring/grafana/draw.py docs/images/overview.png`.

No Grafana is needed. It draws every page but the runbooks, in Grafana's dark colours.
"""

import argparse
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canvas import Canvas, Line
from units import format_value

Json = dict[str, Any]

#: Points of a line, and columns of a heatmap.
POINTS, CELLS = 240, 60

FOLDER = Path(__file__).parent / "dashboards"

#: Grafana's palette for series without a colour of their own, and its named colours.
PALETTE = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffb357", "#ca95e5", "#96d98d")
COLOURS = {
    "green": "#73bf69",
    "yellow": "#f2cc0c",
    "blue": "#5794f2",
    "orange": "#ff9830",
    "red": "#f2495c",
    "purple": "#b877d9",
    "text": "#ccccdc",
}


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its labels without the metric's name, and its points, in the order of time."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Source:
    """A Prometheus and the span of time that is drawn. `window` is what Grafana would fill in for the rates."""

    url: str
    start: float
    end: float
    window: str

    def step(self, points: int) -> float:
        """Return the seconds between so many points, at least one."""
        return max(1.0, (self.end - self.start) / points)

    def series(self, expr: str, *, points: int = POINTS) -> list[Series]:
        """Return the series that have a value at some time."""
        step = self.step(points)
        answer = self._ask("query_range", expr, start=self.start, end=self.end, step=step)
        found = [Series(_labels(one), [(float(at), float(value)) for at, value in one["values"]]) for one in answer]
        return [series for series in found if any(math.isfinite(value) for _, value in series.points)]

    def now(self, expr: str) -> list[tuple[Mapping[str, str], float]]:
        return [(_labels(one), float(one["value"][1])) for one in self._ask("query", expr, time=self.end)]

    def _ask(self, path: str, expr: str, **parameters: float) -> list[Json]:
        query = urllib.parse.urlencode({"query": self._filled_in(expr), **parameters})
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=60) as reply:  # noqa: S310 - a URL of the caller's
            result: list[Json] = json.load(reply)["data"]["result"]
        return result

    def _filled_in(self, expr: str) -> str:
        expr = expr.replace("$__rate_interval", self.window).replace("$__range", f"{self.end - self.start:.0f}s")
        return re.sub(r"\$[a-z_]+", ".+", expr)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    end = time.time()
    start = end - options.minutes * 60
    source = Source(options.prometheus, start, end, options.window)
    dashboard = json.loads((FOLDER / f"{options.dashboard}.json").read_text(encoding="utf-8"))
    draw(dashboard, source, options.picture, rows=options.rows)
    return 0


def draw(dashboard: Json, source: Source, picture: Path, *, rows: int) -> None:
    """Write the picture of a dashboard's first rows. Raises `URLError` where no Prometheus answers."""
    panels = _first(dashboard["panels"], rows)
    canvas = Canvas(rows=max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels))
    canvas.heading(dashboard["title"], _span(source))
    for panel in panels:
        _PAINTERS[panel["type"]](canvas, panel, source)
    canvas.save(picture)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    parser.add_argument("--dashboard", default="jobs-overview", help="its uid (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=15, help="how far back (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=99, help="how many of its rows, from the top (default: all)")
    parser.add_argument("--window", default="1m", help="of the rates: four scrapes or more (default: %(default)s)")
    return parser


def _first(panels: list[Json], rows: int) -> list[Json]:
    """Return the panels of so many titled rows."""
    starts = [number for number, panel in enumerate(panels) if panel["type"] == "row"]
    return panels[: [*starts, len(panels)][min(rows, len(starts))]]


def _span(source: Source) -> str:
    start, end = (time.strftime("%H:%M", time.localtime(at)) for at in (source.start, source.end))
    return f"everything chosen, {start} to {end}"


def _labels(one: Json) -> dict[str, str]:
    return {name: value for name, value in one["metric"].items() if name != "__name__"}


def _paint_row(canvas: Canvas, panel: Json, _: Source) -> None:
    canvas.row(panel["gridPos"]["y"], panel["title"])


def _paint_stat(canvas: Canvas, panel: Json, source: Source) -> None:
    box = canvas.panel(panel)
    defaults = panel["fieldConfig"]["defaults"]
    answer = source.now(panel["targets"][0]["expr"])
    if not answer:
        canvas.number(box, "No data", COLOURS["text"])
        return
    value = answer[0][1]
    canvas.number(
        box, format_value(value, defaults["unit"], defaults["decimals"]), _stepped(defaults["thresholds"], value)
    )


def _stepped(thresholds: Json, value: float) -> str:
    passed = [step["color"] for step in thresholds["steps"] if step["value"] is None or value >= step["value"]]
    return COLOURS[passed[-1]]


def _paint_graph(canvas: Canvas, panel: Json, source: Source) -> None:
    colours, dashed = _overrides(panel)
    lines: list[Line] = []
    for target in panel["targets"]:
        for series in source.series(target["expr"]):
            name = _named(target["legendFormat"], series.labels)
            colour = colours.get(name, PALETTE[len(lines) % len(PALETTE)])
            lines.append(Line(name, colour, series.points, dashed=target["refId"] in dashed))
    defaults = panel["fieldConfig"]["defaults"]
    canvas.graph(
        canvas.panel(panel),
        lines,
        unit=defaults["unit"],
        span=(source.start, source.end),
        gap=source.step(POINTS) * 1.5,
        stacked=defaults["custom"]["stacking"]["mode"] == "normal",
    )


def _overrides(panel: Json) -> tuple[dict[str, str], set[str]]:
    """Return the colours of series by name, and the queries whose series are dashed."""
    colours, dashed = {}, set()
    for override in panel["fieldConfig"]["overrides"]:
        subject = override["matcher"]["options"]
        for entry in override["properties"]:
            if entry["id"] == "color":
                colours[subject] = COLOURS[entry["value"]["fixedColor"]]
            elif entry["id"] == "custom.lineStyle":
                dashed.add(subject)
    return colours, dashed


def _named(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), legend)


def _paint_timeline(canvas: Canvas, panel: Json, source: Source) -> None:
    target, words = panel["targets"][0], panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    bands = []
    for series in source.series(target["expr"]):
        steps = [(at, COLOURS[words[f"{value:.0f}"]["color"]]) for at, value in series.points]
        bands.append((_named(target["legendFormat"], series.labels), steps))
    canvas.timeline(canvas.panel(panel), bands, span=(source.start, source.end), step=source.step(POINTS))


def _paint_heatmap(canvas: Canvas, panel: Json, source: Source) -> None:
    answer = source.series(panel["targets"][0]["expr"], points=CELLS)
    buckets = {series.labels["le"]: dict(series.points) for series in answer}
    times = sorted({at for points in buckets.values() for at in points})
    bounds = sorted(buckets, key=float)
    # Prometheus' buckets hold all below their bound: a cell is what this one has more than the one before.
    totals = [[buckets[bound].get(at, 0.0) for at in times] for bound in bounds]
    cells = [
        [max(0.0, b - a) for a, b in zip(low, high, strict=True)]
        for low, high in zip([[0.0] * len(times), *totals], totals, strict=False)
    ]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    names = ["∞" if bound == "+Inf" else format_value(float(bound), unit) for bound in bounds]
    canvas.heatmap(canvas.panel(panel), cells, names, times, span=(source.start, source.end))


def _paint_table(canvas: Canvas, panel: Json, source: Source) -> None:
    organize = panel["transformations"][1]["options"]
    by = {label: heading for label, heading in organize["renameByName"].items() if not label.startswith("Value")}
    columns = [
        override for override in panel["fieldConfig"]["overrides"] if override["matcher"]["options"] not in by.values()
    ]
    rows: dict[tuple[str, ...], dict[int, float]] = {}
    for number, target in enumerate(panel["targets"]):
        for labels, value in source.now(target["expr"]):
            rows.setdefault(tuple(labels.get(label, "") for label in by), {})[number] = value
    cells = [
        [
            *((text, COLOURS["text"]) for text in key),
            *(_cell(column, values.get(number)) for number, column in enumerate(columns)),
        ]
        for key, values in sorted(rows.items())
    ]
    canvas.table(canvas.panel(panel), [*by.values(), *(column["matcher"]["options"] for column in columns)], cells)


def _cell(column: Json, value: float | None) -> tuple[str, str]:
    properties = {entry["id"]: entry["value"] for entry in column["properties"]}
    if value is None:
        return "", COLOURS["text"]
    colour = _stepped(properties["thresholds"], value) if "thresholds" in properties else COLOURS["text"]
    return format_value(value, properties["unit"], properties.get("decimals")), colour


_PAINTERS: dict[str, Callable[[Canvas, Json, Source], None]] = {
    "row": _paint_row,
    "stat": _paint_stat,
    "timeseries": _paint_graph,
    "state-timeline": _paint_timeline,
    "heatmap": _paint_heatmap,
    "table": _paint_table,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
