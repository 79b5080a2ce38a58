"""The command `jobs`, against the service: what it does, prints and returns."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import NamedTuple

import pytest
from eventually import eventually

from jobs_service.cli.app import run

COMMAND = [sys.executable, "-m", "jobs_service.cli"]
#: An escape sequence of a terminal (ECMA-48).
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


class Done(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def jobs(api, capsys, monkeypatch):
    """Run the command in this process, as its start takes longer than most of what it does."""

    def jobs(*arguments, stdin="", url=f"http://127.0.0.1:{api.api_port}"):
        monkeypatch.setenv("JOBS_URL", url)
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = run(arguments)
        return Done(code, *capsys.readouterr())

    return jobs


def test_a_job_is_submitted_waited_for_and_shown(jobs):
    done = jobs("-o", "json", "submit", "csv-generation", "name=Alice", "score:=95", "--priority", "7", "--wait")

    job = json.loads(done.stdout)
    assert (0, "completed", {"name": "Alice", "score": 95}, 7) == (
        done.returncode,
        job["status"],
        job["payload"],
        job["priority"],
    )
    shown = jobs("show", job["job_id"]).stdout
    assert re.search(rf"job +{job['job_id']} *\ntype +csv-generation *\nstatus +✓ completed *\n", shown)
    assert "key,value\nname,Alice\nscore,95\n" == jobs("output", job["job_id"]).stdout
    assert "completed" in jobs("explain", job["job_id"]).stdout
    assert [job["job_id"]] == [json.loads(line)["job_id"] for line in jobs("-o", "ndjson", "list").stdout.splitlines()]


def test_a_file_and_a_pipe_are_payloads(jobs, tmp_path):
    file = tmp_path / "payload.json"
    file.write_text('{"name": "Bob"}')
    assert 0 == jobs("submit", "csv-generation", f"@{file}", "--wait").returncode
    lines = [{"type": "csv-generation", "payload": {"n": n}} for n in range(3)] + [{"type": "nope", "payload": {}}]

    done = jobs("submit", "-", "--tag", "piped", stdin="\n".join(map(json.dumps, lines)))

    assert (2, "3 submitted, 1 refused\n") == (done.returncode, done.stdout)
    assert "unknown job type 'nope'" in done.stderr
    assert 3 == len(json.loads(jobs("-o", "json", "list", "--tag", "piped").stdout))


def test_what_is_followed_is_printed_until_the_end(jobs):
    done = jobs("submit", "test-reject", "a=1", "--follow")

    assert 1 == done.returncode
    told = [word for line in done.stdout.splitlines() for word in line.split()[1:2] if word in ("processing", "failed")]
    assert ["processing", "failed"] == [*dict.fromkeys(told)]
    assert "no attempt will do" in done.stdout


def test_exit_codes_say_what_happened(jobs, free_port):
    unknown = "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41"
    ended = jobs("submit", "csv-generation", "a=1", "--wait", "-h").returncode
    assert 0 == ended
    job = json.loads(jobs("-o", "ndjson", "submit", "csv-generation", "a=1", "--wait").stdout)["job_id"]
    for code, said, arguments in (
        (1, "", ["submit", "test-reject", "a=1", "--wait"]),
        (2, "'nope' is no field", ["submit", "csv-generation", "nope"]),
        (2, "/type: unknown job type", ["submit", "nope", "a=1"]),
        (2, "No such command", ["nope"]),
        (3, "job_not_found", ["show", unknown]),
        (4, "wrong_status", ["cancel", job]),
    ):
        done = jobs(*arguments)
        assert code == done.returncode, done
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    away = jobs("--retry-seconds", "0", "list", url=f"http://127.0.0.1:{free_port()}")
    assert 5 == away.returncode
    assert "Is the API at http://127.0.0.1:" in away.stderr


def test_jobs_are_cancelled_and_run_again(jobs):
    job = jobs("submit", "csv-generation", "a=1", "--delay", "3600").stdout.strip()

    assert f"cancelled {job}" in jobs("cancel", job, "--reason", "ordered twice").stdout
    assert "ordered twice" in jobs("show", job).stdout
    assert 0 == jobs("retry", job, "--wait").returncode
    edited = jobs("-o", "json", "retry", job, "b=2", "--wait")
    assert {"b": "2"} == json.loads(edited.stdout)["payload"]


def test_a_queue_is_paused_and_resumed(jobs):
    assert "default is paused at http" in jobs("pause", "default", "--reason", "the mail server moves").stdout
    assert re.search(r"default .* paused by anonymous: the mail server moves", jobs("queues").stdout)

    assert 0 == jobs("resume", "default").returncode
    assert re.search(r"default .* runs", jobs("queues").stdout)
    assert eventually(lambda: "live" in jobs("workers").stdout, what="a live worker")


def test_dead_letters_are_redriven_after_a_look_and_deleted(jobs):
    failed = [json.loads(jobs("-o", "ndjson", "submit", "test-reject", "a=1", "--wait").stdout) for _ in range(2)]
    ids = [job["job_id"] for job in failed]

    group = json.loads(jobs("-o", "json", "dead-letters", "groups").stdout)[0]
    assert 2 == group["count"]
    refused = jobs("dead-letters", "redrive")
    assert (2, True) == (refused.returncode, "--all" in refused.stderr)
    preview = jobs("dead-letters", "redrive", "--group", group["id"])
    assert "2 dead letters would run again at http" in preview.stderr
    assert all(job in preview.stdout for job in ids)
    done = jobs("-y", "-o", "json", "dead-letters", "redrive", "--group", group["id"], "--rate", "100")
    assert 2 == json.loads(done.stdout)["matched"]

    again = jobs("-o", "json", "submit", "test-reject", "b=1", "--wait")
    job = json.loads(again.stdout)["job_id"]
    assert 2 == jobs("dead-letters", "discard", job).returncode
    assert f"deleted {job}" in jobs("-y", "dead-letters", "discard", job).stdout
    assert 3 == jobs("show", job).returncode


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_is_not_overrun_and_not_obeyed(api, jobs, columns):
    hostile = "\x1b[31mred\x1b]0;title\x07 \u202e " + "W" * 300
    job = api.post("test-say", {"fail": True})
    assert 0 == jobs("submit", "test-echo", f"text={hostile}", "--tag", "hostile", "--wait").returncode
    api.when(job, "failed")

    for arguments in (["list"], ["queues"], ["workers"], ["dead-letters", "list"]):
        printed = in_terminal([*COMMAND, *arguments], columns, {"JOBS_URL": f"http://127.0.0.1:{api.api_port}"})
        lines = _ESCAPE.sub("", printed).splitlines()
        assert columns >= max(map(len, lines)), arguments
        assert "\x1b[" in printed, "no colour"
        if "list" in arguments:
            assert job in printed
    shown = in_terminal(
        [*COMMAND, "list", "--tag", "hostile"], columns, {"JOBS_URL": f"http://127.0.0.1:{api.api_port}"}
    )
    assert "\x1b]0;" not in shown
    assert "\x1b[" not in jobs("list").stdout


def in_terminal(argv, columns, environ):
    """Return what a command prints in a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", **environ}
    environ.pop("COLUMNS", None)
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as child:
        os.close(theirs)
        pieces = []
        try:
            while piece := os.read(ours, 65_536):
                pieces.append(piece)
        except OSError:
            pass  # the end of a terminal
        finally:
            os.close(ours)
    assert 0 == child.returncode, b"".join(pieces)
    return b"".join(pieces).decode()
