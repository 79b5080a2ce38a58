"""Silence by counters, on a clock of the test's own."""

from uuid import UUID

import pytest
from rows import ManualClock

from jobs_service.maintenance.liveness import Liveness

WORKER, OTHER = UUID(int=1), UUID(int=2)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def liveness(clock):
    return Liveness(lease_seconds=15, heartbeat_interval_seconds=5, clock=clock)


def looks(liveness, clock, *intervals, **beats):
    """Look at a counter that stands still after each of the intervals."""
    for seconds in intervals:
        clock.advance(seconds)
        liveness.look({WORKER: beats.get("beats", 7)})


def test_a_counter_that_stands_still_for_a_lease_is_silent(liveness, clock):
    looks(liveness, clock, 0, 5, 5)
    assert {} == liveness.silent()

    looks(liveness, clock, 5)
    assert {WORKER: 7} == liveness.silent()


def test_looks_may_come_as_often_as_they_like(liveness, clock):
    looks(liveness, clock, 0, *[0.5] * 29)
    assert {} == liveness.silent()

    looks(liveness, clock, 0.5)
    assert {WORKER: 7} == liveness.silent()


def test_a_beat_begins_anew(liveness, clock):
    looks(liveness, clock, 0, 5, 5)
    looks(liveness, clock, 5, beats=8)
    looks(liveness, clock, 5, 5, beats=8)

    assert {} == liveness.silent()


def test_a_counter_that_goes_back_lives_too(liveness, clock):
    """A row that was cleared away and is written again counts from the start."""
    looks(liveness, clock, 0, 5, 5)
    looks(liveness, clock, 5, beats=0)

    assert {} == liveness.silent()


@pytest.mark.parametrize("heartbeat", [0.2, 5, 7.5])
def test_after_an_outage_the_living_get_to_beat(clock, heartbeat):
    """Who had just been about to beat when nobody could any more is not silent at the first look after it."""
    liveness = Liveness(lease_seconds=15, heartbeat_interval_seconds=heartbeat, clock=clock)
    looks(liveness, clock, 0, heartbeat, 3_600)

    assert {} == liveness.silent()
    # Part of the lease is left for the beat.
    assert liveness.seconds_to_next() >= 0.3 * (15 - heartbeat)


def test_a_silence_goes_on_where_every_look_is_late(liveness, clock):
    looks(liveness, clock, 0, 60, 60)
    assert {} == liveness.silent()

    looks(liveness, clock, 60)
    assert {WORKER: 7} == liveness.silent()


def test_who_is_not_there_any_more_is_forgotten(liveness, clock):
    looks(liveness, clock, 0, 5, 5, 5)
    liveness.look({})

    looks(liveness, clock, 5)
    assert {} == liveness.silent()


def test_each_is_watched_alone(liveness, clock):
    for beats in range(4):
        liveness.look({WORKER: 7, OTHER: beats, None: None})
        clock.advance(5)

    assert {WORKER: 7, None: None} == liveness.silent()
    assert {} == liveness.silent(150)


def test_the_next_silence_is_foreseen(liveness, clock):
    assert float("inf") == liveness.seconds_to_next()

    looks(liveness, clock, 0, 4)
    assert 11 == liveness.seconds_to_next()

    looks(liveness, clock, 5, 6)
    assert float("inf") == liveness.seconds_to_next()
