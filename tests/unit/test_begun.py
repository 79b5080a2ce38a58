"""What a killed process has noted of its attempts, as the process after it finds it."""

import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from jobs_service.worker.begun import BegunAttempts, LostProcess, take_over

_PROCESS = """
import os, signal, sys
from uuid import UUID
from jobs_service.worker.begun import take_over

begun = take_over(sys.argv[1])
begun.open(UUID(sys.argv[2]))
for lease in sys.argv[3:]:
    begun.add(UUID(lease))
begun.discard(UUID(sys.argv[3]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "begun")


def run_and_kill(path, worker_id, *leases):
    process = subprocess.run([sys.executable, "-c", _PROCESS, path, str(worker_id), *map(str, leases)], check=False)
    assert -signal.SIGKILL == process.returncode


def test_a_killed_process_leaves_what_had_begun_and_was_not_settled(path):
    worker_id, settled, *held = (uuid4() for _ in range(4))

    run_and_kill(path, worker_id, settled, *held)

    assert LostProcess(worker_id, frozenset(held)) == take_over(path).lost_process


def test_what_was_found_once_is_not_found_again(path):
    run_and_kill(path, uuid4(), uuid4())
    first = take_over(path)
    first._file.close()

    assert take_over(path).lost_process is None


def test_a_process_that_gave_everything_back_leaves_nothing(path):
    begun = take_over(path)
    begun.open(uuid4())
    begun.add(uuid4())
    begun.close()
    begun._file.close()

    assert take_over(path).lost_process is None


def test_nothing_is_taken_from_a_process_that_is_alive(path):
    alive = take_over(path)
    alive.open(uuid4())

    assert take_over(path).lost_process is None


@pytest.mark.parametrize("notes", [b"", b"torn", b"\0" * 40, b"x" * 20])
def test_a_file_with_anything_else_in_it_stops_no_process(path, notes):
    Path(path).write_bytes(notes)

    take_over(path).add(uuid4())


def test_a_folder_that_is_gone_stops_no_process(tmp_path):
    take_over(str(tmp_path / "gone" / "begun")).add(uuid4())


def test_places_are_used_again():
    begun = BegunAttempts()
    for _ in range(5_000):
        lease = uuid4()
        begun.add(lease)
        begun.discard(lease)
        begun.discard(lease)
