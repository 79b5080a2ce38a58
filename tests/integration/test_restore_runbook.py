"""The runbook's commands for a restore, on a real dump: they find what runs again and what belongs to nobody."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from eventually import eventually

from devstack.servers import Postgres

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "runbooks" / "storage.md").read_text().partition("## Restoring PostgreSQL")[2]
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
DUMP = re.search(r"`(docker compose exec -T db pg_dump [^`]*)`", SECTION)[1]
#: In an order that jsonb does not keep.
CSV = {"score": 95, "name": "Alice"}


class Shell:
    """Runs the commands as they stand in the runbook, with this test's servers and logs for those of Compose."""

    def __init__(self, folder, postgres, database_url, log):
        database = database_url.rpartition("/")[2]
        server = f"-h 127.0.0.1 -p {postgres.port} -U {Postgres.USER} -d {database}"
        self.folder = folder
        self.environ = {"PATH": f"{postgres.bin_dir}:{os.environ['PATH']}", "PGPASSWORD": Postgres.PASSWORD}
        self.stand_ins = {
            "docker compose exec -T db ": "",
            "-U user -d jobs_db": server,
            "docker compose logs --no-log-prefix --since <moment> worker": f"cat {log}",
        }

    def run(self, command):
        for name, stand_in in self.stand_ins.items():
            command = command.replace(name, stand_in)
        assert "docker" not in command
        argv = ["bash", "-o", "pipefail", "-c", command]
        done = subprocess.run(argv, cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr
        return done.stdout


@pytest.fixture
def restored(service, postgres, database_url, tmp_path):
    """Jobs done before a dump, between it and the restore, and accepted after it. Nothing runs any more."""
    service.start_api()
    worker = service.start_worker()
    jobs = {name: service.post("csv-generation", CSV) for name in ("done before", "pruned after")}
    for job_id in jobs.values():
        service.when(job_id, "completed")
    worker.stop(seconds=20)
    jobs |= {name: service.post("csv-generation", CSV) for name in ("done after", "put off")}
    shell = Shell(tmp_path, postgres, database_url, tmp_path / "worker-2.log")
    shell.run(DUMP)

    worker = service.start_worker()
    jobs["accepted after"] = service.post("csv-generation", CSV)
    for name in ("done after", "put off", "accepted after"):
        service.when(jobs[name], "completed")
    (tmp_path / "output" / f"{jobs['pruned after']}.csv").unlink()
    service.stop()
    shell.run(command_with("pg_restore"))
    return shell, jobs


def command_with(words):
    [command] = [command for command in COMMANDS if words in command]
    return command


def test_the_commands_find_what_a_restore_forgets(restored, database):
    shell, jobs = restored
    names = {job_id: name for name, job_id in jobs.items()}
    assert {json.dumps(CSV)} == {text for (text,) in database.rows("SELECT payload_text::text FROM jobs")}

    def found(words):
        lines = shell.run(command_with(words)).splitlines()
        return {
            (names[job_id], line.rpartition("|")[2].strip()) for line in lines for job_id in names if job_id in line
        }

    assert {("done after", "pending"), ("put off", "pending"), ("accepted after", "no row")} == found("'no row'")
    assert {("done after", "pending"), ("put off", "pending")} == found('"Job completed"')
    assert {"pruned after"} == {name for name, _ in found("NOT IN")}


def test_what_was_cancelled_or_put_off_does_not_run_again(restored, service):
    shell, jobs = restored
    # The test's jobs are no mails.
    put_off = command_with("interval '1 day'").replace("type = 'EMAIL_SEND'", f"id = '{jobs['put off']}'")
    assert "UPDATE 1" in shell.run(put_off)
    service.start_api()
    cancel = command_with("/cancel").replace("<job-id>", jobs["done after"])
    shell.run(cancel.replace("http://localhost:3000", f"http://127.0.0.1:{service.api_port}"))
    service.start_worker()

    service.when(service.post("csv-generation", CSV), "completed")
    assert "cancelled" == service.job(jobs["done after"])["status"]
    assert 0 == service.job(jobs["put off"])["attempts"]
    assert 404 == service.get(f"/jobs/{jobs['accepted after']}")[0]
    eventually(lambda: service.get("/readyz")[0] == 200)
