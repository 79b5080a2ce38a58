"""Counters stay exact and files few, whatever ends a process and however."""

import os
import re
import signal
from contextlib import suppress

import pytest
from eventually import eventually

from devstack.processes import descendants, is_alive

FAILS_NEVER = {"times": 0}
ACCEPTED = 'jobs_submitted_total{actor_name="test-fail-times",queue_name="default",source="api"}'
COMPLETED = 'jobs_finished_total{actor_name="test-fail-times",outcome="completed",queue_name="default"}'


@pytest.fixture
def api_metrics(service):
    return lambda: service.metrics(service.api_port)


def files(service, command):
    """Return the slots that have files, and the number of files."""
    [folder] = service.folder.glob(f"metrics-{command}-*")
    found = list(folder.glob("*.db"))
    return {re.fullmatch(r".*_(\d+)\.db", path.name)[1] for path in found}, len(found)


def killed(pid):
    """Kill a process, unless it has just ended to be replaced. Return whether it is gone by that."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return eventually(lambda: not is_alive(pid), what="the end of the killed process")
    return False


def post(service, times):
    return [service.post("test-fail-times", FAILS_NEVER, delay_seconds=3600) for _ in range(times)]


def test_the_api_counts_exactly_through_recycling_a_kill_and_a_reload(service, api_metrics):
    """Gunicorn replaces its processes after 7 requests each, one is killed, and SIGHUP replaces them all."""
    api = service.start_api(API_PROCESSES="2", GUNICORN_CMD_ARGS="--max-requests 7")

    post(service, 40)
    eventually(lambda: killed(descendants(api.pid)[0]), what="a process to kill")
    eventually(lambda: service.get("/readyz")[0] == 200, what="a ready API")
    post(service, 10)
    before = descendants(api.pid)
    api.send(signal.SIGHUP)
    eventually(lambda: not any(is_alive(pid) for pid in before), what="new processes")
    eventually(lambda: service.get("/readyz")[0] == 200, what="a ready API")
    post(service, 10)

    assert 60 == api_metrics()[ACCEPTED]
    slots, count = files(service, "api")
    # At a reload the old and the new processes are there together; a scrape may hold a free slot for a moment.
    assert len(slots) <= 5
    assert count <= 6 * len(slots)


def test_the_workers_count_exactly_through_kills_and_a_reload(service):
    """Every worker process is killed; then every dramatiq command gets SIGHUP, on which it starts anew."""
    service.start_api()
    worker = service.start_worker(WORKER_PROCESSES="2")
    run(service, 10)
    eventually(lambda: service.metrics()[COMPLETED] == 10, what="ten jobs counted")

    commands = [pid for pid in descendants(worker.pid) if descendants(pid)]
    processes = [child for pid in commands for child in descendants(pid)]
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in processes), what="the end of the killed")
    run(service, 10)
    eventually(lambda: service.metrics()[COMPLETED] == 20, what="twenty jobs counted")

    commands = [pid for pid in descendants(worker.pid) if descendants(pid)]
    processes = [child for pid in commands for child in descendants(pid)]
    for pid in commands:
        os.kill(pid, signal.SIGHUP)
    eventually(lambda: not any(is_alive(pid) for pid in processes), what="the end of the reloaded")
    run(service, 10)

    eventually(lambda: service.metrics()[COMPLETED] == 30, what="thirty jobs counted")
    slots, count = files(service, "worker")
    assert len(slots) <= 3
    assert count <= 6 * len(slots)


def run(service, times):
    for job_id in [service.post("test-fail-times", FAILS_NEVER) for _ in range(times)]:
        service.when(job_id, "completed")
