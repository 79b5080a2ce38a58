"""The picture that draw.py makes: Grafana's grid, colours and kinds of panel, drawn with matplotlib."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, MultipleLocator
from PIL import Image
from units import format_value

#: Points of the picture: its width, a row of the grid, the space between panels, and above the first.
WIDTH, ROW, GAP, TOP = 1_400, 31, 8, 54
COLUMNS = 24
#: Lines of names below a graph; what does not fit is not named.
LEGEND_LINES = 4
#: Marks on a vertical axis.
MARKS = 4
MINUTE = 60
#: Pixels to a point, for sharp text on sharp screens.
SHARPNESS = 1.5

PAGE, PANEL, EDGE, GRID = "#111217", "#181b1f", "#2a2d33", "#2a2d33"
TEXT, FAINT = "#ccccdc", "#8e8e99"

rcParams["font.family"] = "sans-serif"
rcParams["font.sans-serif"] = ["Inter", "Roboto", "Helvetica Neue", "Arial", "DejaVu Sans"]

_HEAT = LinearSegmentedColormap.from_list("heat", [PANEL, "#5c2d0a", "#a84a0c", "#ff9830", "#ffd08a"])


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in points, from the picture's upper left corner."""

    x: float
    y: float
    width: float
    height: float

    def inside(self, left: float, top: float, right: float, bottom: float) -> "Box":
        return Box(self.x + left, self.y + top, self.width - left - right, self.height - top - bottom)


@dataclass(frozen=True, slots=True)
class Line:
    """A series to draw: (time, value) points, in the order of time."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


class Canvas:
    """A page of so many rows of the grid."""

    def __init__(self, rows: int) -> None:
        self.height = TOP + rows * ROW + GAP
        self._figure = Figure(figsize=(WIDTH / 100, self.height / 100), dpi=100 * SHARPNESS, facecolor=PAGE)
        self._agg = FigureCanvasAgg(self._figure)
        self._page = self._axes(Box(0, 0, WIDTH, self.height))
        self._page.set(xlim=(0, WIDTH), ylim=(self.height, 0))
        self._page.axis("off")

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = io.BytesIO()
        self._figure.savefig(drawn, facecolor=PAGE)
        # Few colours are in it: with a palette the file is a third.
        Image.open(drawn).convert("RGB").quantize(160).save(path, optimize=True)

    def heading(self, title: str, note: str) -> None:
        self._text(2 * GAP, TOP / 2, title, size=14, weight="bold")
        self._text(WIDTH - 2 * GAP, TOP / 2, note, size=9, colour=FAINT, align="right")

    def row(self, y: int, title: str) -> None:
        self._text(2 * GAP, TOP + (y + 0.5) * ROW, title, size=10.5, weight="bold")

    def panel(self, panel: dict[str, Any]) -> Box:
        """Draw a panel's frame and title, and return the room inside it."""
        box = _place(panel["gridPos"])
        frame = FancyBboxPatch(
            (box.x + 2, box.y + 2), box.width - 4, box.height - 4, boxstyle="round,pad=2", fc=PANEL, ec=EDGE, lw=0.7
        )
        self._page.add_patch(frame)
        self._text(box.x + 10, box.y + 15, panel["title"], size=8.5)
        return box.inside(10, 28, 10, 8)

    def number(self, box: Box, text: str, colour: str) -> None:
        self._text(
            box.x + box.width / 2,
            box.y + box.height / 2 - 3,
            text,
            size=min(22, 150 / len(text)),
            colour=colour,
            align="center",
            weight="bold",
        )

    def graph(
        self, box: Box, lines: Sequence[Line], *, unit: str, span: tuple[float, float], gap: float, stacked: bool
    ) -> None:
        legend = self._legend(box, lines, unit)
        axes = self._axes(box.inside(52, 4, 6, 18 + legend))
        _clock(axes, span)
        highest = _stack(axes, lines) if stacked else _draw(axes, lines, gap)
        axes.set_ylim(0, highest * 1.12 or 1)
        axes.yaxis.set_major_locator(_marks(unit, highest))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, unit)))
        axes.grid(color=GRID, lw=0.5)

    def timeline(
        self,
        box: Box,
        bands: Sequence[tuple[str, Sequence[tuple[float, str]]]],
        *,
        span: tuple[float, float],
        step: float,
    ) -> None:
        """Draw a band for each name, of (time, colour) steps."""
        axes = self._axes(box.inside(150, 4, 6, 18))
        _clock(axes, span)
        for number, (_, steps) in enumerate(bands):
            spans = [(at, step) for at, _ in steps]
            axes.broken_barh(spans, (number - 0.4, 0.8), facecolors=[colour for _, colour in steps], alpha=0.7, lw=0)
        axes.set_ylim(len(bands) - 0.5, -0.5)
        axes.set_yticks(range(len(bands)), [name for name, _ in bands])

    def heatmap(
        self,
        box: Box,
        cells: Sequence[Sequence[float]],
        names: Sequence[str],
        times: Sequence[float],
        *,
        span: tuple[float, float],
    ) -> None:
        axes = self._axes(box.inside(52, 4, 6, 18))
        _clock(axes, span)
        filled = [number for number, row in enumerate(cells) if any(row)]
        if not filled:
            return
        first, last = max(0, filled[0] - 1), min(len(cells), filled[-1] + 2)
        # The few fullest cells, of a burst, would leave all others dark.
        shown = np.array(cells[first:last])
        shown = np.sqrt(np.minimum(shown, np.quantile(shown, 0.99)))
        axes.pcolormesh(times, np.arange(last - first), shown, cmap=_HEAT, shading="nearest", ec=PANEL, lw=0.6)
        every = math.ceil((last - first) / 8)
        axes.set_yticks(range(0, last - first, every), names[first:last:every])

    def table(self, box: Box, headings: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]) -> None:
        width = box.width / len(headings)
        for number, heading in enumerate(headings):
            self._text(box.x + number * width, box.y + 10, heading, size=8.5, colour="#6e9fff")
        for line, row in enumerate(rows, start=1):
            y = box.y + 10 + line * 25
            self._page.plot([box.x, box.x + box.width], [y - 12.5, y - 12.5], color=EDGE, lw=0.6)
            for number, (text, colour) in enumerate(row):
                self._text(box.x + number * width, y, text, size=8.5, colour=colour)

    def _legend(self, box: Box, lines: Sequence[Line], unit: str) -> float:
        """Draw the names of the lines and their last values from the bottom up, and return the height they take."""
        x, line, places = 0.0, 0, []
        for one in lines:
            value = _last(one, unit)
            width = 40 + self._width(f"{one.name}  {value}", 7.5)
            if x and x + width > box.width:
                x, line = 0, line + 1
            if line == LEGEND_LINES:
                line -= 1
                break
            places.append((one, value, x, line))
            x += width
        for one, value, left, row in places:
            y = box.y + box.height - 8 - (line - row) * 15
            self._page.plot(
                [box.x + left, box.x + left + 12],
                [y, y],
                color=one.colour,
                lw=2.2,
                ls=(0, (2, 1)) if one.dashed else "-",
            )
            self._text(box.x + left + 18, y, one.name, size=7.5)
            self._text(box.x + left + 22 + self._width(one.name, 7.5), y, value, size=7.5, colour=FAINT)
        return 15 * (line + 1) + 4 if lines else 0

    def _width(self, text: str, size: float) -> float:
        drawn = self._page.text(0, 0, text, size=size)
        width = drawn.get_window_extent(self._agg.get_renderer()).width / SHARPNESS
        drawn.remove()
        return width

    def _axes(self, box: Box) -> Axes:
        bottom = self.height - box.y - box.height
        axes = self._figure.add_axes((box.x / WIDTH, bottom / self.height, box.width / WIDTH, box.height / self.height))
        axes.set_facecolor("none")
        axes.tick_params(colors=FAINT, labelsize=7.5, length=0, pad=4)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        colour: str = TEXT,
        align: str = "left",
        weight: str = "normal",
    ) -> None:
        self._page.text(x, y, text, size=size, color=colour, ha=align, va="center", weight=weight)


def _place(at: dict[str, int]) -> Box:
    unit = (WIDTH - GAP) / COLUMNS
    return Box(GAP + at["x"] * unit, TOP + at["y"] * ROW, at["w"] * unit - GAP, at["h"] * ROW - GAP)


def _marks(unit: str, highest: float) -> Locator:
    """Return where about four marks go: at whole minutes, whole numbers, or what is round."""
    if unit == "s" and highest > 2 * MINUTE:
        return MultipleLocator(MINUTE * math.ceil(highest / MINUTE / MARKS))
    return MaxNLocator(MARKS, integer=unit in {"short", "none"} and highest > MARKS)


def _last(line: Line, unit: str) -> str:
    finite = [value for _, value in line.points if math.isfinite(value)]
    return format_value(finite[-1], unit) if finite else ""


def _clock(axes: Axes, span: tuple[float, float]) -> None:
    """Let the horizontal axis be the time of day, with a mark at whole minutes."""
    minutes = max(1, math.ceil((span[1] - span[0]) / 60 / 6))
    first = math.ceil(span[0] / (60 * minutes)) * 60 * minutes
    marks = list(range(first, int(span[1]) + 1, 60 * minutes))
    axes.set_xlim(*span)
    axes.set_xticks(marks, [datetime.fromtimestamp(mark).astimezone().strftime("%H:%M") for mark in marks])


def _draw(axes: Axes, lines: Sequence[Line], gap: float) -> float:
    """Draw lines with their gaps, a little filled, and return the highest value."""
    highest = 0.0
    for line in lines:
        times, values = _with_gaps(line.points, gap)
        axes.plot(
            times, values, color=line.colour, lw=1.3, ls=(0, (5, 3)) if line.dashed else "-", solid_joinstyle="round"
        )
        if not line.dashed:
            axes.fill_between(times, values, color=line.colour, alpha=0.10, lw=0)
        highest = max([highest, *(value for _, value in line.points if math.isfinite(value))])
    return highest


def _with_gaps(points: Sequence[tuple[float, float]], gap: float) -> tuple[list[float], list[float]]:
    times: list[float] = []
    values: list[float] = []
    for at, value in points:
        if times and at - times[-1] > gap:
            times.append(at)
            values.append(math.nan)
        times.append(at)
        values.append(value)
    return times, values


def _stack(axes: Axes, lines: Sequence[Line]) -> float:
    """Draw lines one upon the other, filled, and return the highest sum."""
    times = sorted({at for line in lines for at, _ in line.points})
    below = np.zeros(len(times))
    for line in lines:
        known = dict(line.points)
        layer = np.array([known.get(at, 0.0) for at in times])
        above = below + layer
        axes.fill_between(times, below, above, color=line.colour, alpha=0.30, lw=0)
        # Where a layer is thin, its line would hide the one below.
        axes.plot(times, np.where(layer > 0.02 * above, above, np.nan), color=line.colour, lw=1.2)
        below = above
    return float(below.max(initial=0.0))
