"""From POST to the last word, with real gunicorn, dramatiq, PostgreSQL, Valkey and SMTP."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eventually import eventually

from devstack.processes import descendants, is_alive
from devstack.servers import Valkey
from jobs_service.broker.keys import Keys

ALICE = {"name": "Alice", "score": 95}


def test_a_csv_job_is_done_as_the_brief_says(service, tmp_path):
    service.start_api()
    worker = service.start_worker()

    job_id = service.post("csv-generation", ALICE)

    job = service.when(job_id, "completed")
    assert ("csv-generation", f"output/{job_id}.csv", 1) == (job["type"], job["result"], job["attempts"])
    assert "key,value\nname,Alice\nscore,95\n" == (tmp_path / "output" / f"{job_id}.csv").read_text()
    story = ["Job received", "Job marked as processing", "Job completed"]
    # A message may come twice, to be received again and not claimed.
    told = eventually(lambda: _events(service, worker, job_id)[2:] and _events(service, worker, job_id), what="a story")
    assert story == list(dict.fromkeys(told))


def test_a_mail_is_sent_and_its_id_is_the_result(service, mail):
    service.start_api()
    service.start_worker(MAIL_HOST="127.0.0.1", MAIL_PORT=str(mail.port))
    subject = f"Job Notification {os.getpid()}"

    job_id = service.post("EMAIL_SEND", {"to": "test@example.com", "subject": subject, "body": "Done."})

    job = service.when(job_id, "completed")
    assert job["result"].startswith(f"<{job_id}@")
    [caught] = [message for message in mail.messages() if message["subject"] == subject]
    assert ["test@example.com"] == caught["recipients"]["to"]


def test_a_job_that_fails_is_retried_and_then_succeeds(service):
    service.start_api()
    worker = service.start_worker()

    job_id = service.post("test-fail-times", {"times": 2})

    job = service.when(job_id, "completed")
    assert (3, 3) == (job["attempts"], job["result"])
    assert [(1, "RuntimeError"), (2, "RuntimeError")] == [(e["attempt"], e["error"]) for e in job["history"]]
    eventually(lambda: 2 == _events(service, worker, job_id).count("Job retried"), what="both retries in the log")


def test_the_last_attempt_makes_a_dead_letter(service, broker):
    service.start_api()
    worker = service.start_worker()

    job_id = service.post("test-fail-times", {"times": 99}, max_attempts=2)

    job = service.when(job_id, "failed")
    assert (2, "attempts_exhausted", "attempt 2 fails, as asked") == (job["attempts"], job["end_reason"], job["error"])
    eventually(lambda: [job_id.encode()] == broker.client.lrange(Keys().dead_letters, 0, -1), what="the id on job_dlq")
    eventually(lambda: service.lines(worker, job_id)[-1]["event"] == "Job failed", what="the last word in the log")


def test_a_rejected_job_is_not_retried(service):
    service.start_api()
    service.start_worker()

    job_id = service.post("test-reject", {}, max_attempts=5)

    job = service.when(job_id, "failed")
    assert (1, "rejected") == (job["attempts"], job["end_reason"])


def test_a_scheduled_job_runs_when_it_is_due_and_not_before(service, row):
    service.start_api()
    service.start_worker()

    job_id = service.post("csv-generation", ALICE, delay_seconds=1)

    service.when(job_id, "completed")
    assert row(job_id, "started_at >= run_at")


def test_jobs_waiting_in_a_redis_that_is_wiped_all_run(service, broker):
    service.start_api()
    jobs = [service.post("csv-generation", ALICE) for _ in range(20)]
    broker.client.flushall()

    service.start_worker()

    for job_id in jobs:
        service.when(job_id, "completed")


def test_a_post_while_redis_is_down_is_accepted_and_runs_later(service, tmp_path):
    with Valkey(tmp_path / "own-valkey", save=False) as valkey:
        service.environ["REDIS_URL"] = valkey.url
        service.start_api()
        service.start_worker()
        service.when(service.post("csv-generation", ALICE), "completed")
        valkey.kill()

        job_id = service.post("csv-generation", ALICE)
        assert "degraded" == service.get("/readyz")[1]["status"]

        valkey.start()
        service.when(job_id, "completed")


def test_a_postgresql_that_restarts_ends_nobody(service, postgres):
    api = service.start_api()
    worker = service.start_worker()
    service.when(service.post("csv-generation", ALICE), "completed")
    pids = {*descendants(api.pid), *descendants(worker.pid)}

    postgres.stop(with_signal=signal.SIGQUIT)
    status, problem = service.request("POST", "/jobs", {"type": "csv-generation", "payload": ALICE})
    assert (503, "database_unavailable") == (status, problem["code"])
    postgres.start()

    eventually(lambda: service.get("/readyz")[0] == 200, what="a ready API")
    service.when(service.post("csv-generation", ALICE), "completed")
    assert all(is_alive(pid) for pid in pids)


def test_a_postgresql_that_freezes_holds_no_thread_for_long(service, postgres):
    patience = {"DATABASE_STATEMENT_TIMEOUT_SECONDS": "2", "DATABASE_CONNECT_TIMEOUT_SECONDS": "1"}
    service.start_api(**patience)
    service.start_worker(**patience)
    service.when(service.post("csv-generation", ALICE), "completed")

    postgres.pause()
    try:
        assert 503 == service.request("POST", "/jobs", {"type": "csv-generation", "payload": ALICE})[0]
        # From now on all but one of the threads answer at once; the many would take minutes if each waited for itself.
        with ThreadPoolExecutor(20) as clients:
            answers = list(clients.map(lambda _: service.request("GET", "/jobs")[0], range(300)))
        assert {503} == set(answers)
        assert 200 == service.get("/livez")[0]
    finally:
        postgres.resume()

    eventually(lambda: service.get("/readyz")[0] == 200, what="a ready API")
    service.when(service.post("csv-generation", ALICE), "completed")


def test_workers_count_what_happened(service):
    service.start_api()
    service.start_worker()
    for times in (0, 0, 1):
        service.when(service.post("test-fail-times", {"times": times}), "completed")

    labels = '{{actor_name="test-fail-times",outcome="{}",queue_name="default"}}'
    expected = {
        f"jobs_attempts_total{labels.format('completed')}": 3,
        f"jobs_attempts_total{labels.format('retried')}": 1,
        f"jobs_finished_total{labels.format('completed')}": 3,
        'jobs_started_total{queue_name="default"}': 4,
        'jobs_queue_latency_seconds_count{queue_name="default"}': 4,
        'jobs_run_duration_seconds_count{actor_name="test-fail-times",queue_name="default"}': 4,
        "jobs_worker_threads_busy": 0,
    }
    eventually(lambda: expected.items() <= service.metrics().items(), what="the right counts")
    status, text = service.get("/metrics")
    assert 200 == status
    assert 'jobs_submitted_total{actor_name="test-fail-times",queue_name="default",source="api"} 3.0' in text


def test_a_reload_finishes_what_runs_and_goes_on_with_new_processes(service, tmp_path):
    service.start_api()
    worker = service.start_worker()
    started, go = tmp_path / "started", tmp_path / "go"
    job_id = service.post("test-wait-for-file", {"started": str(started), "go": str(go)})
    before = eventually(lambda: _pids(started), what="a running job")

    worker.send(signal.SIGHUP)
    go.touch()

    assert 1 == service.when(job_id, "completed")["attempts"]
    eventually(lambda: _ran_in(service, started, go) != before[0], what="another process")
    assert worker.running


def _ran_in(service, started, go):
    service.when(service.post("test-wait-for-file", {"started": str(started), "go": str(go)}), "completed")
    return _pids(started)[-1]


def _events(service, child, job_id):
    return [line["event"] for line in service.lines(child, job_id)]


def _pids(path: Path) -> list[int]:
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []
