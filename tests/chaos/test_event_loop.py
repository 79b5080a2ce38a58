"""Faults of the API's event loop: a server keeps it waiting, which must not be, or code blocks it for good."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException

import pytest
from eventually import eventually

from devstack.processes import descendants

#: All of them longer than the longest stall that is let pass, so that a single call in the loop is seen.
PATIENCE = {
    "DATABASE_CONNECT_TIMEOUT_SECONDS": "4",
    "DATABASE_STATEMENT_TIMEOUT_SECONDS": "5",
    "REDIS_TIMEOUT_SECONDS": "4",
}
#: A bound of the histogram. The loop does not come to anything for a moment on a busy machine.
LONGEST_STALL_SECONDS = "2.5"

DELAY = "http_server_event_loop_delay_seconds"


@pytest.fixture(params=["PostgreSQL is silent", "PostgreSQL is down", "Redis is silent", "Redis is down"])
def fault(request):
    """Let a server fail, and heal it."""
    server, _, state = request.param.partition(" is ")
    proxy = request.getfixturevalue({"PostgreSQL": "postgres_proxy", "Redis": "redis_proxy"}[server])
    return (proxy.blackhole if state == "silent" else proxy.down), proxy.heal


def test_no_server_stops_the_event_loop(stack, fault):
    begin, heal = fault
    stack.service.environ |= PATIENCE
    api = stack.service.start_api()
    [job_id] = stack.submit_load(1)
    asks = [stack.submit, *(lambda path=path: get(stack, path) for path in (f"/jobs/{job_id}", "/jobs", "/readyz"))]

    stack.strike()
    begin()
    with ThreadPoolExecutor(40) as clients:
        asked = [clients.submit(ask) for ask in asks * 8]
        while not all(answer.done() for answer in asked):
            assert stack.service.get("/livez")[0] == 200
    heal()

    assert {answer.result() for answer in asked if isinstance(answer.result(), int)} <= {200, 503}
    measured = eventually(lambda: delays(stack), what="measurements")
    assert measured["count"] == measured[LONGEST_STALL_SECONDS], measured
    assert api.running
    stack.service.start_worker()


def test_a_process_whose_event_loop_is_blocked_is_replaced(stack):
    api = stack.service.start_api(
        FAILPOINTS="api.in_event_loop=hang:3600 once", GUNICORN_CMD_ARGS="--timeout 2", API_PROCESSES="1"
    )
    pids = descendants(api.pid)
    stack.strike()

    assert stack.submit() is None

    assert eventually(stack.submit, what="an answer of another process")
    assert not {*pids} & {*descendants(api.pid)}
    stack.service.start_worker()


def get(stack, path):
    with suppress(HTTPException):
        return stack.service.get(path)[0]


def delays(stack):
    """Return how many delays of the event loop were measured, and how many were within each bound."""
    found = {}
    for line in stack.service.get("/metrics")[1].splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith(f"{DELAY}_bucket"):
            found[name.partition('le="')[2].rstrip('"}')] = float(value)
        elif name == f"{DELAY}_count":
            found["count"] = float(value)
    return found.get("count") and found
