"""Calls that meet are carried out together; each gets its own outcome."""

import threading

import pytest

from jobs_service.database.group_commit import Batch
from jobs_service.errors import DatabaseUnavailable


class Recorder:
    """Doubles numbers; holds its first run until it is let go, so that others gather behind it."""

    def __init__(self):
        self.runs = []
        self.started, self.go = threading.Event(), threading.Event()

    def __call__(self, items):
        self.runs.append(list(items))
        self.started.set()
        self.go.wait(5)
        if "bad" in items:
            raise ValueError("bad")
        if "away" in items:
            raise DatabaseUnavailable("away")
        return [item * 2 for item in items]


@pytest.fixture
def recorder():
    return Recorder()


def gather(batch, recorder, items):
    """Call with the first item, let the others queue up behind it, and return all outcomes."""
    outcomes = {}

    def call(item):
        try:
            outcomes[item] = batch(item)
        except (ValueError, DatabaseUnavailable) as error:
            outcomes[item] = error

    threads = [threading.Thread(target=call, args=(item,)) for item in items]
    threads[0].start()
    recorder.started.wait(5)
    for thread in threads[1:]:
        thread.start()
    while len(batch._waiting) < len(items) - 1:
        pass
    recorder.go.set()
    for thread in threads:
        thread.join(5)
    return outcomes


def test_a_call_that_meets_nobody_runs_at_once_and_alone(recorder):
    recorder.go.set()

    assert 2 == Batch(recorder)(1)
    assert [[1]] == recorder.runs


def test_calls_that_arrive_meanwhile_share_the_next_run(recorder):
    outcomes = gather(Batch(recorder), recorder, [1, 2, 3, 4])

    assert {1: 2, 2: 4, 3: 6, 4: 8} == outcomes
    assert [1, 3] == [len(run) for run in recorder.runs]


def test_a_bad_item_does_not_fail_its_neighbours(recorder):
    outcomes = gather(Batch(recorder), recorder, [1, "bad", 3])

    assert (2, 6) == (outcomes[1], outcomes[3])
    assert isinstance(outcomes["bad"], ValueError)


def test_a_silent_database_is_told_to_everybody_at_once(recorder):
    outcomes = gather(Batch(recorder), recorder, [1, "away", 3])

    assert isinstance(outcomes["away"], DatabaseUnavailable)
    assert isinstance(outcomes[3], DatabaseUnavailable)
    assert 2 == len(recorder.runs)


def test_many_threads_lose_and_double_nothing(recorder):
    recorder.go.set()
    batch = Batch(recorder)
    results = []

    def work(start):
        results.extend(batch(start + n) for n in range(200))

    threads = [threading.Thread(target=work, args=(start * 1000,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    expected = sorted((start * 1000 + n) * 2 for start in range(8) for n in range(200))
    assert expected == sorted(results)
    assert 1600 == sum(len(run) for run in recorder.runs)
    assert not batch._waiting
    assert not batch._busy
