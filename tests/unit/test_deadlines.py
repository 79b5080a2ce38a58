"""A connection that is waited for too long is shut down, and no other."""

import math
import os
import socket

import pytest
from eventually import eventually

from jobs_service.database.deadlines import Deadlines, DuplicateSocket, deadlines


@pytest.fixture
def pair():
    """Our end of a connection, and the other."""
    ours, other = socket.socketpair()
    yield ours, other
    ours.close()
    other.close()


def test_the_thread_that_waits_is_told_that_the_connection_is_closed(pair):
    ours, _ = pair
    duplicate, own = DuplicateSocket(ours.fileno()), Deadlines()

    own.begin(duplicate, 0.05)

    assert ours.recv(1) == b""
    assert own.has_expired(duplicate)


def test_a_shorter_wait_wakes_the_thread_that_sleeps_for_a_longer_one(pair):
    ours, _ = pair
    long, short, own = DuplicateSocket(ours.fileno()), DuplicateSocket(ours.fileno()), Deadlines()
    own.begin(long, 3_600)
    eventually(lambda: own._wakes_at < math.inf, what="a thread that sleeps")

    own.begin(short, 0.05)

    assert ours.recv(1) == b""
    assert not own.has_expired(long)


def test_an_answer_in_time_leaves_the_connection_and_lets_the_thread_sleep(pair):
    ours, other = pair
    duplicate, own = DuplicateSocket(ours.fileno()), Deadlines()
    own.begin(duplicate, 0.05)
    own.end(duplicate)
    eventually(lambda: own._thread and own._wakes_at == math.inf, what="a thread that sleeps")

    other.send(b"x")
    assert ours.recv(1) == b"x"


def test_a_duplicate_that_was_closed_shuts_nothing_down_under_its_old_number(pair):
    ours, other = pair
    duplicate = DuplicateSocket(ours.fileno())
    number = duplicate._descriptor
    duplicate.close()
    os.dup2(ours.fileno(), number)
    try:
        duplicate.expire()
        other.send(b"x")
        assert ours.recv(1) == b"x"
    finally:
        os.close(number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_started_again(pair, monkeypatch):
    ours, _ = pair
    duplicate, own = DuplicateSocket(ours.fileno()), Deadlines()
    look = own._expire_due
    monkeypatch.setattr(own, "_expire_due", lambda: exec("raise SystemExit"))
    own.begin(duplicate, 0.05)
    eventually(lambda: own._thread is None, what="a dead thread")
    monkeypatch.setattr(own, "_expire_due", look)

    own.begin(duplicate, 0.05)

    assert ours.recv(1) == b""


def test_a_forked_child_shuts_no_socket_of_its_parent_down(pair):
    ours, _ = pair
    duplicate = DuplicateSocket(ours.fileno())
    deadlines.begin(duplicate, 3_600)
    reading, writing = os.pipe()

    if (child := os.fork()) == 0:
        os.write(writing, b"%d" % len(deadlines._due))
        os._exit(0)
    os.waitpid(child, 0)
    deadlines.end(duplicate)

    assert os.read(reading, 100) == b"0"
    os.close(reading)
    os.close(writing)
