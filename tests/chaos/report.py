"""The table of what was measured: `CHAOS_REPORT=docs/reliability.md make chaos` writes it into that page."""

import re
from dataclasses import dataclass, field
from pathlib import Path

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass
class Measured:
    """What the tests of one fault saw together."""

    jobs: int = 0
    in_flight: int = 0
    lost: int = 0
    doubled: int = 0
    recoveries: list[float] = field(default_factory=list)


class Report:
    """Adds up by fault: the name of the test's file says which it is."""

    def __init__(self):
        self.faults: dict[str, Measured] = {}

    def add(self, file, stack, lost):
        """`file` is the test's path, from the project's folder."""
        measured = self.faults.setdefault(str(file), Measured())
        measured.jobs += len(stack.accepted)
        measured.in_flight += len(stack.in_flight)
        measured.lost += lost
        measured.doubled += sum(count - 1 for count in stack.effects().values() if count > 1)
        measured.recoveries += stack.recoveries()

    def write(self, page: Path):
        text = page.read_text()
        table = f"{BEGIN}\n\n{self.table()}\n{END}"
        page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, text, flags=re.DOTALL))

    def table(self):
        lines = [
            "| fault | jobs | in flight | lost | done twice, and recorded | recovered p50 s | p99 s | command |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for file, m in sorted(self.faults.items()):
            times = f"{_percentile(m.recoveries, 0.5)} | {_percentile(m.recoveries, 0.99)}"
            fault = Path(file).stem.removeprefix("test_").replace("_", " ")
            counts = f"{m.jobs} | {m.in_flight} | {m.lost} | {m.doubled}"
            lines.append(f"| {fault} | {counts} | {times} | `make test TESTS={file}` |")
        return "\n".join(lines) + "\n"


def _percentile(values, share):
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))]:.1f}"
