"""PostgreSQL's clock beside a steady one: what is a step, what is an answer that took its time, and who tells."""

import pytest
from prometheus_client import REGISTRY

from jobs_service.errors import DatabaseUnavailable
from jobs_service.metrics import clock as clock_module
from jobs_service.metrics.clock import ASK_AGAIN_SECONDS, DatabaseClock, DatabaseTime


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


class Telling:
    """A database whose clock is so far ahead of the steady one, and whose answers take their time."""

    def __init__(self):
        self.steady = 100.0
        self.ahead = 1_700_000_000.0
        self.asked = 0
        self.took = (0.0, 0.0)
        self.time = DatabaseTime(self.ask, steady=lambda: self.steady)

    def ask(self):
        """Answer after so many seconds there and so many back."""
        self.asked += 1
        self.steady += self.took[0]
        said = self.steady + self.ahead
        self.steady += self.took[1]
        return said

    def answer(self, there, back):
        """An answer that comes anyway."""
        asked_at, self.took = self.steady, (there, back)
        said = self.ask()
        self.asked -= 1
        self.time.learn(said, asked_at=asked_at, answered_at=self.steady)

    @property
    def error(self):
        return self.time.now() - (self.steady + self.ahead)


@pytest.fixture
def telling():
    return Telling()


def test_the_time_is_asked_for_once_and_goes_on_by_itself(telling):
    for _ in range(3):
        telling.steady += 100
        assert 0 == pytest.approx(telling.error, abs=1e-6)

    assert 1 == telling.asked


def test_the_time_is_asked_for_again_after_a_while_without_answers(telling):
    telling.time.now()
    telling.steady += ASK_AGAIN_SECONDS + 1
    telling.time.now()
    assert 2 == telling.asked

    for _ in range(5):
        telling.steady += ASK_AGAIN_SECONDS / 2
        telling.answer(0.001, 0.001)
        telling.time.now()
    assert 2 == telling.asked


@pytest.mark.parametrize(("there", "back"), [(4.0, 0.0), (0.0, 4.0), (1.0, 3.0)])
def test_a_slow_answer_does_not_spoil_what_a_quick_one_said(telling, there, back):
    telling.answer(0.001, 0.001)

    telling.answer(there, back)

    assert abs(telling.error) <= 0.001 + 1e-3


def test_slow_answers_say_more_together_than_each(telling):
    telling.answer(1.0, 0.0)
    telling.answer(0.0, 1.0)

    assert abs(telling.error) <= 1e-3


@pytest.mark.parametrize("seconds", [3_600, -3_600, 2, -2])
def test_a_clock_that_was_set_is_believed_at_its_next_answer(telling, seconds):
    telling.answer(0.001, 0.001)
    telling.ahead += seconds

    telling.answer(0.01, 0.01)

    assert abs(telling.error) <= 0.01


def test_a_drift_is_followed(telling):
    """So slow that each answer alone agrees with what is known."""
    for _ in range(1_000):
        telling.steady += 60
        telling.ahead += 60 * 0.00005
        telling.answer(0.002, 0.002)

    assert abs(telling.error) <= 0.01


def test_what_asking_raises_is_raised():
    def fail():
        raise DatabaseUnavailable("away")

    with pytest.raises(DatabaseUnavailable):
        DatabaseTime(fail).now()


def test_an_estimate_never_asks(telling):
    assert telling.time.estimate() is None
    assert telling.time.now() == telling.time.estimate()
    telling.steady += ASK_AGAIN_SECONDS + 1
    assert telling.time.estimate() is None

    assert 1 == telling.asked
