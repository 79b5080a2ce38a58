"""`make bench` and `make bench-backlog` in their shortest form: do they run to the end and measure everything?"""

import json
import subprocess
import sys
from pathlib import Path

from bench import backlog
from bench.report import ROWS

ROOT = Path(__file__).resolve().parents[2]

#: Too little for the kernel's clock in a run this short.
MAY_BE_ZERO = ("idle", "CPU API", "CPU worker", "CPU PostgreSQL", "CPU Redis")


def test_a_quick_run_measures_both_sides(tmp_path):
    figures_file = tmp_path / "figures.json"

    run = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", figures_file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert 0 == run.returncode, run.stderr
    figures = json.loads(figures_file.read_text())["figures"]
    labels = [row.label for rows in ROWS.values() for row in rows]
    assert [label.strip() for label in labels] == list(figures)
    for label in labels:
        assert f"\n{label}  " in run.stdout
    for label, sides in figures.items():
        assert {"straightforward", "ours"} == set(sides)
        assert label.startswith(MAY_BE_ZERO) or all(side["value"] > 0 for side in sides.values()), label


def test_a_small_backlog_is_measured_beside_an_empty_queue():
    sizes = ["--rows", "9000", "--jobs", "40", "--rounds", "1", "--urgent", "1"]

    run = subprocess.run(
        [sys.executable, "-m", "bench.backlog", *sizes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert 0 == run.returncode, run.stderr
    for row in backlog.ROWS:
        assert f"\n{row.label}  " in run.stdout
    # The scrape counts what waits, and here all do.
    assert "Seq Scan jobs" not in run.stdout.partition("scrape:")[0]
