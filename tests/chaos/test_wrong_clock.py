"""A fault of our own: the clocks of API and workers are a day off, each in its own direction. PostgreSQL's decides."""

import pytest

DAY = 86_400

#: Loaded by every Python process that finds it on its path.
SITE = """
import os, time
seconds = int(os.environ.get("CLOCK_OFF_BY", "0"))
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + seconds
time.time_ns = lambda: real_ns() + seconds * 10**9
"""


@pytest.mark.parametrize("seconds", [-DAY, DAY])
def test_nothing_is_early_late_or_lost_by_a_wrong_clock(stack, tmp_path, seconds):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    stack.service.environ["PYTHONPATH"] = f"{site}:{stack.service.environ['PYTHONPATH']}"

    stack.strike()
    stack.start(api={"CLOCK_OFF_BY": str(seconds)}, CLOCK_OFF_BY=str(-seconds))
    stack.submit_load(16)
    late = stack.submit(delay_seconds=1)
    stack.settle()

    assert stack.job(late)["started_at"] >= stack.job(late)["run_at"]
    assert stack.sql("SELECT max(crashes) FROM jobs") == [(0,)]
