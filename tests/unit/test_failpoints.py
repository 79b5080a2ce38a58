"""Failpoints: nothing unless ordered, and every place is known and used."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs_service import failpoints
from jobs_service.failpoints import NAMES, Injected, enabled

ROOT = Path(__file__).parents[2]


def test_without_an_order_a_failpoint_is_nothing():
    assert failpoints.pass_by is failpoints.failpoint


def test_an_order_is_carried_out_at_its_place_and_at_no_other(tmp_path):
    failpoint = enabled("api.after_commit=raise", tmp_path)

    failpoint("api.before_commit")
    with pytest.raises(Injected):
        failpoint("api.after_commit")
    with pytest.raises(Injected):
        failpoint("api.after_commit")


def test_once_is_once_for_all_processes(tmp_path):
    first, second = (enabled("api.after_commit=raise once", tmp_path) for _ in range(2))

    with pytest.raises(Injected):
        first("api.after_commit")
    first("api.after_commit")
    second("api.after_commit")


@pytest.mark.parametrize("order", ["nowhere=kill", "api.after_commit", "api.after_commit="])
def test_a_wrong_order_is_refused_at_the_start(tmp_path, order):
    with pytest.raises(ValueError, match="FAILPOINTS"):
        enabled(order, tmp_path)


def test_kill_is_what_the_kernel_does():
    code = "from jobs_service.failpoints import failpoint; failpoint('api.after_commit')"

    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"FAILPOINTS": "api.after_commit=kill"}, check=False
    )

    assert -9 == ended.returncode


def test_every_name_is_a_place_in_the_code_and_every_place_has_a_name():
    placed = {
        name
        for path in (ROOT / "jobs_service").rglob("*.py")
        for name in re.findall(r'failpoint\("([a-z_.]+)"\)', path.read_text())
    }

    assert set(NAMES) == placed


def test_a_fault_is_injected_at_every_place():
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "chaos").glob("test_*.py"))

    assert not [name for name in NAMES if name not in tests]


def test_the_page_lists_every_place_and_no_other():
    page = (ROOT / "docs" / "reliability.md").read_text().partition("## Failpoints")[2].partition("\n## ")[0]

    assert set(NAMES) == set(re.findall(r"^\| `([a-z_.]+)` \|", page, re.MULTILINE))
