"""The README's own commands, word for word, against the stack that its own command starts."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from eventually import eventually

from devstack.ports import free_port, release
from devstack.processes import Child, descendants, is_alive

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

PORTS = {"3000": "API_PORT", "8025": "MAIL_WEB_PORT"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """What `make run` starts, on free ports."""
    folder = tmp_path_factory.mktemp("stack")
    ports = {name: free_port() for name in ("API_PORT", "MAIL_PORT", "MAIL_WEB_PORT", "WORKER_METRICS_PORT")}
    environ = {**_without_settings(), **{name: str(port) for name, port in ports.items()}}
    environ |= {"LOCAL_DIR": str(folder / "local"), "OUTPUT_DIR": str(folder / "output")}
    stack = Stack(environ, folder)
    stack.start()
    yield stack
    stack.child.stop(seconds=60)
    for port in ports.values():
        release(port)


class Stack:
    """`make run` in a folder of the test's own."""

    def __init__(self, environ, folder):
        self.environ, self.folder = environ, folder

    def start(self):
        argv = [sys.executable, "-m", "devstack"]
        self.child = Child(argv, log=self.folder / "run.log", env=self.environ, cwd=ROOT)
        eventually(lambda: "ready" in self.said() or not self.child.running, seconds=90, what="a stack that is ready")
        assert self.child.running, self.said()
        return self

    def said(self):
        return self.child.tail(1000)

    def run(self, command):
        """Run a command of the README; return the JSON that it prints."""
        return json.loads(self.shell(command))

    def shell(self, command):
        """Run a command of the README in the stack's folder, with its ports; return what it prints."""
        for port, variable in PORTS.items():
            command = command.replace(f"localhost:{port}", f"localhost:{self.environ[variable]}")
        done = subprocess.run(
            ["bash", "-c", f'curl() {{ command curl -sS "$@"; }}; {command}'],
            check=False,
            cwd=self.folder,
            **_CAPTURED,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


_CAPTURED = {"capture_output": True, "text": True, "timeout": 30}


def commands(first_words):
    """Return the README's shell blocks that begin with these words."""
    return [block for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) if block.startswith(first_words)]


def test_the_readme_names_two_commands():
    assert ["make run\n"] == commands("make run")
    assert ["make test\n"] == commands("make test")


def test_the_table_is_empty_before_the_first_job(stack):
    """The service's own canary has come through by then, and is not there any more."""
    url = re.search(r"postgresql://\S+", stack.said())[0]
    [look] = re.findall(r"`(SELECT [^`]* FROM jobs;)`", README)

    eventually(lambda: _rows(url, "SELECT queue FROM canaries"), what="a canary that came through")
    eventually(lambda: _rows(url, look) == [], what="an empty table")


def test_the_walk_through_holds(stack):
    csv, mail = commands("curl -X POST")
    look, listing = commands("curl http"), commands('curl "http')

    created = stack.run(csv)
    assert {"job_id", "status"} == created.keys()
    assert "pending" == created["status"]
    job = _completed(stack, look[0], created["job_id"])
    assert f"output/{created['job_id']}.csv" == job["result"]
    shown = re.search(r"```csv\n(.*?)```", README, re.DOTALL)[1]
    assert shown == (stack.folder / "output" / f"{created['job_id']}.csv").read_text()
    [download] = commands("curl -OJ")
    stack.shell(download.replace("<job-id>", created["job_id"]))
    assert shown == (stack.folder / f"{created['job_id']}.csv").read_text()

    sent = stack.run(mail)
    assert _completed(stack, look[0], sent["job_id"])["result"].startswith("<")
    caught = stack.run("curl http://localhost:8025/messages/")["messages"]
    assert "Job Notification" in [message["subject"] for message in caught]

    assert [] == stack.run(listing[0])["jobs"]


def test_the_log_tells_the_story(stack):
    job_id = stack.run(commands("curl -X POST")[0])["job_id"]

    for event in ("Job received", "Job marked as processing", "Job completed"):
        pattern = re.compile(rf"worker .*{event}.*{job_id}")
        eventually(lambda pattern=pattern: pattern.search(stack.said()), what=event)


def test_a_second_run_in_the_same_folder_says_so(stack):
    said = _run_to_the_end(stack.environ)

    assert f"already running, as process {stack.child.pid}" in said


def test_a_taken_port_is_named_with_its_variable(stack, tmp_path):
    said = _run_to_the_end(stack.environ | {"LOCAL_DIR": str(tmp_path)})

    assert f"port {stack.environ['API_PORT']} is in use" in said
    assert "API_PORT=" in said


def test_wrong_settings_are_named(stack, tmp_path):
    said = _run_to_the_end(stack.environ | {"LOCAL_DIR": str(tmp_path), "MAX_ATTEMPTS": "many"})

    assert "MAX_ATTEMPTS is wrong" in said


def test_ctrl_c_ends_everything_and_the_data_stays(stack):
    job_id = stack.run(commands("curl -X POST")[0])["job_id"]
    _completed(stack, commands("curl http")[0], job_id)
    everybody = [stack.child.pid, *descendants(stack.child.pid)]

    os.kill(stack.child.pid, signal.SIGINT)

    eventually(lambda: not any(is_alive(pid) for pid in everybody), what="the end of all processes")
    assert 0 == stack.child.exit_code()
    stack.start()
    assert "completed" == stack.run(commands("curl http")[0].replace("<job-id>", job_id))["status"]


def test_a_crashed_child_ends_the_stack_with_a_line_that_names_it(stack):
    api = next(pid for pid in descendants(stack.child.pid) if "gunicorn" in _command(pid))
    everybody = [stack.child.pid, *descendants(stack.child.pid)]

    os.kill(api, signal.SIGKILL)

    eventually(lambda: not any(is_alive(pid) for pid in everybody), what="the end of all processes")
    assert 1 == stack.child.exit_code()
    assert "app ended by itself with code -9; its log is" in stack.said()
    stack.start()


def _rows(url, sql):
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def _completed(stack, look, job_id):
    def completed():
        job = stack.run(look.replace("<job-id>", job_id))
        return job["status"] == "completed" and job

    return eventually(completed, what="a completed job")


def _run_to_the_end(environ):
    done = subprocess.run([sys.executable, "-m", "devstack"], env=environ, cwd=ROOT, check=False, **_CAPTURED)
    assert done.returncode == 1
    assert len((done.stdout + done.stderr).strip().splitlines()) <= 2
    return done.stdout + done.stderr


def _without_settings():
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def _command(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
