"""Outputs: whole under their final name, or not there at all, whatever happens in between."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog

from jobs_service.errors import Rejected
from jobs_service.ids import new_id
from jobs_service.outputs import contract
from jobs_service.outputs.local import LocalOutputs

PROJECT = Path(__file__).parents[2]


def names_in(directory: Path) -> list[str]:
    """Return the names of the files in it and below it."""
    return sorted(path.name for path in directory.rglob("*") if not path.is_dir() or path.is_symlink())


def incomplete_in(directory: Path) -> Path:
    [found] = directory.glob(".incomplete-*")
    return found


@pytest.fixture
def outputs(tmp_path):
    return LocalOutputs(tmp_path / "out")


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_a_file_is_found_under_its_name(outputs, tmp_path):
    reference = outputs.write("a.csv", b"hello")

    assert "output/a.csv" == reference
    assert b"hello" == (tmp_path / "out" / "a.csv").read_bytes()


def test_a_file_is_read_by_its_name(outputs):
    outputs.write("a.csv", b"hello")

    assert b"hello" == outputs.read("a.csv", max_bytes=5)


def test_a_file_that_is_too_large_is_not_read(outputs):
    outputs.write("a.csv", b"hello")

    with pytest.raises(Rejected, match=r"output/a.csv has 5 bytes, more than the limit of 4"):
        outputs.read("a.csv", max_bytes=4)


def test_a_file_that_is_not_there_is_named(outputs):
    with pytest.raises(FileNotFoundError, match=r"output/a.csv does not exist"):
        outputs.read("a.csv", max_bytes=5)
    outputs.write("b.csv", b"makes the directory")
    with pytest.raises(FileNotFoundError, match=r"output/a.csv does not exist"):
        outputs.read("a.csv", max_bytes=5)


def test_what_is_no_file_is_neither_read_nor_waited_for(outputs, tmp_path):
    outputs.write("a.csv", b"makes the directory")
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    (tmp_path / "out" / "link.csv").symlink_to(outside)
    (tmp_path / "out" / "folder").mkdir()
    os.mkfifo(tmp_path / "out" / "pipe")

    with pytest.raises(OSError, match="symbolic links"):
        outputs.read("link.csv", max_bytes=100)
    with pytest.raises(OSError, match="directory"):
        outputs.read("folder", max_bytes=100_000)
    assert not outputs.read("pipe", max_bytes=100)


def test_a_second_file_of_the_name_replaces_the_first(outputs, tmp_path):
    outputs.write("a.csv", b"a longer first one")
    outputs.write("a.csv", b"second")

    assert b"second" == (tmp_path / "out" / "a.csv").read_bytes()
    assert ["a.csv"] == names_in(tmp_path / "out")


def test_everybody_may_read_whatever_the_umask(outputs, tmp_path):
    before = os.umask(0o077)
    try:
        outputs.write("a.csv", b"hello")
    finally:
        os.umask(before)

    assert 0o644 == (tmp_path / "out" / "a.csv").stat().st_mode & 0o777


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "/etc/a",
        "a/b",
        ".hidden",
        "-rf",
        "a\0b",
        "a\nb",
        "a\n",
        "ä.csv",
        "a b",
        "a\\b",
        "a" * 201,
    ],
)
def test_only_a_plain_name_is_taken(outputs, tmp_path, name):
    with pytest.raises(ValueError, match="plain file name"):
        outputs.write(name, b"hello")
    with pytest.raises(ValueError, match="plain file name"):
        outputs.read(name, max_bytes=5)

    assert [] == names_in(tmp_path)


def test_a_link_in_the_way_is_replaced_not_followed(outputs, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    outputs.write("b.csv", b"makes the directory")
    (tmp_path / "out" / "a.csv").symlink_to(outside)

    outputs.write("a.csv", b"hello")

    assert b"untouched" == outside.read_bytes()
    assert not (tmp_path / "out" / "a.csv").is_symlink()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", ["fsync", "replace", "fchmod"])
def test_an_error_leaves_the_earlier_file_and_nothing_else(outputs, tmp_path, monkeypatch, step, code):
    outputs.write("a.csv", b"earlier")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(OSError, match=os.strerror(code)):
            outputs.write("a.csv", b"later")

    assert ["a.csv"] == names_in(tmp_path / "out")
    assert b"earlier" == (tmp_path / "out" / "a.csv").read_bytes()


def test_an_interrupt_leaves_nothing(outputs, tmp_path, monkeypatch):
    """Dramatiq's time limit raises one, which is no Exception."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            outputs.write("a.csv", b"hello")

    assert [] == names_in(tmp_path / "out")


def test_the_content_is_synced_before_it_gets_its_name_and_the_name_after(outputs, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names, **fds: (steps.append("rename"), replace(*names, **fds)))

    outputs.write("a.csv", b"hello")

    assert ["sync", "rename", "sync"] == steps


def fail(monkeypatch, step, code, *, only=lambda _: True):
    """Have a step of `os` fail for the descriptors that `only` picks."""
    real = getattr(os, step)

    def failing(fd: int, *rest: int) -> None:
        if only(fd):
            raise OSError(code, os.strerror(code))
        real(fd, *rest)

    monkeypatch.setattr(os, step, failing)


def is_a_folder(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def limits_in(lines):
    assert {"OUTPUT_DIR's file system does not support an operation"} == {line["event"] for line in lines}
    assert {"warning"} == {line["log_level"] for line in lines}
    return [line["cannot"] for line in lines]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_share_that_cannot_sync_a_folder_keeps_files_and_says_so_once(outputs, tmp_path, monkeypatch, code):
    with monkeypatch.context() as patched, structlog.testing.capture_logs() as lines:
        fail(patched, "fsync", code, only=is_a_folder)
        assert ["output/a.csv", "output/b.csv"] == [outputs.write(f"{name}.csv", b"hello") for name in "ab"]

    assert ["a.csv", "b.csv"] == names_in(tmp_path / "out")
    assert ["sync a folder"] == limits_in(lines)
    assert os.strerror(code) == lines[0]["error"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS])
def test_a_share_without_modes_keeps_files_and_says_so_once(outputs, tmp_path, monkeypatch, code):
    with monkeypatch.context() as patched, structlog.testing.capture_logs() as lines:
        fail(patched, "fchmod", code)
        outputs.write("a.csv", b"hello")
        outputs.write("b.csv", b"hello")

    assert ["a.csv", "b.csv"] == names_in(tmp_path / "out")
    assert ["set a mode"] == limits_in(lines)


def test_both_shortcomings_are_said(outputs, monkeypatch):
    with monkeypatch.context() as patched, structlog.testing.capture_logs() as lines:
        fail(patched, "fchmod", errno.EPERM)
        fail(patched, "fsync", errno.EINVAL, only=is_a_folder)
        outputs.write("a.csv", b"hello")

    assert ["set a mode", "sync a folder"] == limits_in(lines)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_fails_to_sync_is_an_error(outputs, monkeypatch, code):
    """It can, but could not: a name may be lost of which the job would say that it is there."""
    with monkeypatch.context() as patched:
        fail(patched, "fsync", code, only=is_a_folder)
        with pytest.raises(OSError, match=os.strerror(code)):
            outputs.write("a.csv", b"hello")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EPERM])
def test_the_content_must_be_synced_on_any_file_system(outputs, tmp_path, monkeypatch, code):
    with monkeypatch.context() as patched:
        fail(patched, "fsync", code, only=lambda fd: not is_a_folder(fd))
        with pytest.raises(OSError, match=os.strerror(code)):
            outputs.write("a.csv", b"hello")

    assert [] == names_in(tmp_path / "out")


WRITE = """
import sys
from pathlib import Path
from jobs_service.outputs.local import LocalOutputs

outputs = LocalOutputs(Path(sys.argv[1]))
print(outputs.write("a.csv", b"hello"), outputs.write("b.csv", b"hello"))
"""


def test_the_kernels_own_refusals_are_tolerated(tmp_path):
    """As a share gives them: strace has the kernel refuse to sync this folder, and to set any mode."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    refusals = ["-e", "inject=fsync:error=EINVAL:when=2+2", "-e", "inject=fchmod:error=EPERM"]
    command = ["strace", "-qq", "-o", str(tmp_path / "trace"), "-e", "trace=fsync,fchmod", *refusals]
    folder = tmp_path / "out"

    finished = subprocess.run(
        [*command, sys.executable, "-c", WRITE, folder], cwd=PROJECT, capture_output=True, text=True, check=False
    )

    if "ptrace" in finished.stderr:
        pytest.skip("needs the right to trace a process")
    assert "output/a.csv output/b.csv" in finished.stdout, finished.stderr
    assert ["a.csv", "b.csv"] == names_in(folder)
    assert 1 == finished.stdout.count("sync a folder")
    assert 1 == finished.stdout.count("set a mode")
    trace = (tmp_path / "trace").read_text()
    assert 2 == trace.count("EINVAL")
    assert 2 == trace.count("EPERM")


WRITE_BEYOND_THE_LIMIT = """
import resource, signal, sys
from pathlib import Path
from jobs_service.ids import new_id
from jobs_service.outputs.local import LocalOutputs

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, 4_096))
LocalOutputs(Path(sys.argv[1])).write("a.csv", b"x" * 100_000)
"""


def test_a_write_that_the_system_cuts_short_leaves_nothing(tmp_path):
    finished = run(WRITE_BEYOND_THE_LIMIT, tmp_path)

    assert "OSError: [Errno 27] File too large" in finished.stderr
    assert [] == names_in(tmp_path)


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 64 kB with a file of 40 kB on it."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    LocalOutputs(tmp_path).write("a.csv", b"x" * 40_000)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_is_an_error_and_keeps_the_earlier_file(full_disk):
    with pytest.raises(OSError, match="No space left"):
        LocalOutputs(full_disk).write("a.csv", b"y" * 40_000)

    assert ["a.csv"] == names_in(full_disk)
    assert b"x" * 40_000 == (full_disk / "a.csv").read_bytes()


DIE_AT = """
import os, signal, sys
from pathlib import Path
from jobs_service.ids import new_id
from jobs_service.outputs.local import LocalOutputs

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(os, sys.argv[2], die)
LocalOutputs(Path(sys.argv[1])).write("a.csv", b"hello")
"""


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_kill_before_the_rename_leaves_only_a_temporary_file(tmp_path, step):
    finished = run(DIE_AT, tmp_path, step)

    assert -signal.SIGKILL == finished.returncode
    (left,) = names_in(tmp_path)
    assert left.startswith("a.csv.")
    assert [left] == names_in(incomplete_in(tmp_path))
    assert 1 == LocalOutputs(tmp_path).reap(older_than_seconds=0)
    assert [] == names_in(tmp_path)


def test_only_old_temporary_files_are_reaped(outputs, tmp_path):
    outputs.write("a.csv", b"hello")
    folder = incomplete_in(tmp_path / "out")
    touch_old(folder / "a.csv.0123456789abcdef.tmp", folder / ".gitkeep", folder / "b.tmp")
    (folder / "a.csv.fedcba9876543210.tmp").touch()

    assert 1 == outputs.reap()
    assert sorted([".gitkeep", "a.csv", "a.csv.fedcba9876543210.tmp", "b.tmp"]) == names_in(tmp_path / "out")


def test_reaping_does_not_read_the_folder_of_the_files(outputs, tmp_path, monkeypatch):
    outputs.write("a.csv", b"hello")
    read = []
    scandir = os.scandir

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda fd: (read.append(os.fstat(fd).st_ino), scandir(fd))[1])
        outputs.reap()

    assert [incomplete_in(tmp_path / "out").stat().st_ino] == read


def test_a_search_reaps_what_earlier_versions_left_beside_the_files(outputs, tmp_path):
    outputs.write("a.csv", b"hello")
    folder = tmp_path / "out"
    touch_old(folder / ".a.csv.0123456789abcdef.tmp", folder / ".gitkeep")
    (folder / ".a.csv.fedcba9876543210.tmp").touch()

    assert outputs.search([]).go_on(seconds=0)

    assert [".a.csv.fedcba9876543210.tmp", ".gitkeep", "a.csv"] == names_in(folder)


def touch_old(*paths: Path) -> None:
    for path in paths:
        path.touch()
        os.utime(path, (time.time() - 3_601,) * 2)


def test_a_folder_that_another_user_made_for_its_own_is_left_alone(outputs, tmp_path, monkeypatch):
    """A container's worker and one beside it write into the same folder."""
    outputs.write("a.csv", b"hello")
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    outputs.write("b.csv", b"hello")

    assert 2 == len(list((tmp_path / "out").glob(".incomplete-*")))


def test_no_link_is_followed_to_the_temporary_files(outputs, tmp_path):
    outputs.write("a.csv", b"hello")
    folder = incomplete_in(tmp_path / "out")
    folder.rmdir()
    folder.symlink_to(tmp_path)

    with pytest.raises(NotADirectoryError):
        outputs.write("b.csv", b"hello")


def test_the_folder_of_temporary_files_is_made_again(outputs, tmp_path):
    outputs.write("a.csv", b"hello")
    incomplete_in(tmp_path / "out").rmdir()

    outputs.write("b.csv", b"hello")

    assert ["a.csv", "b.csv"] == names_in(tmp_path / "out")


def test_there_is_nothing_to_reap_before_the_first_file(outputs):
    assert 0 == outputs.reap()


def test_the_files_of_a_job_are_found_and_no_other(outputs):
    job_id, without, other = new_id(), new_id(), new_id()
    for name in (f"{job_id}.csv", f"{job_id}.txt", f"{other}.csv"):
        outputs.write(name, b"x")

    search = outputs.search([job_id, without])

    assert search.go_on(seconds=0)
    assert [f"{job_id}.csv", f"{job_id}.txt"] == sorted(search.files_of([job_id, without]))
    assert [] == search.files_of([without, other])


def test_a_search_goes_on_where_it_stopped(outputs, monkeypatch):
    monkeypatch.setattr(contract, "_PIECE", 2)
    job_ids = [new_id() for _ in range(5)]
    for job_id in job_ids:
        outputs.write(f"{job_id}.csv", b"x")
    search = outputs.search(job_ids)

    assert [False, False, True] == [search.go_on(seconds=0) for _ in range(3)]
    assert {f"{job_id}.csv" for job_id in job_ids} == set(search.files_of(job_ids))


def test_what_is_removed_is_counted_once(outputs):
    outputs.write("a.csv", b"x")

    assert 1 == outputs.remove(["a.csv", "b.csv"])
    assert 0 == outputs.remove(["a.csv"])
    assert [] == names_in(outputs._directory)


def test_without_a_directory_there_is_nothing_to_find_or_remove(outputs):
    assert outputs.search([new_id()]).go_on(seconds=0)
    assert 0 == outputs.remove(["a.csv"])
