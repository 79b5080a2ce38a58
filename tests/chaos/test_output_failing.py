"""Fault 16: the folder for files is full, read-only, broken or gone: nothing half done, and done when it is well."""

import shutil
import subprocess
from contextlib import contextmanager, suppress

import pytest
from eventually import eventually

ROW = {"name": "Alice", "score": 95}


def privileged(*command):
    """Run what may need rights that a test has not everywhere."""
    if not shutil.which(command[0]) or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"needs the right to {command[0]}")


@contextmanager
def full(stack):
    privileged("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(stack.outputs))
    try:
        ballast = stack.outputs / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4_096)
        yield "No space left on device"
        ballast.unlink()
        stack.settle()
        keep(stack)
    finally:
        subprocess.run(["umount", str(stack.outputs)], check=True)
    restore(stack)


@contextmanager
def read_only(stack):
    privileged("mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", str(stack.outputs))
    try:
        yield "Read-only file system"
    finally:
        subprocess.run(["umount", str(stack.outputs)], check=True)


@contextmanager
def a_file(stack):
    """Somebody has put a file in its place."""
    stack.outputs.rmdir()
    stack.outputs.touch()
    yield "Not a directory"
    stack.outputs.unlink()


@contextmanager
def a_dangling_link(stack):
    stack.outputs.rmdir()
    stack.outputs.symlink_to(stack.folder / "nowhere")
    yield "File exists"
    stack.outputs.unlink()


@contextmanager
def broken(stack):
    """The disk fails to sync: every fsync of the worker is EIO."""
    [(pid,)] = eventually(lambda: stack.sql("SELECT pid FROM workers"), what="the row of the worker")
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    command = ["strace", "-f", "-p", str(pid), "-e", "trace=fsync", "-e", "inject=fsync:error=EIO"]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    if b"attached" not in strace.stderr.readline():
        pytest.skip("needs the right to trace a process")
    try:
        yield "Input/output error"
    finally:
        strace.terminate()
        strace.communicate(timeout=20)


@pytest.mark.parametrize("fault", [full, read_only, a_file, a_dangling_link, broken])
def test_no_file_is_partial_and_all_are_written_when_it_is_well(stack, fault):
    stack.outputs.mkdir()
    stack.start()
    with stack.no_process_ends():
        with fault(stack) as error:
            stack.strike()
            jobs = [stack.submit("csv-generation", ROW, max_attempts=100) for _ in range(4)]
            for job_id in jobs:
                history = eventually(lambda job_id=job_id: stack.job(job_id)["history"], what="a failed attempt")
                assert error in history[0]["message"]
            assert not any(path.suffix == ".csv" for path in contents(stack))
            # An attempt that is just being made has one for a moment.
            eventually(lambda: not any(path.suffix == ".tmp" for path in contents(stack)), what="no temporary file")
            # What needs no file goes on.
            other = stack.submit()
            eventually(lambda: stack.job(other)["status"] == "completed", what="another job's end")
        stack.settle()

    assert {"completed"} == stack.values(jobs, "status")


def test_a_folder_that_is_removed_is_made_again(stack):
    stack.start()
    for _ in range(3):
        stack.submit_load(8)
        stack.settle()
        files = {path.name for path in contents(stack)}
        shutil.rmtree(stack.outputs)
        stack.strike()
    stack.submit_load(8)
    stack.settle()
    assert files

    # The files that were in it are not the service's to bring back; the checks ask for all of them.
    stack.sql("DELETE FROM jobs WHERE type = 'csv-generation' AND finished_at < %s RETURNING 1", (stack.struck_at,))
    kept = {row[0] for row in stack.sql("SELECT id::text FROM jobs")}
    stack.accepted = {job_id: kind for job_id, kind in stack.accepted.items() if job_id in kept}


def contents(stack):
    return [path for path in stack.outputs.rglob("*") if path.is_file()]


def keep(stack):
    shutil.copytree(stack.outputs, stack.folder / "kept")


def restore(stack):
    """The disk is gone with what is on it; the checks look for the files."""
    for path in (stack.folder / "kept").iterdir():
        shutil.move(path, stack.outputs / path.name)
