"""From POST to the last word, with real gunicorn, dramatiq, PostgreSQL, Valkey and SMTP."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from eventually import eventually

from jobs_service.broker import message_for
from jobs_service.dead_letters import KEY
from jobs_service.devstack.processes import descendants, is_alive
from jobs_service.devstack.servers import Valkey

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
    assert 2 == [line["event"] for line in service.lines(worker, job_id)].count("Job retried")


def test_the_last_attempt_makes_a_dead_letter(service, broker):
    service.start_api()
    worker = service.start_worker()

    job_id = service.post("test-fail-times", {"times": 99}, max_attempts=2)

    job = service.when(job_id, "failed")
    assert (2, "attempts_exhausted", "attempt 2 fails, as asked") == (job["attempts"], job["dead_reason"], job["error"])
    eventually(lambda: [job_id.encode()] == broker.client.lrange(KEY, 0, -1), what="the id on job_dlq")
    eventually(lambda: service.lines(worker, job_id)[-1]["event"] == "Job failed", what="the last word in the log")


def test_a_rejected_job_is_not_retried(service):
    service.start_api()
    service.start_worker()

    job_id = service.post("test-reject", {}, max_attempts=5)

    job = service.when(job_id, "failed")
    assert (1, "rejected") == (job["attempts"], job["dead_reason"])


def test_a_scheduled_job_runs_when_it_is_due_and_not_before(service, row):
    service.start_api()
    service.start_worker()

    job_id = service.post("csv-generation", ALICE, delay_seconds=1)

    service.when(job_id, "completed")
    assert row(job_id, "started_at >= run_at")


def test_a_message_that_comes_many_times_runs_the_job_once(service, broker, row):
    service.start_api()
    job_id = service.post("test-fail-times", {"times": 0})
    service.start_worker()
    service.when(job_id, "completed")

    for _ in range(5):
        broker.enqueue(message_for(row(job_id, "id"), "test-fail-times", "default", 5))
        eventually(lambda: broker.waiting("default") == 0, what="an empty queue")

    assert (1, "completed") == row(job_id, "attempts", "status")


def test_jobs_waiting_in_a_redis_that_is_wiped_all_run(service, broker):
    service.start_api()
    jobs = [service.post("csv-generation", ALICE) for _ in range(20)]
    broker.client.flushall()

    service.start_worker()

    for job_id in jobs:
        service.when(job_id, "completed")


def test_a_killed_workers_job_runs_again(service, tmp_path):
    service.start_api()
    worker = service.start_worker()
    started, go = tmp_path / "started", tmp_path / "go"
    job_id = service.post("test-wait-for-file", {"started": str(started), "go": str(go)})
    pid = eventually(lambda: _pids(started), what="a running job")[0]

    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(_pids(started)) == 2, what="a second attempt")
    go.touch()

    job = service.when(job_id, "completed")
    assert 2 == job["attempts"]
    assert ["WorkerLost"] == [entry["error"] for entry in job["history"]]
    assert worker.running
    eventually(lambda: service.metrics()["jobs_worker_threads_busy"] == 0, what="no busy thread")


def test_a_frozen_worker_is_replaced_as_the_leader_and_its_late_verdict_refused(service, tmp_path):
    """One worker process, frozen as if its machine slept; its successor does its job and leads maintenance."""
    service.start_api()
    frozen = service.start_worker()
    waiting = {"started": str(tmp_path / "started"), "go": str(tmp_path / "go")}
    job_id = service.post("test-wait-for-file", waiting)
    eventually(lambda: "Leading" in service.log(frozen) and _pids(tmp_path / "started"), what="a leader with a job")
    frozen.pause()
    service.start_worker()

    eventually(lambda: len(_pids(tmp_path / "started")) == 2, what="a second attempt")
    (tmp_path / "go").touch()
    job = service.when(job_id, "completed")
    service.when(service.post("csv-generation", ALICE, delay_seconds=0.5), "completed")
    frozen.resume()

    assert 2 == job["attempts"]
    eventually(lambda: "Late verdict refused" in _events(service, frozen, job_id), what="a refused verdict")
    assert 2 == service.job(job_id)["attempts"]


def test_a_job_that_kills_its_worker_is_poison_and_its_neighbours_are_not(service, broker, tmp_path):
    service.start_api()
    service.start_worker()
    go = tmp_path / "go"
    waiting = {"started": str(tmp_path / "started"), "go": str(go)}
    neighbours = [service.post("test-wait-for-file", waiting) for _ in range(2)]
    eventually(lambda: len(_pids(tmp_path / "started")) == 2, what="running neighbours")

    poison = service.post("test-kill-worker", {}, max_attempts=10)
    eventually(lambda: service.job(poison)["attempts"] >= 1, what="a first crash")
    go.touch()

    job = service.when(poison, "failed")
    assert ("poison", 3) == (job["dead_reason"], job["attempts"])
    for job_id in neighbours:
        assert service.when(job_id, "completed")["attempts"] <= 2
    eventually(lambda: [poison.encode()] == broker.client.lrange(KEY, 0, -1), what="the id on job_dlq")


def test_a_job_that_hangs_where_no_limit_reaches_it_costs_its_process_and_no_neighbour(service, tmp_path):
    service.start_api()
    worker = service.start_worker()
    started, go = tmp_path / "started", tmp_path / "go"
    neighbour = service.post("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(lambda: _pids(started), what="a running neighbour")

    hung = service.post("test-hang", {}, max_attempts=1)

    assert "WorkerLost" == service.when(hung, "failed")["history"][0]["error"]
    assert "Attempts hang" in service.log(worker)
    go.touch()
    assert 1 == service.when(neighbour, "completed")["attempts"]


def test_a_job_that_runs_too_long_is_interrupted_and_retried(service):
    service.start_api()
    service.start_worker()

    job_id = service.post("test-loop", {}, max_attempts=2)

    job = service.when(job_id, "failed")
    assert ["TimeLimitExceeded"] * 2 == [entry["error"] for entry in job["history"]]


def test_a_post_while_redis_is_down_is_accepted_and_runs_later(service, tmp_path, free_port):
    with Valkey(tmp_path / "own-valkey", free_port(), save=False) as valkey:
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


def test_a_stopped_worker_gives_back_what_it_could_not_finish(service, tmp_path):
    service.start_api()
    worker = service.start_worker(
        DATABASE_STATEMENT_TIMEOUT_SECONDS="2",
        MAIL_TIMEOUT_SECONDS="2",
        TIME_LIMIT_SECONDS="2.5",
        HANG_GRACE_SECONDS="0.5",
        WORKER_SHUTDOWN_SECONDS="4",
    )
    started, go = tmp_path / "started", tmp_path / "go"
    job_id = service.post("test-wait-for-file", {"started": str(started), "go": str(go)})
    eventually(lambda: _pids(started), what="a running job")

    worker.stop(seconds=20)

    assert ("pending", 0) == (service.job(job_id)["status"], service.job(job_id)["attempts"])
    go.touch()
    service.start_worker()
    assert 1 == service.when(job_id, "completed")["attempts"]


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
    assert 'jobs_enqueued_total{actor_name="test-fail-times",queue_name="default",source="api"} 3.0' in text


@pytest.mark.parametrize("victim", ["supervisor", "command"])
def test_nothing_is_left_behind_by_a_killed_parent(service, victim):
    service.start_api()
    worker = service.start_worker()
    service.when(service.post("csv-generation", ALICE), "completed")
    everybody = descendants(worker.pid)
    commands = [pid for pid in everybody if descendants(pid)]

    os.kill(worker.pid if victim == "supervisor" else commands[0], signal.SIGKILL)

    gone = everybody if victim == "supervisor" else [commands[0]]
    eventually(lambda: not any(is_alive(pid) for pid in gone), what="the end of the orphans")
    if victim == "command":
        service.when(service.post("csv-generation", ALICE), "completed")


def _events(service, child, job_id):
    return [line["event"] for line in service.lines(child, job_id)]


def _pids(path: Path) -> list[int]:
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []
