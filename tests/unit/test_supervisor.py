"""The supervisor, with programs that only wait."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from eventually import eventually

from devstack.processes import descendants, is_alive

ROOT = Path(__file__).parents[2]

PR_SET_CHILD_SUBREAPER = 36

SUPERVISE = """
import os, sys
from jobs_service.worker.supervisor import Program, Supervisor
programs = [Program(str(n), [sys.executable, "-c", sys.argv[1]], os.environ) for n in range(4)]
print("begun", flush=True)
sys.exit(Supervisor(programs, kill_after_seconds=float(sys.argv[2])).run())
"""

#: Orphans come to the process that asked for them as they come to process 1, in a container and outside of one.
AS_PROCESS_1 = f"""
import ctypes
assert ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1) == 0
{SUPERVISE}"""

#: Leave an orphan that ends, and end too.
ORPHAN = """
import os, sys
if os.fork() == 0:
    if os.fork() == 0:
        os.write(1, b"orphan %d\\n" % os.getpid())
    os._exit(0)
os.wait()
sys.exit(3)
"""

WAIT = "import time; time.sleep(600)"
DEAF = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"deaf\\n")
time.sleep(600)
"""


@pytest.fixture
def supervise():
    started = []

    def supervise(code, *, kill_after_seconds=60, supervisor=SUPERVISE):
        command = [sys.executable, "-c", supervisor, code, str(kill_after_seconds)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield supervise
    for process in started:
        for pid in [*descendants(process.pid), process.pid]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("milliseconds", range(0, 24, 3))
def test_a_stop_that_meets_a_start_is_passed_on_all_the_same(supervise, milliseconds):
    process = supervise(WAIT)
    time.sleep(milliseconds / 1000)  # not for a condition: the moments of the start are what is tried

    process.send_signal(signal.SIGTERM)

    # The signal itself ends it as long as it has no handler and no program.
    assert process.wait(30) in {0, -signal.SIGTERM}


def test_what_does_not_end_is_killed_in_the_end(supervise):
    process = supervise(DEAF, kill_after_seconds=0.5)
    for _ in range(4):
        assert process.stdout.readline() == "deaf\n"
    programs = descendants(process.pid)

    process.send_signal(signal.SIGTERM)

    assert process.wait(30) == 0
    eventually(lambda: not any(is_alive(pid) for pid in programs), what="the end of all")


def test_a_third_signal_kills(supervise):
    process = supervise(DEAF)
    for _ in range(4):
        assert process.stdout.readline() == "deaf\n"

    def send():
        process.send_signal(signal.SIGTERM)
        return process.poll() is not None

    eventually(send, what="the end")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process that is not process 1 have orphans")
def test_process_1_reaps_orphans_and_learns_how_its_programs_ended(supervise):
    process = supervise(ORPHAN, supervisor=AS_PROCESS_1)
    orphans, codes = [], []
    while len(orphans) < 8 or len(codes) < 8:
        line = process.stdout.readline()
        orphans += re.findall(r"^orphan (\d+)$", line)
        codes += re.findall(r"code=(\S+)", line)

    assert {"3"} == set(codes)
    eventually(lambda: not any(Path("/proc", pid).exists() for pid in orphans), what="no orphan that has ended")
