"""Child processes: ended with all that belongs to them, and no sooner said to be gone."""

import ctypes
import os
import signal
import sys
from contextlib import suppress

import pytest
from eventually import eventually

from devstack import processes
from devstack.processes import Child, is_alive

PR_SET_CHILD_SUBREAPER = 36

#: Leaves a process in its group that is no descendant any more.
ORPHAN = "(sleep 600 & echo $! > {}) ; exec sleep 600"


def test_a_kill_is_over_when_no_process_of_the_group_runs(tmp_path):
    number = tmp_path / "orphan"
    child = Child(["bash", "-c", ORPHAN.format(number)], log=tmp_path / "log")
    orphan = int(eventually(lambda: number.read_text().strip(), what="an orphan"))

    child.kill()

    assert not is_alive(orphan)


@pytest.fixture
def collects_nobody():
    """Have what is orphaned left to this process, in init's place, which lets it lie until the test is over."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    groups = []
    yield groups
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    for group in groups:
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-group, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which processes wait to be collected")
def test_what_has_ended_and_was_not_collected_is_not_waited_for(tmp_path, monkeypatch, collects_nobody):
    def not_in_time(holds, seconds):  # noqa: ARG001
        assert holds()

    number = tmp_path / "orphan"
    child = Child(["bash", "-c", ORPHAN.format(number)], log=tmp_path / "log")
    collects_nobody.append(child.pid)
    orphan = int(eventually(lambda: number.read_text().strip(), what="an orphan"))
    os.kill(orphan, signal.SIGKILL)
    eventually(lambda: not is_alive(orphan), what="an orphan that has ended")

    os.kill(child.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(child.pid), what="the end of the leader")
    monkeypatch.setattr(processes, "wait_until", not_in_time)
    child.kill()
    os.killpg(child.pid, 0)  # it is there all the same
