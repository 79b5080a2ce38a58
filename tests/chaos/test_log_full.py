"""A fault of our own: the disk that takes the log is full, so that every line raises an error."""

import sys
from pathlib import Path

from service import ROOT

from devstack.processes import Child

FULL = Path("/dev/full")


def test_what_cannot_be_logged_is_done_all_the_same(stack):
    stack.service.start_api()
    argv = [sys.executable, "-m", "jobs_service", "worker"]
    environ = stack.service.environ | {"PROMETHEUS_MULTIPROC_DIR": str(stack.folder / "metrics")}

    stack.strike()
    worker = Child(argv, log=FULL, env=environ, cwd=ROOT)
    try:
        stack.submit_load(16)
        stack.settle()
    finally:
        worker.stop(seconds=60)
