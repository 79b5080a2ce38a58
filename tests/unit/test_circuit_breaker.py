"""A circuit breaker refuses calls after a failure, and lets one caller find out whether the server answers again."""

import pytest

from jobs_service import circuit_breaker
from jobs_service.circuit_breaker import CircuitBreaker


class Clock:
    def __init__(self):
        self.seconds = 1_000.0

    def monotonic(self):
        return self.seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(circuit_breaker, "time", clock)
    return clock


@pytest.fixture
def breaker():
    """A breaker that has just seen a failure."""
    breaker = CircuitBreaker(open_seconds=2, trial_seconds=10)
    breaker.open("no route")
    return breaker


def test_a_new_breaker_lets_calls_through():
    breaker = CircuitBreaker(open_seconds=2)

    assert ["", "", ""] == [breaker.refusal(), breaker.admit(), breaker.admit()]


def test_after_a_failure_calls_are_refused_with_its_reason(breaker, clock):
    clock.seconds += 1.9

    assert ["no route", "no route"] == [breaker.refusal(), breaker.admit()]


def test_then_one_caller_tries_and_the_others_are_refused_as_long_as_it_may_take(breaker, clock):
    clock.seconds += 2
    assert ["", "no route", "no route"] == [breaker.admit(), breaker.admit(), breaker.refusal()]

    clock.seconds += 10

    assert ["", "no route"] == [breaker.admit(), breaker.admit()]


def test_without_a_time_for_the_trial_all_may_try(clock):
    breaker = CircuitBreaker(open_seconds=2)
    breaker.open("no route")
    clock.seconds += 2

    assert ["", ""] == [breaker.admit(), breaker.admit()]


def test_a_trial_that_fails_opens_it_again(breaker, clock):
    clock.seconds += 2
    breaker.admit()
    breaker.open("still no route")

    clock.seconds += 1.9
    assert "still no route" == breaker.admit()
    clock.seconds += 0.1
    assert "" == breaker.admit()


def test_a_trial_that_succeeds_lets_everybody_through(breaker, clock):
    clock.seconds += 2
    breaker.admit()
    breaker.close()

    assert ["", "", ""] == [breaker.refusal(), breaker.admit(), breaker.admit()]


def test_after_a_trial_that_showed_nothing_the_next_caller_may_try_soon(breaker, clock):
    clock.seconds += 2
    breaker.admit()
    breaker.end_trial()

    assert "no route" == breaker.admit()
    clock.seconds += 2
    assert "" == breaker.admit()


def test_a_call_that_showed_nothing_does_not_keep_it_open_longer(breaker, clock):
    clock.seconds += 1.5
    breaker.end_trial()
    clock.seconds += 0.5

    assert "" == breaker.admit()
