"""The circuit breaker, by the clock of the test."""

import pytest

from jobs_service import breaker as module
from jobs_service import events
from jobs_service.breaker import Breaker
from jobs_service.events import Event


class Clock:
    now = 1_000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def breaker(clock):  # noqa: ARG001 - it tells the breaker the time
    return Breaker("smtp", failures=3, pause_seconds=30)


@pytest.fixture
def told():
    told = []

    def hear(event, facts):
        told.append((event, facts["breaker"]))

    events.subscribe(hear)
    yield told
    events._subscribers.remove(hear)


def fail(breaker, times):
    return [breaker.failed() for _ in range(times)][-1]


def test_a_few_failures_leave_it_closed(breaker):
    assert 0 == fail(breaker, 2)
    assert 0 == breaker.wait_seconds()


def test_an_answer_in_between_starts_the_count_again(breaker):
    fail(breaker, 2)
    breaker.answered()

    assert 0 == fail(breaker, 2)


def test_after_enough_failures_nobody_asks(breaker, told):
    assert 30 == fail(breaker, 3)

    assert 30 == breaker.wait_seconds()
    assert [(Event.BREAKER_OPENED, "smtp")] == told


def test_after_the_pause_one_caller_asks_for_all(breaker, clock):
    fail(breaker, 3)
    clock.now += 31

    assert 0 == breaker.wait_seconds()
    assert breaker.wait_seconds() > 0


def test_each_failure_of_the_one_that_asks_doubles_the_pause_up_to_a_limit(breaker, clock):
    fail(breaker, 3)
    pauses = []
    for _ in range(5):
        clock.now += 1_000
        assert 0 == breaker.wait_seconds()
        pauses.append(breaker.failed())

    assert [60, 120, 240, 240, 240] == pauses


def test_an_answer_closes_it(breaker, clock, told):
    fail(breaker, 3)
    clock.now += 31
    breaker.wait_seconds()
    breaker.answered()

    assert [0, 0] == [breaker.wait_seconds(), breaker.wait_seconds()]
    assert Event.BREAKER_CLOSED == told[-1][0]
    assert 30 == fail(breaker, 3)


def test_one_that_asked_and_never_came_back_does_not_keep_it_open(breaker, clock):
    fail(breaker, 3)
    clock.now += 31
    breaker.wait_seconds()
    clock.now += 31

    assert 0 == breaker.wait_seconds()
