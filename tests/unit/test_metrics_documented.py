"""docs/metrics.md is what the catalogue says, and the catalogue follows Prometheus' conventions."""

import re
import typing
from pathlib import Path

import pytest

from jobs_service.metrics import page
from jobs_service.metrics.catalogue import CATALOGUE, OPERATIONS
from jobs_service.worker.verdict import Verdict

ROOT = Path(__file__).parents[2]


def test_the_page_is_written_from_the_catalogue():
    assert page.render() == page.PAGE.read_text(), "run: make docs"


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)
def test_a_row_keeps_to_the_conventions(row):
    assert (row.kind == "counter") == row.name.endswith("_total")
    assert row.help.endswith(".")
    assert not {"job", "instance", "le", "pid"} & {*row.label_names}, "Prometheus has these for itself"


def test_every_transition_that_a_worker_writes_starts_at_zero():
    sources = [path.read_text() for path in (ROOT / "jobs_service" / "worker").rglob("*.py")]
    named = {name for source in sources for name in re.findall(r'\.until_answered\(\s*"(\w+)"', source)}
    verdicts = {verdict.operation for verdict in typing.get_args(Verdict)}

    assert {*OPERATIONS} == named | verdicts
