"""A suspect in a process of its own: what it does there arrives here, and what it breaks there stays there."""

from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

import msgspec
import pytest
from dramatiq.middleware import TimeLimitExceeded
from eventually import eventually
from samples import a_claim
from service import JOB_TYPES, ROOT

from devstack.processes import is_alive
from jobs_service.errors import (
    InvalidRequest,
    KnownUnavailable,
    LeaseLost,
    OutcomeUnknown,
    Rejected,
    Snoozed,
    Unavailable,
)
from jobs_service.jobs.failures import ProcessLost, failure_of
from jobs_service.worker.attempt import RunningAttempt
from jobs_service.worker.isolation import parent


@pytest.fixture(autouse=True)
def inherited(monkeypatch, environ, tmp_path):
    """What a worker's environment has, for the process to inherit."""
    monkeypatch.chdir(ROOT)
    ours = {
        "PYTHONPATH": f"{ROOT}:{JOB_TYPES}",
        "ACTOR_MODULES": "trying,effects",
        "EFFECTS_FILE": str(tmp_path / "effects"),
        "LOG_FORMAT": "json",
    }
    for name, value in (environ | ours).items():
        monkeypatch.setenv(name, value)


def suspect(job_type, payload=None, *, away=(), **known):
    text = msgspec.json.encode(payload or {}).decode()
    claim = a_claim(type=job_type, payload=text, attempts=2, worker_losses=1, away=away)
    return RunningAttempt(claim, **known)


def test_a_result_arrives_as_the_json_it_is():
    assert "2" == parent.run(suspect("test-fail-times", {"times": 1}))


def test_a_file_is_written_where_the_worker_would_have_written_it(tmp_path):
    running = suspect("csv-generation", {"name": "Alice"})

    assert f'"output/{running.claim.job_id}.csv"' == parent.run(running)
    assert (tmp_path / "output" / f"{running.claim.job_id}.csv").exists()


def test_payload_and_result_pass_as_they_were_sent(tmp_path):
    text = '[{"last_name":"Doe","rate":0.123456789012345678,"id":12345678901234567890123}]'
    running = suspect("csv-generation", msgspec.Raw(text.encode()))

    assert text == parent.run(suspect("test-echo-decimals", msgspec.Raw(text.encode())))
    parent.run(running)

    file = tmp_path / "output" / f"{running.claim.job_id}.csv"
    assert "last_name,rate,id\nDoe,0.123456789012345678,12345678901234567890123\n" == file.read_text()


def test_a_failure_arrives_with_its_class_its_message_and_its_traceback():
    with pytest.raises(Exception, match="attempt 2 fails, as asked") as caught:
        parent.run(suspect("test-fail-times", {"times": 5}))

    failure = failure_of(caught.value, 1.5)
    assert ("RuntimeError", 1.5) == (failure.error, failure.seconds)
    assert "in fail_times" in failure.traceback


@pytest.mark.parametrize(
    ("job_type", "payload", "raised"),
    [
        ("test-reject", {}, Rejected),
        ("test-effect", {"fail_times": "many"}, InvalidRequest),
        ("test-snooze", {"seconds": 5}, Snoozed),
    ],
)
def test_what_decides_about_the_job_is_told_apart(job_type, payload, raised):
    with pytest.raises(raised):
        parent.run(suspect(job_type, payload))


def test_a_server_that_is_away_arrives_by_its_name(tmp_path):
    (tmp_path / "away").touch()
    payload = {"server": "https://a.example", "away": f"{tmp_path}/away", "asked": f"{tmp_path}/asked"}

    with pytest.raises(Unavailable, match="it is away") as raised:
        parent.run(suspect("test-unavailable", payload | {"retry_after": 60}))

    assert ("https://a.example", 60) == (raised.value.server, raised.value.retry_after_seconds)
    assert not isinstance(raised.value, KnownUnavailable)


def test_a_server_that_is_known_to_be_away_is_not_asked_there_either(tmp_path):
    payload = {"server": "https://a.example", "asked": f"{tmp_path}/asked"}

    with pytest.raises(KnownUnavailable) as raised:
        parent.run(suspect("test-unavailable", payload, away=["https://a.example"]))

    assert "https://a.example" == raised.value.server
    assert not (tmp_path / "asked").exists()


def test_a_death_says_how():
    with pytest.raises(ProcessLost, match="SIGKILL"):
        parent.run(suspect("test-die", {"how": "kill"}))


def test_what_it_started_ends_with_it(tmp_path):
    with pytest.raises(ProcessLost):
        parent.run(suspect("test-leave-a-child", {"started": str(tmp_path / "started")}))

    pid = int((tmp_path / "started").read_text())
    eventually(lambda: not is_alive(pid), what="the end of its child")


def test_the_effect_begins_under_the_workers_lease(tmp_path):
    asked = []

    parent.run(suspect("test-effect", begin_effect=lambda: asked.append(not (tmp_path / "effects").exists())))

    assert [True] == asked
    assert (tmp_path / "effects").exists()


def test_without_the_lease_there_is_no_effect(tmp_path):
    def refuse():
        raise LeaseLost("gone")

    with pytest.raises(LeaseLost):
        parent.run(suspect("test-effect", begin_effect=refuse))

    assert not (tmp_path / "effects").exists()


def test_a_time_limit_ends_it_also_where_it_is_blocked(tmp_path):
    with pytest.raises(TimeLimitExceeded):
        parent.run(suspect("test-hang", {"started": str(tmp_path / "started")}, limit_seconds=1.0))

    assert not is_alive(int((tmp_path / "started").read_text()))


def test_a_short_limit_does_not_count_the_start():
    """Starting Python takes longer than this, so the clock starts after it."""
    assert "2" == parent.run(suspect("test-fail-times", {"times": 1}, limit_seconds=0.15))


def test_no_more_than_a_few_run_at_a_time(monkeypatch):
    monkeypatch.setattr(parent, "_places", BoundedSemaphore(1))
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda _: parent.run(suspect("test-fail-times", {"times": 1})), range(3)))

    assert ["2"] * 3 == results


def test_a_payload_larger_than_a_pipe_arrives():
    payload = {"rows": [{"text": "x" * 1_000}] * 500}

    assert parent.run(suspect("csv-generation", payload)).startswith('"output/')


def test_a_result_that_cannot_be_kept_after_the_effect_is_told_as_such():
    with pytest.raises(OutcomeUnknown, match="the work was done"):
        parent.run(suspect("test-unstorable"))
