"""docs/metrics.md and the code name the same metrics, with the same types and labels."""

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from jobs_service.metrics import definitions
from jobs_service.metrics.collector import DatabaseCollector

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
ROWS = {
    name: (kind, tuple(filter(None, labels.split(", "))))
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \|\s*([\w, ]*?)\s*\|", PAGE, re.MULTILINE)
}


class FakeDatabase:
    """Answers every query with one row of numbers: only the families' names count here."""

    def rows(self, *_):
        return []

    def row(self, *_):
        return (0,)


def test_the_page_has_every_metric_with_its_type_and_labels():
    counted = {
        metric._name + ("_total" if metric._type == "counter" else ""): (metric._type, tuple(metric._labelnames))
        for metric in vars(definitions).values()
        if isinstance(metric, MetricWrapperBase)
    }
    collector = DatabaseCollector(FakeDatabase(), queues=["default"], lease_seconds=1)
    computed = {family.name: (family.type, tuple(family._labelnames)) for family in collector.collect()}

    assert counted | computed == ROWS
