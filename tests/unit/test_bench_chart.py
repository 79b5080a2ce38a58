"""The chart of a run of the benchmark."""

from xml.etree import ElementTree as ET

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
