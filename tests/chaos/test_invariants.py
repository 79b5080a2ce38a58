"""Each invariant sees what breaks it: without that the chaos tests would prove nothing. No process is started here."""

import json

import invariants
import pytest
from invariants import SQL, violations
from service import Service
from stack import CSV, Stack

from jobs_service.ids import new_id

DONE = {"type": "test-effect", "status": "completed", "attempts": 1, "max_attempts": 3, "finished_at": "now"}
DEAD = {**DONE, "status": "failed", "end_reason": "rejected", "error": "x"}

FAILURE = {"attempt": 1, "error": "RuntimeError"}
LOST = {"attempt": 1, "error": "WorkerLost"}
NOT_COUNTED = {**LOST, "counted": False}

ROWS = {
    "a lease belongs to a processing job, and to no other": {**DONE, "lease_token": str(new_id())},
    "nothing is processing any more": {**DONE, "status": "processing"},
    "no more attempts than allowed": {**DONE, "attempts": 4},
    "a job that ended by itself was attempted": {**DONE, "attempts": 0},
    "attempts are exhausted when the reason says so": {**DEAD, "end_reason": "attempts_exhausted"},
    "a completed job has failed at every attempt that counts but the last": {**DONE, "attempts": 2},
    "a dead letter has failed at every attempt that counts": {**DEAD, "history": [NOT_COUNTED], "worker_losses": 1},
    "the history counts up": {**DONE, "attempts": 3, "history": [FAILURE, FAILURE]},
    "every lost worker is in the history": {**DONE, "attempts": 2, "history": [LOST]},
    "poison is three lost workers": {**DEAD, "end_reason": "poison", "history": [FAILURE]},
    "a result only when completed": {**DEAD, "history": [FAILURE], "result": 1},
}


@pytest.fixture
def quiet(environ, tmp_path, monkeypatch):
    """A stack without processes, whose table believes whatever it is told."""
    monkeypatch.setattr(invariants, "CATCH_UP_SECONDS", 0)
    quiet = Stack(Service(environ, tmp_path), tmp_path)
    quiet.outputs.mkdir()
    checks = quiet.sql("SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = 'jobs'::regclass")
    drop = ", ".join(f"DROP CONSTRAINT {name}" for (name,) in checks)
    quiet.sql(f"ALTER TABLE jobs {drop}; SELECT 1")
    return quiet


def add(stack, row, *, effects=1):
    """Write a row, and so many effects of it. Returns its id."""
    job_id = str(new_id())
    values = {"payload": "{}", **row, "history": json.dumps(row.get("history", []))}
    if "result" in row:
        values["result"] = json.dumps(row["result"])
    places = ", ".join(["%s"] * (len(values) + 1))
    stack.sql(f"INSERT INTO jobs (id, {', '.join(values)}) VALUES ({places}) RETURNING 1", (job_id, *values.values()))
    with stack.effects_file.open("a") as file:
        file.write(f"{job_id} 1\n" * effects)
    return job_id


def seen(stack, words):
    return [sentence for sentence in violations(stack) if words in sentence]


def test_a_job_that_was_done_once_breaks_nothing(quiet):
    quiet.accepted[add(quiet, DONE)] = "test-effect"

    assert violations(quiet) == []


def test_an_attempt_that_does_not_count_breaks_nothing(quiet):
    history = [NOT_COUNTED, FAILURE, {**NOT_COUNTED, "attempt": 2}]
    quiet.accepted[add(quiet, {**DONE, "attempts": 2, "worker_losses": 2, "history": history})] = "test-effect"

    assert violations(quiet) == []


def test_every_statement_is_broken_below():
    assert list(ROWS) == list(SQL)


@pytest.mark.parametrize("sentence", ROWS)
def test_a_row_that_breaks_a_statement_is_found(quiet, sentence):
    add(quiet, ROWS[sentence])

    assert seen(quiet, sentence)


def test_an_accepted_job_that_is_gone_is_missed(quiet):
    quiet.accepted[str(new_id())] = "test-effect"

    assert seen(quiet, "was accepted and is not there")


@pytest.mark.parametrize(("effects", "words"), [(0, "had no effect"), (2, "had its effect 2 times")])
def test_a_completed_job_had_its_effect_once(quiet, effects, words):
    add(quiet, DONE, effects=effects)

    assert seen(quiet, words)


def test_an_effect_that_the_history_calls_unknown_may_come_twice(quiet):
    add(quiet, {**DONE, "attempts": 2, "history": [{**FAILURE, "ambiguous": True}]}, effects=2)

    assert violations(quiet) == []


def test_a_dead_letter_is_on_the_list_once(quiet):
    job_id = add(quiet, {**DEAD, "history": [FAILURE]})
    assert seen(quiet, "job_dlq")

    with quiet.redis() as client:
        client.rpush("job_dlq", job_id)
        assert violations(quiet) == []
        client.rpush("job_dlq", job_id)

    assert seen(quiet, "job_dlq")


def test_a_message_without_a_waiting_job_is_found(quiet):
    with quiet.redis() as client:
        client.zadd("jobs:queue:{default}", {"a message": 1})

    assert seen(quiet, "messages of finished jobs")


def test_files_are_whole_and_belong_to_jobs(quiet):
    job_id = add(quiet, {**DONE, "type": "csv-generation"}, effects=0)
    assert seen(quiet, "its file is not there")

    file = quiet.outputs / f"{job_id}.csv"
    file.write_text(CSV[:-1])
    assert seen(quiet, "is not whole")
    file.write_text(CSV)
    assert violations(quiet) == []

    (quiet.outputs / ".incomplete-1").mkdir()
    (quiet.outputs / ".incomplete-1" / f"{job_id}.csv.0123456789abcdef.tmp").touch()
    (quiet.outputs / f"{new_id()}.csv").touch()
    assert seen(quiet, "was left by a worker that lives")
    assert seen(quiet, "belongs to no job")
