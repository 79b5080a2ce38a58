"""The cancel of a job that runs: its code is stopped, and its thread is free for the next job."""

import threading

import pytest
from eventually import eventually
from rows import claim_one
from smtp_server import SILENCE, SmtpServer

from devstack.processes import is_alive
from jobs_service.worker.attempt import Cancelled, RunningAttempt, RunningAttempts

#: Longer than any test waits: what ends before was interrupted.
LONG = {
    "MAIL_TIMEOUT_SECONDS": "100",
    "TIME_LIMIT_SECONDS": "600",
    "WORKER_SHUTDOWN_SECONDS": "700",
    "STOP_GRACE_SECONDS": "800",
    "WORKER_THREADS": "1",
}
MAIL = {"to": "ann@example.com", "subject": "s", "body": "b"}


@pytest.fixture
def hang(service, tmp_path):
    """Post a job that never ends by itself; return its id once it runs, and the file with its process id."""

    def hang(**wishes):
        started = tmp_path / "started"
        job_id = service.post("test-wait-for-file", {"started": str(started), "go": str(tmp_path / "never")}, **wishes)
        eventually(lambda: started.exists() and started.read_text().endswith("\n"), what="a running job")
        return job_id, int(started.read_text().split()[0])

    return hang


def cancel(service, job_id):
    assert (200, {"job_id": job_id, "status": "cancelled"}) == service.request("POST", f"/jobs/{job_id}/cancel")


def test_the_next_job_gets_the_thread_of_a_cancelled_one(service, hang):
    service.start_api()
    worker = service.start_worker(**LONG)
    job_id, _ = hang()
    waiting = service.post("csv-generation", {"a": 1})

    cancel(service, job_id)

    service.when(waiting, "completed")
    job = service.job(job_id)
    assert ("cancelled", "cancelled_by_operator", 1) == (job["status"], job["end_reason"], job["attempts"])
    assert [] == job["history"]
    eventually(lambda: "Attempt interrupted" in _events(service, worker, job_id), what="the event")
    assert "Late verdict refused" not in _events(service, worker, job_id)


def test_a_mail_that_a_server_does_not_answer_is_cancelled(service):
    """Its effect had begun: nobody knows whether it was sent, and that is said."""
    with SmtpServer({"CONTENT": SILENCE}) as mail:
        service.start_api()
        service.start_worker(MAIL_HOST="127.0.0.1", MAIL_PORT=str(mail.port), **LONG)
        job_id = service.post("EMAIL_SEND", MAIL)
        waiting = service.post("csv-generation", {"a": 1})
        eventually(lambda: "data" in mail.commands, what="a mail on its way")

        cancel(service, job_id)

        service.when(waiting, "completed")
    [entry] = service.job(job_id)["history"]
    assert (1, "Cancelled", True) == (entry["attempt"], entry["error"], entry["ambiguous"])
    assert 'jobs_ambiguous_total{actor_name="EMAIL_SEND",policy="resend",queue_name="default"} 1.0' in _metrics(service)


def test_the_process_of_a_suspect_is_ended(service, hang, database):
    database.rows("ALTER TABLE jobs ALTER COLUMN worker_losses SET DEFAULT 1")
    service.start_api()
    service.start_worker(**LONG)
    job_id, pid = hang()

    cancel(service, job_id)

    eventually(lambda: not is_alive(pid), what="the end of the process")
    service.when(service.post("csv-generation", {"a": 1}), "completed")


def test_a_job_that_is_redriven_after_its_cancel_runs_again(service, hang, tmp_path):
    service.start_api()
    service.start_worker(**LONG)
    job_id, _ = hang()
    cancel(service, job_id)
    assert 200 == service.request("POST", f"/jobs/{job_id}/retry")[0]

    (tmp_path / "never").touch()

    assert 1 == service.when(job_id, "completed")["attempts"]


def test_code_is_interrupted_once_and_sees_that_it_is_cancelled(database, submit, worker_id):
    attempts, running = RunningAttempts(), RunningAttempt(claim_one(database, submit(), worker_id))
    seen = []

    def run():
        assert {running.claim.token: running.claim.job_id} == attempts.held()
        for _ in range(2):
            try:
                attempts.cancel([running.claim.token])
                _go_on()
            except Cancelled:
                seen.append(running.is_cancelled)
        return "done"

    assert "done" == attempts.interruptible(running, run)
    assert [True] == seen
    assert {} == attempts.held()


def test_code_that_has_just_ended_is_not_interrupted_behind_it(database, submit, worker_id, monkeypatch):
    """The worst moment: the cancel comes between its end and the look that takes it off the list."""
    attempts, running = RunningAttempts(), RunningAttempt(claim_one(database, submit(), worker_id))

    def run():
        monkeypatch.setattr(attempts, "_lock", CancellingLock(attempts, running.claim.token))
        return "done"

    assert "done" == attempts.interruptible(running, run)
    assert running.is_cancelled
    assert {} == attempts.held()


class CancellingLock:
    """The lock of the attempts. Who takes it first finds that somebody cancelled just before."""

    def __init__(self, attempts, token):
        self.attempts = attempts
        self.token = token
        self.lock = threading.RLock()
        self.is_used = False

    def __enter__(self):
        if not self.is_used:
            self.is_used = True
            self.attempts.cancel([self.token])
            _go_on()
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()


def _go_on():
    for _ in range(1_000):
        threading.get_ident()


def _events(service, worker, job_id):
    return [line["event"] for line in service.lines(worker, job_id)]


def _metrics(service):
    return service.get("/metrics")[1]
