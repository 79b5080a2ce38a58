"""How log lines are written: those of a batch at once, always whole, and without an error for the caller."""

import fcntl
import json
import os
import select
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from jobs_service.observability import json_lines
from jobs_service.observability.json_lines import MAX_BATCH_BYTES, MAX_UNWRITTEN_BYTES, JsonLines, encode

ROOT = Path(__file__).parents[2]

LINE = b'{"event":"A line"}'


class File:
    """A file that is logged to, and the sizes of the writes that it got."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.stream = path.open("a")
        self.lines = JsonLines(self.stream)
        self.writes = []
        self._write = os.write
        monkeypatch.setattr(json_lines.os, "write", self._counted)

    def _counted(self, descriptor, data):
        if descriptor == self.stream.fileno():
            self.writes.append(len(data))
        return self._write(descriptor, data)

    @property
    def content(self):
        return self.path.read_bytes()


@pytest.fixture
def file(tmp_path, monkeypatch):
    file = File(tmp_path / "log", monkeypatch)
    yield file
    file.stream.close()


class Pipe:
    """A pipe that is logged to. Writing to it when it is full, or reading it when it is empty, does not wait."""

    def __init__(self, flags=0):
        self.reading, writing = os.pipe2(os.O_NONBLOCK | flags)
        self.stream = open(writing, "a")  # noqa: PTH123, SIM115 - the fixture closes it
        self.lines = JsonLines(self.stream)

    def read(self):
        return os.read(self.reading, 10_000_000)

    def fill(self):
        """Leave no room for a write."""
        for size in (65_536, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(self.stream.fileno(), b"." * size)


@contextmanager
def pipe(flags=0):
    pipe = Pipe(flags)
    try:
        yield pipe
    finally:
        pipe.stream.close()
        os.close(pipe.reading)


def test_a_line_outside_of_a_batch_is_written_at_once(file):
    file.lines.write(LINE)

    assert LINE + b"\n" == file.content


def test_the_lines_of_a_batch_are_one_write_at_its_end(file):
    with file.lines.batched():
        for _ in range(100):
            file.lines.write(LINE)
        assert b"" == file.content

    assert [len(file.content)] == file.writes
    assert [LINE] * 100 == file.content.splitlines()


def test_a_batch_without_lines_writes_nothing(file):
    with file.lines.batched():
        pass

    assert [] == file.writes


def test_a_batch_that_raises_writes_its_lines(file):
    def write_and_fail():
        with file.lines.batched():
            file.lines.write(LINE)
            file.lines.write(LINE)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    file.lines.write(LINE)

    assert [2 * (len(LINE) + 1), len(LINE) + 1] == file.writes


def test_a_batch_in_a_batch_is_part_of_it(file):
    with file.lines.batched():
        file.lines.write(LINE)
        with file.lines.batched():
            file.lines.write(LINE)
        file.lines.write(LINE)

    assert [3 * (len(LINE) + 1)] == file.writes


def test_a_batch_does_not_grow_beyond_its_limit(file):
    line = b"x" * 999
    with file.lines.batched():
        for _ in range(100):
            file.lines.write(line)
        assert len(file.content) >= MAX_BATCH_BYTES

    assert 2 == len(file.writes)
    assert [line] * 100 == file.content.splitlines()


def test_the_lines_of_another_thread_do_not_wait_for_a_batch(file):
    with file.lines.batched():
        file.lines.write(b"of the batch")
        thread = Thread(target=file.lines.write, args=[b"of another thread"])
        thread.start()
        thread.join()
        assert b"of another thread\n" == file.content

    assert b"of another thread\nof the batch\n" == file.content


def test_the_writes_to_a_pipe_are_whole_lines_that_the_kernel_does_not_mix_with_those_of_others():
    line = b"x" * 999
    # With O_DIRECT each write is a packet of its own.
    with pipe(os.O_DIRECT) as packets:
        with packets.lines.batched():
            for _ in range(10):
                packets.lines.write(line)
        read = [packets.read(), packets.read(), packets.read()]

    assert [4 * (line + b"\n"), 4 * (line + b"\n"), 2 * (line + b"\n")] == read
    assert len(read[0]) <= select.PIPE_BUF


def test_a_line_longer_than_a_pipe_keeps_whole_is_one_write_between_the_others(monkeypatch):
    huge = b"x" * 10_000
    written = []
    with pipe() as piped:
        write = os.write
        monkeypatch.setattr(json_lines.os, "write", lambda fd, data: written.append(data) or write(fd, data))
        with piped.lines.batched():
            piped.lines.write(LINE)
            piped.lines.write(huge)
            piped.lines.write(LINE)

    assert [LINE + b"\n", huge + b"\n", LINE + b"\n"] == written


def test_a_line_that_a_full_pipe_cut_is_ended_before_the_next():
    huge = b"x" * 200_000
    with pipe() as piped:
        piped.lines.write(huge)
        read = piped.read()
        assert 0 < len(read) < len(huge)
        while b"the last" not in read:
            piped.lines.write(b"the last")
            read += piped.read()

    assert huge == read.splitlines()[0]
    assert {b"the last"} == set(read.splitlines()[1:])


def test_lines_that_a_full_pipe_refused_are_kept_up_to_a_limit_and_written_with_the_next():
    line = b"x" * 999
    with pipe() as piped:
        piped.fill()
        for _ in range(100):
            piped.lines.write(line)
        piped.read()
        read = b""
        while LINE not in read:
            piped.lines.write(LINE)
            read += piped.read()

    kept = [each for each in read.splitlines() if each != LINE]
    assert {line} == set(kept)
    assert MAX_UNWRITTEN_BYTES <= len(kept) * 1000 < MAX_UNWRITTEN_BYTES + 1000


def test_a_disk_that_is_full_keeps_nothing_from_the_caller():
    with open("/dev/full", "a") as full:  # noqa: PTH123 - a device
        lines = JsonLines(full)
        with lines.batched():
            lines.write(LINE)
        for _ in range(10_000):
            lines.write(LINE)

        assert len(lines._stream._unwritten) <= MAX_UNWRITTEN_BYTES + len(LINE)


def test_a_reader_that_has_gone_keeps_nothing_from_the_caller():
    with pipe() as piped:
        closed, piped.reading = piped.reading, os.open("/dev/null", os.O_RDONLY)
        os.close(closed)
        with piped.lines.batched():
            piped.lines.write(LINE)
        piped.lines.write(LINE)

        assert 2 * (LINE + b"\n") == piped.lines._stream._unwritten


def test_a_stream_that_is_closed_keeps_nothing_from_the_caller(file):
    file.stream.close()

    file.lines.write(LINE)

    assert b"" == file.content


#: Writes batches of lines that are larger together than what a pipe keeps whole.
WRITER = """
import sys
from jobs_service.observability.json_lines import JsonLines
lines = JsonLines(sys.stdout)
def write(name):
    for _ in range(100):
        with lines.batched():
            for _ in range(10):
                lines.write(name * 700)
"""

THREADS = """
from pathlib import Path
from threading import Thread
threads = [Thread(target=write, args=[name]) for name in (b"a", b"b", b"c")]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize(
    "programs", [[THREADS], ["write(b'a')", "write(b'b')", "write(b'c')"]], ids=["threads", "processes"]
)
def test_lines_are_not_mixed_in_a_pipe_that_is_too_small_for_them(programs):
    reading, writing = os.pipe()
    # As small as a pipe gets, so that its writers wait for its reader.
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER + each], stdout=writing, cwd=ROOT) for each in programs]
    os.close(writing)
    with open(reading, "rb") as log:  # noqa: PTH123 - a descriptor
        written = log.read().splitlines()

    assert [0] * len(programs) == [writer.wait() for writer in writers]
    assert {name * 700: 1000 for name in (b"a", b"b", b"c")} == Counter(written)


def test_lines_that_a_full_pipe_cuts_are_not_mixed_by_threads():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    program = WRITER.replace("700", "9_000") + THREADS
    with subprocess.Popen([sys.executable, "-c", program], stdout=writing, cwd=ROOT) as writer:
        os.close(writing)
        with open(reading, "rb") as log:  # noqa: PTH123 - a descriptor
            # The last one may be cut: its process ended before the pipe had room again.
            *written, _ = log.read().split(b"\n")

    assert 0 == writer.returncode
    assert {name * 9_000 for name in (b"a", b"b", b"c")}.issuperset(written)
    assert written != []


class Failing:
    def __repr__(self):
        raise RuntimeError("no repr")


def test_what_cannot_be_encoded_is_described():
    itself = []
    itself.append(itself)

    line = json.loads(encode({"event": "x", "itself": itself, "by_pair": {(1, 2): 3}, "failing": Failing(), "n": 1}))

    assert {
        "event": "x",
        "itself": "[[...]]",
        "by_pair": "{(1, 2): 3}",
        "failing": "<Failing, whose repr raised RuntimeError>",
        "n": 1,
    } == line


def test_a_number_that_json_does_not_have_is_null():
    assert b'{"seconds":null}' == encode({"seconds": float("inf")})
