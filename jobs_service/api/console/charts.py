"""Charts as SVG, drawn on the server. Shapes are attributes, colours and sizes are those of the style sheet.

A chart stretches to the width of the page. Its labels are HTML beside the drawing: inside they would be stretched too.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from jobs_service.api.console.formats import NOTHING, number

#: The height of a drawing in its own units.
_HEIGHT = 100

#: What the top of a chart may stand for, times a power of ten: half of each is a whole number too.
_TOPS = (2, 4, 6, 8, 10)

_NO_MARKUP = Markup()


class Line(NamedTuple):
    """A line of a chart. The style sheet knows its `name`; a value that is None is a gap."""

    name: str
    words: str
    values: Sequence[float | None]


_FIGURE = Markup("""<figure class="plot">
<figcaption class="unseen">{title}</figcaption>
<ul class="plot-legend">{legend}</ul>
<div class="plot-frame">
<div class="plot-y" aria-hidden="true">{heights}</div>
<svg class="chart plot-area" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img"
 aria-labelledby="{id}-title {id}-text" focusable="false">
<title id="{id}-title">{title}</title><desc id="{id}-text">{text}</desc>
<path class="axis" d="M0 0h{width}M0 {middle}h{width}M0 {height}h{width}"/>
{drawn}{spots}</svg>
<div class="plot-x" aria-hidden="true">{places}</div>
</div>
<details id="{id}-figures"><summary>The figures as a table</summary>{table}</details>
</figure>""")

_LEGEND = Markup("""<li><svg class="chart" viewBox="0 0 24 8" width="24" height="8" aria-hidden="true"
 focusable="false"><path class="line {name}" d="M1 4h22"/></svg>{words} <b>{total}</b></li>""")

_TABLE = Markup("""<div class="table plot-table" role="region" aria-label="{title}, as a table" tabindex="0"><table>
<caption class="unseen">{title}</caption><thead><tr><th scope="col">{first}</th>{head}</tr></thead>
<tbody>{rows}</tbody></table></div>""")

_SPARKLINE = Markup("""<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"
 aria-label="{label}" focusable="false"><path d="{path}"/></svg>""")


def lines(
    chart_id: str, title: str, drawn: Sequence[Line], places: Sequence[str], *, first: str, marks: int = 4
) -> Markup:
    """Return a chart of lines over the same places, with a legend, and a table for those who cannot see it.

    `places` names each place, and `first` says what they are, such as "Minute". The axis shows `marks` + 1 of them.
    `chart_id` is unique on the page. All lines begin at zero.
    """
    top = _top(max((value for line in drawn for value in line.values if value is not None), default=0))
    width = max(len(places) - 1, 1)
    return _FIGURE.format(
        id=chart_id,
        title=title,
        text=_text(drawn),
        legend=_joined(
            _LEGEND.format(name=line.name, words=line.words, total=number(_total(line.values))) for line in drawn
        ),
        heights=_spans([number(top), number(top / 2), "0"]),
        width=width,
        height=_HEIGHT,
        middle=_HEIGHT // 2,
        drawn=_joined(
            Markup('<path class="line {name}" d="{path}"/>').format(
                name=line.name, path=_path(line.values, top, _HEIGHT)
            )
            for line in drawn
        ),
        spots=_spots(drawn, places),
        places=_spans([places[round(mark * (len(places) - 1) / marks)] for mark in range(marks + 1)] if places else []),
        table=_table(title, drawn, places, first),
    )


def sparkline(values: Sequence[float | None], label: str, *, width: int = 96, height: int = 24) -> Markup:
    """Return a small line without axes. `label` says what it shows, and its most important figure."""
    top = max((value for value in values if value is not None), default=0) or 1
    margin = 2
    step = (width - 2 * margin) / max(len(values) - 1, 1)
    path = _path(values, top, height - 2 * margin, step=step, margin=margin)
    return _SPARKLINE.format(width=width, height=height, label=label, path=path)


def _path(values: Sequence[float | None], top: float, height: float, *, step: float = 1, margin: float = 0) -> str:
    """Return the path through the values, whose gaps are gaps. A value between two gaps is a dot."""
    parts = []
    begins = True
    for place, value in enumerate(values):
        if value is not None:
            x, y = margin + place * step, margin + height * (1 - value / top)
            # The line of no length is seen by its round ends, if nothing follows.
            parts.append(f"M{x:.6g} {y:.4g}h0" if begins else f"L{x:.6g} {y:.4g}")
        begins = value is None
    return "".join(parts)


def _spots(drawn: Sequence[Line], places: Sequence[str]) -> Markup:
    """Return an area for each place, where the pointer finds its figures."""
    texts = (
        ", ".join([place, *(f"{number(line.values[at])} {line.words.lower()}" for line in drawn)])
        for at, place in enumerate(places)
    )
    spot = Markup('<rect class="spot" x="{x}" width="1" height="{height}"><title>{text}</title></rect>')
    return _joined(spot.format(x=at - 0.5, height=_HEIGHT, text=text) for at, text in enumerate(texts))


def _table(title: str, drawn: Sequence[Line], places: Sequence[str], first: str) -> Markup:
    row = Markup('<tr><th scope="row">{place}</th>{cells}</tr>')
    cell = Markup('<td class="number">{}</td>')
    return _TABLE.format(
        title=title,
        first=first,
        head=_joined(Markup('<th scope="col" class="number">{}</th>').format(line.words) for line in drawn),
        rows=_joined(
            row.format(place=place, cells=_joined(cell.format(number(line.values[at])) for line in drawn))
            for at, place in reversed(list(enumerate(places)))
        ),
    )


def _text(drawn: Sequence[Line]) -> str:
    """Return what the lines show, in words."""
    sentences = []
    for line in drawn:
        values = [value for value in line.values if value is not None]
        most, last = (number(max(values)), number(values[-1])) if values else (NOTHING, NOTHING)
        sentences.append(f"{line.words}: {number(_total(line.values))} in all, at most {most}, lastly {last}.")
    return " ".join(sentences)


def _total(values: Sequence[float | None]) -> float:
    return sum(value for value in values if value is not None)


def _top(most: float) -> float:
    """Return a round number that is no less, of which half is a whole number."""
    power = 10 ** max(0, math.ceil(math.log10(most)) - 1) if most > 0 else 1
    return next(power * top for top in _TOPS if power * top >= most)


def _spans(texts: Sequence[str]) -> Markup:
    return _joined(Markup("<span>{}</span>").format(text) for text in texts)


def _joined(parts: Iterator[Markup]) -> Markup:
    return _NO_MARKUP.join(parts)
