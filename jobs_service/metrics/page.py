"""Writes docs/metrics.md from the catalogue. `make docs` runs this module."""

import sys
from pathlib import Path

from jobs_service.metrics.catalogue import CATALOGUE, Definition, Source

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

_HEAD = """\
# Metrics

`make docs` writes this page from `jobs_service/metrics/catalogue.py`; a test compares the two.

`GET /metrics` of the API (port 3000) and of the workers (port 9191) each return the values of all processes of their
service. Both also compute the metrics under "Computed at the scrape", so that these are still available when one of the
two is down: query them with `max by (…)`.

`queue_name` and `actor_name` are Dramatiq's labels; an actor is a job type. Series whose labels are known in advance
start at 0, because `rate()` and `increase()` miss the first increment of a series that appears later.

Counters stay exact when processes are replaced, reloaded or killed. Histograms are written once a second, so a killed
process loses its last second of observations. The workers' gauges are at most two seconds old.
"""

_INTRODUCTIONS = {
    Source.SCRAPE: "Read from PostgreSQL, Redis and the settings at a scrape, over a separate connection with a "
    "statement timeout, at most once every two seconds. Collectors fail independently.",
    Source.DRAMATIQ: "The seven metrics of Dramatiq's own Prometheus middleware, for dashboards that use them, derived "
    "from the metrics above. `DRAMATIQ_METRICS=off` disables them.",
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
