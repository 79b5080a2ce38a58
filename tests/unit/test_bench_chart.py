"""The chart of the benchmark page is that of the page's data."""

import json
from xml.etree import ElementTree as ET

from service import ROOT

from bench.chart import SHOWN, drawn

PAGE = ROOT / "docs" / "benchmark.md"
DATA, CHART = PAGE.with_suffix(".json"), PAGE.with_suffix(".svg")


def test_the_chart_is_drawn_from_the_data():
    assert drawn(json.loads(DATA.read_text())) == CHART.read_text()


def test_it_has_a_bar_for_each_system_and_figure():
    document = json.loads(DATA.read_text())
    bars = ET.fromstring(drawn(document)).findall("{http://www.w3.org/2000/svg}rect[@x]")

    assert sum(len(document["figures"][label]) for label in SHOWN) == len(bars)


def test_the_page_shows_the_figures_of_the_data():
    page = PAGE.read_text()
    for label in SHOWN:
        line = next(line for line in page.splitlines() if line.startswith(label))
        for entry in json.loads(DATA.read_text())["figures"][label].values():
            assert (
                f"{entry['value']:,.0f}" in line or f"{entry['value']:.2f}" in line or f"{entry['value']:.1f}" in line
            )
