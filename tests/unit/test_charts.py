"""Charts: what they draw, and what they say to those who do not see them."""

import re
from xml.etree import ElementTree as ET

import pytest

from jobs_service.api.console.charts import Line, lines, sparkline


def chart(*drawn, places=("12:00", "12:01", "12:02")):
    return ET.fromstring(str(lines("flow", "Jobs a minute", drawn, places, first="Minute", marks=1)))


def path_of(figure, name):
    [path] = [path for path in figure.iter("path") if path.get("class") == f"line {name}" and "L" in path.get("d")]
    return path.get("d")


def test_a_line_goes_through_its_values():
    figure = chart(Line("failed", "Failed", [0, 5, 10]), Line("completed", "Completed", [10, 10, 0]))

    assert "M0 100h0L1 50L2 0" == path_of(figure, "failed")
    assert "M0 0h0L1 0L2 100" == path_of(figure, "completed")


def test_what_is_not_known_is_a_gap():
    path = "".join(
        re.findall(
            r'class="line failed" d="([^"]*)"',
            str(lines("a", "b", [Line("failed", "Failed", [1, None, 2, 2])], ["a", "b", "c", "d"], first="Minute")),
        )[-1:]
    )

    assert "M0 50h0M2 0h0L3 0" == path


def test_the_figures_are_a_table_with_the_latest_first():
    figure = chart(Line("failed", "Failed", [0, 1_500, None]))

    rows = [["".join(cell.itertext()) for cell in row] for row in figure.iter("tr")]
    assert [["Minute", "Failed"], ["12:02", "—"], ["12:01", "1,500"], ["12:00", "0"]] == rows
    assert "Failed: 1,500 in all, at most 1,500, lastly 1,500." == next(figure.iter("desc")).text


def test_the_axis_ends_at_a_round_number():
    def top(value):
        figure = chart(Line("failed", "Failed", [value]), places=["12:00"])
        [labels] = [part for part in figure.iter("div") if part.get("class") == "plot-y"]
        return [label.text for label in labels]

    assert ["2", "1", "0"] == top(0) == top(1) == top(2)
    assert ["8", "4", "0"] == top(7)
    assert ["10", "5", "0"] == top(10)
    assert ["20", "10", "0"] == top(11)
    assert ["4,000", "2,000", "0"] == top(3_999)


@pytest.mark.parametrize("values", [[], [None], [None, None]])
def test_nothing_to_draw_is_an_empty_chart(values):
    assert "Failed: 0 in all, at most —, lastly —." in str(
        lines("a", "b", [Line("failed", "Failed", values)], ["x"] * len(values), first="Minute")
    )


def test_texts_are_no_markup():
    hostile = '"><script>alert(1)</script>'

    drawn = lines(hostile, hostile, [Line(hostile, hostile, [1])], [hostile], first=hostile)

    assert "<script>" not in drawn + sparkline([1], hostile)
    ET.fromstring(str(drawn))


def test_a_sparkline_stays_in_its_box():
    drawn = ET.fromstring(str(sparkline([0, 3, None, 6], "6 in the last hour")))

    assert "M2 22h0L32.6667 12M94 2h0" == drawn.find("path").get("d")
    assert ("img", "6 in the last hour") == (drawn.get("role"), drawn.get("aria-label"))
    assert "M2 22h0L94 22" == ET.fromstring(str(sparkline([0, 0], "none"))).find("path").get("d")
