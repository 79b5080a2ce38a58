"""The chart of a run of the benchmark."""

import json
from xml.etree import ElementTree as ET

from service import ROOT

from bench.chart import OURS, SHOWN, drawn

BARS = "{http://www.w3.org/2000/svg}rect[@x]"


def test_there_is_a_bar_for_each_system_and_figure_and_its_length_is_the_value():
    values = {"node": {"value": 2.0}, "ours": {"value": 1_234.0}}
    chart = drawn({"subject": "ours", "figures": dict.fromkeys(SHOWN, values)})

    bars = ET.fromstring(chart).findall(BARS)

    widths = [float(bar.get("width")) for bar in bars]
    assert 2 * len(SHOWN) == len(bars)
    assert [bar for bar in bars if bar.get("fill") == OURS] == bars[1::2]
    assert all(
        round(2 / 1_234, 3) == round(other / ours, 3) for other, ours in zip(widths[::2], widths[1::2], strict=True)
    )
    assert "1,234" in chart
    assert "2.00" in chart


def test_names_are_escaped():
    figures = {label: {"a < b & c": {"value": 1.0}} for label in SHOWN}

    assert "a &lt; b &amp; c" in drawn({"subject": "ours", "figures": figures})


def test_the_chart_of_the_page_is_drawn_from_its_data():
    page = ROOT / "docs" / "benchmark.md"

    assert drawn(json.loads(page.with_suffix(".json").read_text())) == page.with_suffix(".svg").read_text()


def test_the_page_has_the_figures_of_its_data():
    page = ROOT / "docs" / "benchmark.md"
    lines = page.read_text().splitlines()
    for label, entries in json.loads(page.with_suffix(".json").read_text())["figures"].items():
        line = next(line for line in lines if line.strip().startswith(label))
        for entry in entries.values():
            assert any(form.format(entry["value"]) in line for form in ("{:,.0f}", "{:.2f}", "{:.1f}")), line
