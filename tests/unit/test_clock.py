"""PostgreSQL's clock beside a steady one: what is a step, what is an answer that took its time, and who tells."""

import pytest
from prometheus_client import REGISTRY

from jobs_service import clock as clock_module
from jobs_service.clock import DatabaseClock


class Comparing:
    """A database's clock and a steady one that go on together, until one is set."""

    def __init__(self, monkeypatch):
        self.leads = True
        self.steady = 100.0
        self.database = 1_700_000_000.0
        self.told = []
        monkeypatch.setattr(clock_module.log, "warning", lambda _, **facts: self.told.append(facts["seconds"]))
        self.clock = DatabaseClock(leads=lambda: self.leads, wall=lambda: self.database + 0.25)

    def compare(self, *, after=5.0, step=0.0, took=0.0):
        """Look `after` so many seconds, at an answer that took so long; the clock is set just before."""
        self.steady += after + took
        self.database += after + took + step
        self.clock.compare(self.database, asked_at=self.steady - took, answered_at=self.steady)


@pytest.fixture
def comparing(monkeypatch):
    return Comparing(monkeypatch)


def test_a_clock_that_goes_on_is_not_told_of(comparing):
    for after in (0, 5, 3_600, 5):
        comparing.compare(after=after)

    assert [] == comparing.told


@pytest.mark.parametrize("seconds", [3_600, -3_600, 2, -2])
def test_a_step_is_told_once_with_its_length(comparing, seconds):
    comparing.compare()
    comparing.compare(step=seconds)
    comparing.compare()

    assert [seconds] == comparing.told


@pytest.mark.parametrize("seconds", [0.9, -0.9])
def test_an_adjustment_is_no_step(comparing, seconds):
    comparing.compare()
    comparing.compare(step=seconds)

    assert [] == comparing.told


def test_a_slow_answer_is_no_step(comparing):
    comparing.compare()
    comparing.compare(took=6)
    comparing.compare()

    assert [] == comparing.told


def test_a_step_that_a_slow_answer_cannot_explain_is_told(comparing):
    comparing.compare()
    comparing.compare(took=6, step=60)

    assert [pytest.approx(60, abs=6)] == comparing.told


def test_who_does_not_lead_tells_of_nothing(comparing):
    comparing.leads = False
    comparing.compare()
    comparing.compare(step=60)
    for _ in range(3):
        comparing.compare()
    comparing.leads = True
    comparing.compare()

    assert [] == comparing.told


def test_who_becomes_the_leader_by_the_step_tells_of_it(comparing):
    comparing.leads = False
    comparing.compare()
    comparing.compare(step=60)
    comparing.leads = True
    comparing.compare()

    assert [60] == comparing.told


def test_the_offset_of_the_wall_clock_is_measured(comparing):
    comparing.compare(took=0.2)

    assert 0.15 == pytest.approx(REGISTRY.get_sample_value("jobs_clock_offset_seconds"), abs=1e-5)
