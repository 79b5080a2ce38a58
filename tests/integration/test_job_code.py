"""What job code may do in a worker process, and what of it the process does not survive."""

import pytest
from eventually import eventually

from devstack.processes import is_alive


def test_job_code_may_copy_on_a_connection_of_its_own(service):
    """A wait callback of psycopg2's would be for the connections of the whole process, and knows no COPY."""
    service.start_api()
    service.start_worker()

    job_id = service.post("test-copy", {}, max_attempts=1)

    assert service.when(job_id, "completed")["result"] == "1\n2\n3\n"


def test_each_connection_says_whose_it_is(service, database):
    """The runbook of PostgreSQL's connections groups by it."""
    service.start_api()
    service.start_worker()

    service.when(service.post("csv-generation", {"name": "Alice"}), "completed")

    rows = database.rows("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
    names = {name.removeprefix("async-job-system ") for (name,) in rows}
    assert {"app", "worker"} <= names


def events_of(service, worker, job_id):
    return [line["event"] for line in service.lines(worker, job_id)]


@pytest.mark.parametrize("crash", [False, True], ids=["in the worker", "in a process of its own"])
@pytest.mark.parametrize("how", ["return", "raise", "exit", "begin"])
def test_a_fork_that_returns_in_both_ends_in_the_copy(service, database, tmp_path, how, crash):
    service.start_api()
    worker = service.start_worker()
    service.when(service.post("csv-generation", {"name": "Alice"}), "completed")
    file = tmp_path / "child"

    job_id = service.post("test-fork", {"how": how, "child": str(file), "crash": crash}, max_attempts=3)

    job = service.when(job_id, "completed")
    assert job["result"] == job["attempts"]
    eventually(lambda: "Job completed" in events_of(service, worker, job_id), what="the line that tells of it")
    told = events_of(service, worker, job_id)
    assert told.count("Job completed") == 1
    assert "Late verdict refused" not in told
    assert database.row("SELECT effect_started_at FROM jobs WHERE id = %s", (job_id,)) == (None,)
    assert not any(is_alive(int(pid)) for pid in file.read_text().split())
    # The worker goes on, with its connections.
    service.when(service.post("csv-generation", {"name": "Bob"}), "completed")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_job_code_may_have_processes_of_its_own(service, method):
    service.start_api()
    service.start_worker()

    job = service.when(service.post("test-children", {"method": method}), "completed")

    assert job["result"] == [[1, 4, 9], "done\n"]


def test_a_job_that_raises_what_skips_a_message_fails_and_its_process_goes_on(service):
    service.start_api()
    worker = service.start_worker()

    job = service.when(service.post("test-skip", {}), "failed")

    assert ("attempts_exhausted", 1) == (job["end_reason"], job["attempts"])
    assert "raise Snoozed or Rejected" in job["error"]
    assert ["RuntimeError"] == [entry["error"] for entry in job["history"]]
    service.when(service.post("csv-generation", {"name": "Alice"}), "completed")
    assert worker.running
