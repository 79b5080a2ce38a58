"""The table of what was measured, written by the tests into docs/reliability.md: `make chaos-report`."""

import re
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = "make chaos-report"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass
class Measured:
    """What the tests of one fault saw together."""

    tests: int = 0
    jobs: int = 0
    in_flight: int = 0
    lost: int = 0
    doubled: int = 0
    recoveries: list[float] = field(default_factory=list)


class Report:
    """Adds up by fault: the name of the test's file."""

    def __init__(self):
        self.faults: dict[str, Measured] = {}

    def add(self, fault, stack, lost):
        measured = self.faults.setdefault(fault, Measured())
        measured.tests += 1
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
            "| fault | tests | jobs | in flight | lost | done twice, and told | recovered in p50 s | in p99 s |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for fault, m in sorted(self.faults.items()):
            times = f"{_percentile(m.recoveries, 0.5)} | {_percentile(m.recoveries, 0.99)}"
            lines.append(f"| {fault} | {m.tests} | {m.jobs} | {m.in_flight} | {m.lost} | {m.doubled} | {times} |")
        return "\n".join(lines) + f"\n\nWritten by `{COMMAND}`."


def _percentile(values, share):
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))]:.1f}"
