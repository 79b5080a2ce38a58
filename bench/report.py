"""The table: medians over the rounds, and ratios taken inside each round."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from bench.rounds import Figures, percentile

#: Figures of each round of a system, in the order of the rounds.
Rounds = list[Figures]


@dataclass(frozen=True)
class Ratio:
    """How many times better a system is: in the median round, the worst and the best."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        spread = f" ({self.low:.2f}-{self.high:.2f})" if self.low < self.high else ""
        return f"{self.median:.2f}x{spread}"


@dataclass(frozen=True)
class Row:
    """One row of the table. Its value comes from one round, or from the samples of several rounds."""

    label: str
    value: Callable[[Rounds], float]
    format: str
    more_is_better: bool = False

    def compare(self, system: Rounds, yardstick: Rounds) -> "Ratio | None":
        """Return how many times better the system is than the yardstick, or None if a value is 0."""
        pairs = [(self.value([ours]), self.value([theirs])) for ours, theirs in zip(system, yardstick, strict=True)]
        if any(min(pair) <= 0 for pair in pairs):
            return None
        ratios = [ours / theirs if self.more_is_better else theirs / ours for ours, theirs in pairs]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def _median(key: str) -> Callable[[Rounds], float]:
    return lambda rounds: statistics.median(figures.values[key] for figures in rounds)


def _pooled(samples: str, percent: float) -> Callable[[Rounds], float]:
    return lambda rounds: percentile([value for figures in rounds for value in getattr(figures, samples)], percent)


#: Phase -> its rows.
ROWS: Mapping[str, list[Row]] = {
    "load": [
        Row("end to end, jobs/s", _median("rate"), "{:,.0f}", more_is_better=True),
        Row("CPU seconds per 1,000 jobs", _median("cpu"), "{:.2f}"),
        Row("  CPU API", _median("cpu API"), "{:.2f}"),
        Row("  CPU worker", _median("cpu worker"), "{:.2f}"),
        Row("  CPU PostgreSQL", _median("cpu PostgreSQL"), "{:.2f}"),
        Row("  CPU Redis", _median("cpu Redis"), "{:.2f}"),
        Row("POST answered under load, p50 ms", _median("answer p50"), "{:.1f}"),
        Row("POST answered under load, p99 ms", _median("answer p99"), "{:.1f}"),
        Row("PostgreSQL statements per job", _median("statements"), "{:.2f}"),
        Row("PostgreSQL commits per job", _median("commits"), "{:.2f}"),
        Row("Redis commands per job", _median("redis commands"), "{:.2f}"),
        Row("Redis round trips per job", _median("redis reads"), "{:.2f}"),
    ],
    "drain": [Row("drain, jobs/s", _median("drain"), "{:,.0f}", more_is_better=True)],
    "latency": [
        Row("started after idle, p50 ms", _pooled("start_ms", 50), "{:.1f}"),
        Row("started after idle, p99 ms", _pooled("start_ms", 99), "{:.1f}"),
        Row("completed after idle, p50 ms", _pooled("finish_ms", 50), "{:.1f}"),
        Row("completed after idle, p99 ms", _pooled("finish_ms", 99), "{:.1f}"),
    ],
    "idle": [
        Row("idle stack, % of a core", _median("idle"), "{:.2f}"),
        Row("  idle API", _median("idle API"), "{:.2f}"),
        Row("  idle worker", _median("idle worker"), "{:.2f}"),
        Row("  idle PostgreSQL", _median("idle PostgreSQL"), "{:.2f}"),
        Row("  idle Redis", _median("idle Redis"), "{:.2f}"),
        Row("memory of API and worker, MiB", _median("memory"), "{:.0f}"),
    ],
}


def rows(phases: frozenset[str]) -> list[Row]:
    """Return the rows of these phases, in the table's order."""
    return [row for phase, lines in ROWS.items() if phase in phases for row in lines]


def table(measured: Mapping[str, Rounds], phases: frozenset[str], yardstick: str) -> str:
    """Return the table as text: the yardstick's figures, then those of each system with how much better it is."""
    others = [name for name in measured if name != yardstick]
    head = ["", yardstick, *(cell for name in others for cell in (name, "better by"))]
    lines = [head] + [_cells(row, measured, yardstick, others) for row in rows(phases)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _cells(row: Row, measured: Mapping[str, Rounds], yardstick: str, others: list[str]) -> list[str]:
    cells = [row.label, row.format.format(row.value(measured[yardstick]))]
    for name in others:
        ratio = row.compare(measured[name], measured[yardstick])
        cells += [row.format.format(row.value(measured[name])), str(ratio or "")]
    return cells


def _aligned(cells: list[str], widths: list[int]) -> str:
    label, *figures = cells
    return "  ".join([label.ljust(widths[0]), *map(str.rjust, figures, widths[1:])]).rstrip()


def document(measured: Mapping[str, Rounds], phases: frozenset[str], yardstick: str) -> dict[str, object]:
    """Return the same figures as data for JSON, with those of each round."""
    return {
        "figures": {
            row.label.strip(): {
                name: _entry(row, rounds, None if name == yardstick else measured[yardstick])
                for name, rounds in measured.items()
            }
            for row in rows(phases)
        },
        "rounds": {name: [asdict(figures) for figures in rounds] for name, rounds in measured.items()},
    }


def _entry(row: Row, rounds: Rounds, yardstick: Rounds | None) -> dict[str, object]:
    ratio = row.compare(rounds, yardstick) if yardstick else None
    return {"value": row.value(rounds), "better_by": asdict(ratio) if ratio else None}
