"""`make bench` and `make bench-backlog` in their shortest form: do they run to the end and measure everything?"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import backlog, batch, packages
from bench.report import ROWS
from bench.rounds import PHASES

ROOT = Path(__file__).resolve().parents[2]

#: Too little for the kernel's clock in a run this short.
MAY_BE_ZERO = ("idle", "CPU API", "CPU worker", "CPU PostgreSQL", "CPU Redis")


def test_a_quick_run_measures_both_sides(tmp_path):
    run, figures = measure(tmp_path, "--systems", "straightforward,ours")

    labels = [row.label for phase in PHASES for row in ROWS[phase]]
    assert {label.strip() for label in labels} == set(figures)
    for label in labels:
        assert f"\n{label}  " in run.stdout
    for label, sides in figures.items():
        assert {"straightforward", "ours"} == set(sides)
        assert label.startswith(MAY_BE_ZERO) or all(side["value"] > 0 for side in sides.values()), label


@pytest.mark.parametrize(("name", "install"), [("celery", packages.celery), ("node", packages.node)])
def test_a_comparator_does_the_same_jobs(name, install, tmp_path):
    try:
        install()
    except packages.Missing as missing:
        pytest.skip(f"{name}: {missing}")

    run, figures = measure(tmp_path, "--systems", name, "--phases", "load,drain")

    assert f"versions of {name}: " in run.stdout
    assert all(sides[name]["value"] > 0 for label, sides in figures.items() if not label.startswith(MAY_BE_ZERO))
    # INSERT, and an UPDATE for each of the two states that follow. PostgreSQL may vacuum meanwhile, which commits too.
    assert 3 == round(figures["PostgreSQL commits per job"][name]["value"])


def test_many_clients_are_served(tmp_path):
    _, figures = measure(tmp_path, "--systems", "ours", "--phases", "clients")

    assert {row.label for row in ROWS["clients"]} == set(figures)
    assert all(sides["ours"]["value"] > 0 for sides in figures.values())
    assert 1 >= figures["lowest rate over best"]["ours"]["value"]


def measure(tmp_path, *arguments):
    """Make a quick run; return it and its figures."""
    figures_file = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", figures_file, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert 0 == run.returncode, run.stderr
    return run, json.loads(figures_file.read_text())["figures"]


@pytest.mark.parametrize("kind", ["--rows", "--finished"])
def test_a_small_backlog_is_measured_beside_an_empty_queue(kind):
    sizes = [kind, "9000", "--jobs", "40", "--rounds", "1", "--urgent", "1"]

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


def test_a_few_clients_watch_and_wait():
    run = subprocess.run(
        [sys.executable, "-m", "bench.live", "--waits", "20", "--streams", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert 0 == run.returncode, run.stderr
    told = re.findall(r"^(.*?)  +p50 .* ms, p99 .* ms, last .* ms$", run.stdout, re.MULTILINE)
    assert ["one client waits", "20 clients wait, all jobs at once", *["20 streams, one event"] * 5] == told


def test_the_consoles_pages_are_measured_beside_an_empty_table():
    run = subprocess.run(
        [sys.executable, "-m", "bench.console", "--rows", "3000", "--requests", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert 0 == run.returncode, run.stderr
    pages = re.findall(r"^(/console\S*) +(?:[\d.]+ *){5}$", run.stdout, re.MULTILINE)
    assert {"/console", "/console/jobs", "/console/jobs?q=alice"} <= set(pages), run.stdout


def test_a_few_batches_are_measured_beside_single_jobs():
    sizes = ["--singles", "20", "--batched", "10000", "--rounds", "1"]

    run = subprocess.run(
        [sys.executable, "-m", "bench.batch", *sizes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert 0 == run.returncode, run.stderr
    rates = {
        name: float(re.search(rf"^{name} +([\d,]+)", run.stdout, re.MULTILINE)[1].replace(",", ""))
        for name in batch.RATES
    }
    assert all(rate > 0 for rate in rates.values())
    assert "single job answered, beside batches: p50 " in run.stdout
