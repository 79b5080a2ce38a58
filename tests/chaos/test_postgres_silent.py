"""Fault 12: PostgreSQL is frozen or unreachable: connections stay, and nothing comes over them, or all too late."""

import os
import signal
from contextlib import suppress

import pytest
from eventually import eventually

from devstack.processes import descendants

#: Shorter than usual, so that waiting for it is.
PATIENCE = {"DATABASE_CONNECT_TIMEOUT_SECONDS": "1", "DATABASE_STATEMENT_TIMEOUT_SECONDS": "2"}


@pytest.mark.parametrize("frozen", ["all of it", "its sessions"])
def test_a_frozen_server_holds_no_client_and_loses_no_verdict(stack, own_postgres, frozen):
    stack.service.environ |= PATIENCE
    stack.start()
    with stack.no_process_ends():
        running = [stack.submit(payload={"seconds": 0.5}) for _ in range(4)]
        eventually(lambda: len(stack.effects()) == 4, what="running jobs")
        stack.submit_load(4)
        stack.strike()
        pids = descendants(own_postgres.pid) + ([own_postgres.pid] if frozen == "all of it" else [])
        for pid in pids:
            with suppress(ProcessLookupError):  # a session that has just ended
                os.kill(pid, signal.SIGSTOP)
        try:
            # Whoever is the first to notice pays with the time-out, the others are told at once.
            for _ in range(8):
                stack.submit()
        finally:
            own_postgres.resume()
        stack.submit_load(8)
        stack.settle()
        assert {"completed"} == stack.values(running, "status")

    # A submission that was answered with 503 may have been written when the server went on.
    eventually(lambda: not stack.sql("SELECT FROM jobs WHERE finished_at IS NULL"), what="the end of every job")


@pytest.mark.parametrize("fault", ["blackhole", "latency", "throttle"])
def test_what_arrives_too_late_is_not_done_twice(stack, postgres_proxy, fault):
    """What was sent into the blackhole arrives when it is over, though whoever sent it has asked again since."""
    stack.service.environ |= PATIENCE
    stack.start()
    with stack.no_process_ends():
        for _ in range(4):
            stack.submit(payload={"seconds": 0.5})
        stack.submit_load(8)
        eventually(lambda: len(stack.effects()) >= 4, what="running jobs")
        stack.strike()
        if fault == "blackhole":
            postgres_proxy.blackhole()
        elif fault == "latency":
            postgres_proxy.latency_seconds = 1.5
        else:
            postgres_proxy.bytes_per_second = 200
        for _ in range(3):
            stack.submit()
        postgres_proxy.heal()
        stack.submit_load(8)
        stack.settle()

    # What was refused with a 503 may have been written all the same: then it runs like any other.
    eventually(lambda: not stack.sql("SELECT FROM jobs WHERE finished_at IS NULL"), what="the end of every job")


def test_connections_that_are_cut_again_and_again(stack, postgres_proxy):
    stack.start()
    with stack.no_process_ends():
        stack.strike()
        for _ in range(10):
            assert 4 == len(stack.submit_load(4))
            postgres_proxy.cut()
        stack.settle()
