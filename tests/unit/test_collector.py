"""The looks at the truth: one at a time, each failing alone, none for ever."""

from threading import Barrier, Thread

import pytest

from jobs_service.metrics import collector
from jobs_service.metrics.collector import ScrapeCollector


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 1_000.0

        def monotonic(self):
            return self.now

        def time(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(collector, "time", clock)
    return clock


def answers(truth, name="jobs_collector_success"):
    [family] = [family for family in truth.collect() if family.name == name]
    return {sample.labels["collector"]: sample.value for sample in family.samples}


def fail():
    raise RuntimeError("no answer")


def test_a_storm_of_scrapes_looks_once():
    looks, together = [], Barrier(8)
    truth = ScrapeCollector({"jobs": lambda: looks.append(1) or []})

    def scrape():
        together.wait()
        truth.collect()

    threads = [Thread(target=scrape) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [1] == looks


def test_one_that_fails_is_said_to_have_and_the_others_are_seen(clock):
    truth = ScrapeCollector({"jobs": fail, "redis": list})

    assert {"jobs": 0, "redis": 1} == answers(truth)
    assert {"jobs": 0, "redis": clock.now} == answers(truth, "jobs_collector_last_success_timestamp_seconds")


def test_when_the_time_is_over_no_further_look_is_begun(clock):
    def take_long():
        clock.now += collector.BUDGET_SECONDS + 1
        return []

    assert {"jobs": 1, "redis": 0} == answers(ScrapeCollector({"jobs": take_long, "redis": list}))


@pytest.mark.parametrize(("took", "kept"), [(0.01, 2), (1, 20), (4, 60)])
def test_an_answer_that_took_long_is_kept_for_longer(clock, took, kept):
    looks = []

    def look():
        looks.append(1)
        clock.now += took
        return []

    truth = ScrapeCollector({"jobs": look})
    truth.collect()

    clock.now += kept - 0.001
    truth.collect()
    assert [1] == looks
    clock.now += 0.001
    truth.collect()
    assert [1, 1] == looks


def test_what_failed_is_soon_tried_again(clock):
    def fail_slowly():
        clock.now += 4
        raise RuntimeError("no answer")

    truth = ScrapeCollector({"jobs": fail_slowly})
    truth.collect()
    clock.now += collector.CACHE_SECONDS
    before = clock.now
    truth.collect()

    assert clock.now == before + 4
