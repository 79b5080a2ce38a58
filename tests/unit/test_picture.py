"""Numbers in the picture of a dashboard. That it can be drawn, `test_dashboard_queries.py` sees."""

import sys

import pytest
from dashboards import MONITORING

sys.path.append(str(MONITORING / "grafana"))

from units import format_value


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0, "s", "0 s"),
        (0.0042, "s", "4.2 ms"),
        (90, "s", "1.5 min"),
        (0.256, "percentunit", "25.6 %"),
        (12_345, "short", "12.3 K"),
        (999, "none", "999"),
        (12_345, "none", "12345"),
        (5 * 2**20, "bytes", "5 MiB"),
        (3.14159, "ops", "3.14 ops/s"),
    ],
)
def test_a_number_has_the_digits_that_matter_and_its_unit(value, unit, written):
    assert written == format_value(value, unit)


def test_decimals_that_are_asked_for_are_written():
    assert "99.00 %" == format_value(0.99, "percentunit", 2)
