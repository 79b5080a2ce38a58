"""Fault 12: PostgreSQL crashes, restarts and ends sessions under load; verdicts wait for it."""

import contextlib
import os
import signal
import urllib.error
import urllib.request

import psycopg2
import pytest
from eventually import eventually

from devstack.processes import descendants, is_alive

SESSIONS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def test_a_server_that_crashes_loses_no_verdict_and_ends_nobody(stack, own_postgres):
    stack.start()
    with stack.no_process_ends():
        running = [stack.submit(payload={"seconds": 0.5}) for _ in range(4)]
        eventually(lambda: len(stack.effects()) == 4, what="running jobs")
        stack.submit_load(8)

        stack.strike()
        own_postgres.stop(with_signal=signal.SIGQUIT)
        assert_unavailable(stack)
        own_postgres.start()

        assert eventually(stack.submit, what="an accepted job")
        stack.settle()
        assert {(1, 0)} == stack.values(running, "attempts", "worker_losses")


def test_a_killed_session_takes_the_others_along_and_nobody_else(stack, own_postgres):
    """PostgreSQL restarts all its processes when one of them was killed."""
    stack.start()
    with stack.no_process_ends():
        stack.submit_load(16)
        stack.strike()
        for _ in range(3):
            session = eventually(lambda: stack.sql(f"SELECT pid {SESSIONS}"), what="sessions")[0][0]
            before = descendants(own_postgres.pid)
            os.kill(session, signal.SIGKILL)
            # PostgreSQL goes on to answer until it has seen the death of its process.
            eventually(lambda pids=before: not any(map(is_alive, pids)), what="the end of the others")
            eventually(own_postgres.answers, what="a server that is up")
            stack.submit_load(8)
        eventually(stack.submit, what="an accepted job")
        stack.settle()


def test_sessions_that_are_ended_again_and_again_are_replaced_without_a_word(stack):
    stack.start()
    with stack.no_process_ends():
        stack.strike()
        for _ in range(10):
            # A connection that was found dead is replaced, and the statement sent again: nobody is turned away.
            assert 4 == len(stack.submit_load(4))
            stack.sql(f"SELECT pg_terminate_backend(pid) {SESSIONS}")
        stack.settle()


def test_a_database_that_lets_nobody_in_for_a_while(stack, postgres):
    name = stack.database_url.rpartition("/")[2]
    stack.start()
    with stack.no_process_ends():
        stack.submit_load(8)
        stack.strike()
        stack.sql(f"SELECT pg_terminate_backend(pid) {SESSIONS}")
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        eventually(lambda: not end_sessions(postgres, name), what="a database without sessions")
        with pytest.raises(psycopg2.OperationalError):
            stack.sql("SELECT 1")
        assert_unavailable(stack)
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        stack.settle()


def end_sessions(postgres, name):
    """Return whether there were any."""
    with contextlib.closing(psycopg2.connect(postgres.url_of("postgres"))) as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        return cursor.rowcount


def assert_unavailable(stack):
    """Every answer is a 503 with a date for the next try, none of them a client's time-out."""
    url = f"http://127.0.0.1:{stack.service.api_port}/jobs"
    for _ in range(4):
        body = b'{"type":"csv-generation","payload":{"name":"Alice","score":95}}'
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)
        with caught.value as answer:
            assert 503 == answer.code
            assert int(answer.headers["Retry-After"]) > 0
