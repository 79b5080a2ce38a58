"""The supervisor, with programs that only wait."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from eventually import eventually

from jobs_service.devstack.processes import descendants, is_alive

ROOT = Path(__file__).parents[2]

SUPERVISE = """
import os, sys
from jobs_service.supervisor import Program, Supervisor
programs = [Program(str(n), [sys.executable, "-c", sys.argv[1]], os.environ) for n in range(4)]
print("begun", flush=True)
sys.exit(Supervisor(programs, kill_after_seconds=float(sys.argv[2])).run())
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

    def supervise(code, *, kill_after_seconds=60):
        command = [sys.executable, "-c", SUPERVISE, code, str(kill_after_seconds)]
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
