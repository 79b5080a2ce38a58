"""Faults 4 and 5: worker processes are killed, at every point of a job's way, one at a time, all at once, in a loop."""

import os
import signal
import sys
from contextlib import suppress

import pytest
from eventually import eventually
from service import ROOT

from devstack.processes import Child, descendants, is_alive

PLACES = ["worker.after_pop", "worker.after_claim", "worker.after_effect", "worker.after_verdict", "fail.before_push"]


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_killed_on_a_jobs_way_costs_a_crash_at_most(stack, place):
    stack.start(workers=2, FAILPOINTS=f"{place}=kill once")

    stack.submit_load(16)
    eventually((stack.folder / place).exists, what="a killed worker")
    stack.strike()
    stack.settle()

    assert stack.sql("SELECT max(worker_losses) FROM jobs")[0][0] <= 1


@pytest.mark.parametrize("place", ["worker.after_pop", "worker.after_claim"])
def test_a_job_that_had_not_begun_did_not_kill_its_worker(stack, place):
    """It uses no attempt, and its next one needs no process of its own."""
    stack.start(FAILPOINTS=f"{place}=kill once")

    job_id = stack.submit("csv-generation", {"name": "Alice", "score": 95})
    stack.settle()

    job = stack.job(job_id)
    assert (job["status"], job["attempts"], job["worker_losses"], job["history"]) == ("completed", 1, 0, [])


@pytest.mark.parametrize("place", ["storage.before_rename", "storage.after_rename"])
def test_a_worker_killed_while_it_writes_leaves_the_whole_file_or_none(stack, place):
    stack.start(FAILPOINTS=f"{place}=kill once")

    job_id = stack.submit("csv-generation", {"name": "Alice", "score": 95})
    stack.settle()

    job = stack.job(job_id)
    assert (job["status"], job["attempts"], job["worker_losses"]) == ("completed", 1, 1)


@pytest.mark.parametrize(("place", "mails"), [("mail.before_data", 1), ("mail.after_data", 2)])
@pytest.mark.parametrize("on_ambiguous", ["resend", "hold"])
def test_a_mail_of_a_killed_worker_follows_on_ambiguous(stack, mail, place, mails, on_ambiguous):
    """Nobody knows whether it was sent, so it is told as unknown in both cases."""
    stack.start(FAILPOINTS=f"{place}=kill once", MAIL_HOST="127.0.0.1", MAIL_PORT=str(mail.port))

    subject = f"{place} {on_ambiguous} {os.getpid()}"
    mail_ = {"to": "a@example.com", "subject": subject, "body": "x"}
    job_id = stack.submit("EMAIL_SEND", mail_, on_ambiguous=on_ambiguous)
    stack.settle()

    job = stack.job(job_id)
    assert job["history"][0]["ambiguous"] is True
    assert (job["status"], job["end_reason"]) == (
        ("completed", None) if on_ambiguous == "resend" else ("failed", "ambiguous")
    )
    sent = [message for message in mail.messages() if message["subject"] == subject]
    assert len(sent) == (mails if on_ambiguous == "resend" else mails - 1)


@pytest.mark.parametrize("place", ["relay.before_publish", "relay.after_publish", "rescuer.after_rescue"])
def test_a_leader_killed_at_its_work_is_followed_by_another(stack, place):
    stack.start(workers=2)
    worker = stack.service.children[-1]
    job_id = stack.submit(payload={"seconds": 30})
    eventually(lambda: stack.effects()[job_id], what="a running job")
    stack.service.start_worker(FAILPOINTS=f"{place}=kill once", WORKER_PROCESSES="2")

    stack.strike()
    worker.kill()
    stack.submit(delay_seconds=0.3)
    eventually((stack.folder / place).exists, what="a killed leader")
    stack.submit_load(8)
    stack.sql("UPDATE jobs SET payload = '{}' WHERE id = %s RETURNING 1", (job_id,))
    stack.settle()


def test_a_supervisor_killed_takes_its_workers_along(stack):
    worker = stack.start(workers=2)
    stack.serving_pids(worker)
    stack.submit_load(16)
    children = descendants(worker.pid)

    stack.strike()
    os.kill(worker.pid, signal.SIGKILL)

    eventually(lambda: not any(is_alive(pid) for pid in children), what="no process left behind")
    stack.service.start_worker(WORKER_PROCESSES="2")


@pytest.mark.parametrize("victim", ["the command", "its process"])
def test_a_killed_process_is_replaced_and_its_neighbour_goes_on(stack, tmp_path, victim):
    worker = stack.start(workers=2)
    stack.submit_load(16)
    started, go = tmp_path / "started", tmp_path / "go"
    busy = stack.submit("test-wait-for-file", {"started": str(started), "go": str(go)})
    pid = int(eventually(lambda: started.exists() and started.read_text().split(), what="a running job")[0])
    command = next(parent for parent in descendants(worker.pid) if pid in descendants(parent))

    stack.strike()
    os.kill(command if victim == "the command" else pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid) and not is_alive(command), what="the end of both")
    go.touch()
    stack.settle()

    assert worker.running
    # Linux tells a process of its parent's end once for each of the parent's threads. The second SIGTERM ends it at
    # once, and its job is lost with it, unless both came before the first was seen: then it gives the job back.
    endings = [["WorkerLost"], []] if victim == "the command" else [["WorkerLost"]]
    assert stack.errors(busy) in endings
    eventually(lambda: stack.service.metrics()["jobs_worker_threads_busy"] == 0, what="no thread counted as busy")


def test_all_of_a_worker_killed_at_once_costs_an_attempt_at_most(stack):
    worker = stack.start(workers=2)
    stack.submit_load(24)
    eventually(lambda: len(stack.effects()) > 2, what="work in progress")

    stack.strike()
    worker.kill()
    stack.service.start_worker(WORKER_PROCESSES="2")


def test_workers_killed_again_and_again_finish_everything(stack):
    """Three crashes of one job would be poison, and nothing else: lost workers cost no attempts."""
    worker = stack.start(workers=2)
    stack.submit_load(40)

    stack.strike()
    for _ in range(4):
        pid = eventually(lambda: stack.worker_pids(worker), what="a worker process")[0]
        done = stack.sql("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")[0][0]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda done=done: _finished(stack) > done or _finished(stack) == 40, what="progress")
    stack.settle()

    assert stack.sql("SELECT count(*) FROM jobs WHERE end_reason = 'poison'")[0][0] <= 1


def _finished(stack):
    return stack.sql("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")[0][0]


def test_a_command_killed_while_its_worker_starts_leaves_nobody_behind(stack):
    worker = stack.start()

    def starting():
        """Return a dramatiq command and the process that it has just started."""
        return next(((pid, descendants(pid)) for pid in stack.worker_pids(worker) if descendants(pid)), None)

    for _ in range(4):
        command, processes = eventually(starting, what="a worker that starts")
        os.kill(command, signal.SIGKILL)
        eventually(lambda pids=processes: not any(is_alive(pid) for pid in pids), what="the end of its process")
    stack.submit_load(8)


def test_a_command_killed_while_its_worker_boots_takes_it_along(stack, tmp_path):
    """Where a handler would only note the signal, and Python is busy elsewhere."""
    stack.service.start_api()
    begun, go = tmp_path / "begun", tmp_path / "go"
    slow = {"ACTOR_MODULES": "slow_to_import", "IMPORT_BEGUN": str(begun), "IMPORT_GO": str(go)}
    worker = stack.service.start_worker(**slow)

    def booting():
        """Return a dramatiq command and its process, which is importing job types."""
        importing = set(map(int, begun.read_text().split())) if begun.exists() else set()
        return next(
            ((pid, *found) for pid in stack.worker_pids(worker) if (found := importing & {*descendants(pid)})), None
        )

    command, process = eventually(booting, what="a worker that boots")
    stack.strike()
    os.kill(command, signal.SIGKILL)

    eventually(lambda: not is_alive(process), what="the end of its process")
    go.touch()
    stack.submit("csv-generation", {"name": "Alice", "score": 95})


def test_a_worker_killed_while_it_tells_its_command_that_it_has_begun_is_replaced(stack, tmp_path):
    """Its first job kills it as soon as it has begun; what it held of Dramatiq's is never released."""
    died = tmp_path / "died-booting"
    stack.start(ACTOR_MODULES="trying,effects,dies_booting", DIED_BOOTING=str(died))
    eventually(died.exists, what="a process that died")
    stack.strike()

    stack.submit("csv-generation", {"name": "Alice", "score": 95})

    stack.settle()


def test_a_dramatiq_command_without_a_supervisor_takes_all_its_processes_along(stack):
    """It forks one for the metrics, too."""
    stack.service.start_api()
    argv = [sys.executable, "-m", "dramatiq", "jobs_service.worker.assembly:boot", "--processes=1", "--threads=2"]
    (stack.folder / "metrics").mkdir()
    environ = stack.service.environ | {"PROMETHEUS_MULTIPROC_DIR": str(stack.folder / "metrics")}
    command = Child(argv, log=stack.folder / "dramatiq.log", env=environ, cwd=ROOT)
    stack.service.children.append(command)

    def serves():
        with suppress(OSError):
            return stack.service.metrics()
        return None

    eventually(serves, what="metrics")
    processes = descendants(command.pid)

    os.kill(command.pid, signal.SIGKILL)

    eventually(lambda: not any(is_alive(pid) for pid in processes), what="the end of all")
    stack.service.start_worker()
