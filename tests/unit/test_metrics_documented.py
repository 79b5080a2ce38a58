"""docs/metrics.md is what the catalogue says, and the catalogue follows Prometheus' conventions."""

import pytest

from jobs_service.metrics import page
from jobs_service.metrics.definitions import CATALOGUE


def test_the_page_is_written_from_the_catalogue():
    assert page.render() == page.PAGE.read_text(), "run: make docs"


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)
def test_a_row_keeps_to_the_conventions(row):
    assert (row.kind == "counter") == row.name.endswith("_total")
    assert row.help.endswith(".")
    assert not {"job", "instance", "le", "pid"} & {*row.label_names}, "Prometheus has these for itself"
