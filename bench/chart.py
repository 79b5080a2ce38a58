"""The command `python -m bench.chart figures.json chart.svg`: draws the main figures of a run (`--json`)."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

#: The figures that are drawn, and what to write above them.
SHOWN = {
    "end to end, jobs/s": "end to end, jobs/s: longer is better",
    "drain, jobs/s": "drain, jobs/s: longer is better",
    "CPU seconds per 1,000 jobs": "CPU seconds per 1,000 jobs: shorter is better",
    "single job completed, p50 ms": "single job completed, p50 ms: shorter is better",
}
WIDTH, LABEL_WIDTH, VALUE_WIDTH = 720, 130, 70
BAR, GAP, TITLE = 18, 6, 34
OURS, OTHERS, TEXT = "#1f77b4", "#b8bec6", "#24292f"


def main(arguments: Sequence[str]) -> int:
    source, target = map(Path, arguments)
    target.write_text(drawn(json.loads(source.read_text())))
    return 0


def drawn(document: Mapping[str, Any]) -> str:
    """Return the chart as SVG."""
    y, parts = 0, []
    for label, title in SHOWN.items():
        values = {name: entry["value"] for name, entry in document["figures"][label].items()}
        parts += _group(title, values, document["subject"], y)
        y += TITLE + len(values) * (BAR + GAP)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + GAP}" font-family="sans-serif" '
        f'font-size="13" fill="{TEXT}">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _group(title: str, values: Mapping[str, float], subject: str, y: int) -> Iterator[str]:
    yield f'<text x="8" y="{y + 24}" font-weight="bold">{escape(title)}</text>'
    scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / max(values.values())
    for number, (name, value) in enumerate(values.items()):
        top = y + TITLE + number * (BAR + GAP)
        colour = OURS if name == subject else OTHERS
        yield f'<text x="{LABEL_WIDTH - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect x="{LABEL_WIDTH}" y="{top}" width="{value * scale:.1f}" height="{BAR}" fill="{colour}"/>'
        written = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
        yield f'<text x="{LABEL_WIDTH + value * scale + 6:.1f}" y="{top + 14}">{written}</text>'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
