"""The table: medians over the rounds, and ratios taken inside each round."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

from bench.rounds import CLIENT_COUNTS, CLIENTS, Figures, percentile

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


def _clients_rows() -> Iterator[Row]:
    """Yield the lines of each number of clients, then how well the rate holds."""
    for clients in CLIENT_COUNTS:
        yield Row(f"{clients} clients, jobs/s", _median(f"rate of {clients}"), "{:,.0f}", more_is_better=True)
        yield Row(f"{clients} clients, POST answered, p50 ms", _median(f"answer p50 of {clients}"), "{:.1f}")
        yield Row(f"{clients} clients, POST answered, p99 ms", _median(f"answer p99 of {clients}"), "{:.1f}")
        yield Row(f"{clients} clients, POST answered, p99/p50", _median(f"p99/p50 of {clients}"), "{:.2f}")
    yield Row("lowest rate over best", _median("lowest/best rate"), "{:.2f}", more_is_better=True)


#: phase -> its lines
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
        Row("connections to PostgreSQL", _median("connections"), "{:.0f}"),
    ],
    "single": [
        Row("single job answered, p50 ms", _pooled("single_answer_ms", 50), "{:.1f}"),
        Row("single job answered, p99 ms", _pooled("single_answer_ms", 99), "{:.1f}"),
        Row("single job completed, p50 ms", _pooled("single_finish_ms", 50), "{:.1f}"),
        Row("single job completed, p99 ms", _pooled("single_finish_ms", 99), "{:.1f}"),
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
    CLIENTS: list(_clients_rows()),
}


def rows(phases: frozenset[str]) -> list[Row]:
    """Return the rows of these phases, in the table's order."""
    return [row for phase, lines in ROWS.items() if phase in phases for row in lines]


def table(measured: Mapping[str, Rounds], phases: frozenset[str], subject: str) -> str:
    """Return the lines as text: each system's figures, then how much better the subject is than each of the others.

    Without the subject among the systems there are only figures.
    """
    others = _others(measured, subject)
    head = ["", *measured, *(f"against {name}" for name in others)]
    lines = [head] + [_cells(row, measured, subject, others) for row in rows(phases)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _others(measured: Mapping[str, Rounds], subject: str) -> list[str]:
    return [name for name in measured if name != subject] if subject in measured else []


def _cells(row: Row, measured: Mapping[str, Rounds], subject: str, others: list[str]) -> list[str]:
    figures = [row.format.format(row.value(rounds)) for rounds in measured.values()]
    ratios = [row.compare(measured[subject], measured[name]) for name in others]
    return [row.label, *figures, *(str(ratio or "") for ratio in ratios)]


def _aligned(cells: list[str], widths: list[int]) -> str:
    label, *figures = cells
    return "  ".join([label.ljust(widths[0]), *map(str.rjust, figures, widths[1:])]).rstrip()


def document(measured: Mapping[str, Rounds], phases: frozenset[str], subject: str) -> dict[str, object]:
    """Return the same figures for a program to read, with those of each round.

    Each of the others has `subject_better_by`: how many times better the subject is.
    """
    others = _others(measured, subject)
    return {
        "subject": subject,
        "figures": {
            row.label.strip(): {
                name: _entry(row, rounds, measured[subject] if name in others else None)
                for name, rounds in measured.items()
            }
            for row in rows(phases)
        },
        "rounds": {name: [asdict(figures) for figures in rounds] for name, rounds in measured.items()},
    }


def _entry(row: Row, rounds: Rounds, subject: Rounds | None) -> dict[str, object]:
    ratio = row.compare(subject, rounds) if subject else None
    return {"value": row.value(rounds), "subject_better_by": asdict(ratio) if ratio else None}
