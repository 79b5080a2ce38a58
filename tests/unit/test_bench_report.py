"""The benchmark's table: medians, ratios, layout."""

import pytest

from bench.report import ROWS, document, table
from bench.rounds import ALL_PHASES, CLIENT_COUNTS, CLIENTS, PHASES, Figures, percentile


def rounds(key, *values):
    return [Figures(values={key: value}) for value in values]


def row(key, *, more_is_better=False):
    return next(
        row for rows in ROWS.values() for row in rows if row.label == key and row.more_is_better is more_is_better
    )


RATE = row("end to end, jobs/s", more_is_better=True)
CPU = row("CPU seconds per 1,000 jobs")
LATENCY = frozenset({"latency"})
START = row("started after idle, p50 ms")


def test_a_value_is_the_median_of_the_rounds():
    assert 20 == RATE.value(rounds("rate", 10, 20, 90))


def test_a_ratio_is_taken_inside_each_round():
    """A slow spell of the machine that hits one round of both sides does not count."""
    ratio = RATE.compare(rounds("rate", 200, 20, 400), rounds("rate", 100, 10, 100))

    assert (2, 2, 4) == (ratio.median, ratio.low, ratio.high)
    assert "2.00x (2.00-4.00)" == str(ratio)


def test_less_is_better_for_what_is_spent():
    ratio = CPU.compare(rounds("cpu", 2), rounds("cpu", 6))

    assert "3.00x" == str(ratio)


def test_samples_of_all_rounds_count_together():
    both = [Figures(start_ms=[1, 2]), Figures(start_ms=[3, 40, 50])]

    assert 3 == START.value(both)


def test_nothing_is_compared_with_zero():
    assert CPU.compare(rounds("cpu", 0), rounds("cpu", 6)) is None


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (99, 4), (100, 4), (1, 1)])
def test_a_percentile_is_one_of_the_values(percent, value):
    assert value == percentile([4, 1, 3, 2], percent)


def test_the_table_and_the_document_have_the_same_figures():
    measured = {"node": [samples(6)], "straightforward": [samples(4)], "ours": [samples(2)]}

    text = table(measured, LATENCY, "ours")
    figures = document(measured, LATENCY, "ours")["figures"]

    assert ["node", "straightforward", "ours", "against node", "against straightforward"] == cells(text.splitlines()[0])
    assert ["started after idle, p50 ms", "6.0", "4.0", "2.0", "3.00x", "2.00x"] == cells(text.splitlines()[1])
    entries = figures["started after idle, p50 ms"]
    assert {"node": 6, "straightforward": 4, "ours": 2} == {name: entry["value"] for name, entry in entries.items()}
    assert 3 == entries["node"]["subject_better_by"]["median"]
    assert 2 == entries["straightforward"]["subject_better_by"]["median"]
    assert entries["ours"]["subject_better_by"] is None
    assert len(ROWS["latency"]) == len(figures) == len(text.splitlines()) - 1


def test_without_the_subject_there_are_only_figures():
    measured = {"node": [samples(6)], "straightforward": [samples(4)]}

    text = table(measured, LATENCY, "ours")
    figures = document(measured, LATENCY, "ours")["figures"]

    assert ["node", "straightforward"] == cells(text.splitlines()[0])
    assert ["started after idle, p50 ms", "6.0", "4.0"] == cells(text.splitlines()[1])
    assert figures["started after idle, p50 ms"]["node"]["subject_better_by"] is None


def test_every_number_of_clients_has_its_lines():
    labels = [row.label for row in ROWS["clients"]]

    for clients in CLIENT_COUNTS:
        assert 4 == sum(label.startswith(f"{clients} clients, ") for label in labels)
    assert "lowest rate over best" == labels[-1]


def test_every_phase_has_its_lines():
    assert set(ALL_PHASES) == set(ROWS)
    assert {CLIENTS} == set(ALL_PHASES) - set(PHASES)


def samples(value):
    return Figures(start_ms=[value], finish_ms=[value])


def cells(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]
