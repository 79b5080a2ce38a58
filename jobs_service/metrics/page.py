"""Writes docs/metrics.md from the catalogue: `make docs`."""

import sys
from pathlib import Path

from jobs_service.metrics.catalogue import CATALOGUE, Definition, Source

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

_HEAD = """\
# Metrics

This page is written from `jobs_service/metrics/catalogue.py` by `make docs`; a test keeps the two equal.

`GET /metrics` of the API (port 3000) and of the workers (port 9191) both answer for all processes of their service.
What is computed at the scrape both compute, so that one sees when the other is away: take `max by (…)` of it.

`queue_name` and `actor_name` are Dramatiq's own labels; an actor is a job type. Series that are known in advance are
there at 0 from the start, because `rate()` and `increase()` miss a series' first step.

Counters stay exact when processes are replaced, reloaded or killed. Histograms are written once a second: a killed
process loses its last second of observations. The workers' gauges are at most two seconds old.
"""

_INTRODUCTIONS = {
    Source.SCRAPE: "From PostgreSQL, Redis and the settings, when Prometheus asks: by a connection of its own, with a "
    "statement timeout, at most once every two seconds. Each collector fails alone.",
    Source.DRAMATIQ: "The seven names of Dramatiq's own Prometheus middleware, for dashboards that know them, made of "
    "the metrics above. `DRAMATIQ_METRICS=off` leaves them out.",
}


def render() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(_section(origin) for origin in Source)])


def _section(origin: Source) -> str:
    rows = [row for row in CATALOGUE.values() if row.origin is origin]
    introduction = [_INTRODUCTIONS[origin], ""] if origin in _INTRODUCTIONS else []
    head = ["| metric | type | labels | what |", "|---|---|---|---|"]
    return "\n".join([f"## {origin}", "", *introduction, *head, *map(_line, rows), ""])


def _line(row: Definition) -> str:
    return f"| `{row.name}` | {row.kind} | {', '.join(row.label_names)} | {row.help} |"


if __name__ == "__main__":
    sys.exit(PAGE.write_text(render()) and None)
