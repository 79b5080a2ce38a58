"""docs/events.md and the code name the same events; and a subscriber that fails is announced, and undoes nothing."""

import re
from pathlib import Path

import pytest

from jobs_service import events
from jobs_service.events import BreakerClosed, BreakerOpened, Event, SubscriberFailed
from jobs_service.observability import logs

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def test_the_page_has_a_row_for_every_event_with_its_level_and_its_facts():
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| ([\w, ]+) \|", PAGE, re.MULTILINE)

    assert {text: (level, set(facts.split(", "))) for text, level, facts in rows} == {
        event.text: (logs.LEVELS.get(event, "info"), set(event.__struct_fields__)) for event in classes(Event)
    }


def test_no_two_events_have_one_text():
    texts = [event.text for event in classes(Event)]

    assert len(texts) == len(set(texts))


def fail(event):
    raise OSError(f"no space left for {event}")


@pytest.fixture
def announced(monkeypatch):
    """What is heard by a subscriber that comes after one that fails at everything."""
    announced = []
    monkeypatch.setattr(events, "_subscribers", [])
    events.subscribe("metrics", fail)
    events.subscribe("tracing", announced.append)
    return announced


def test_a_subscriber_that_fails_at_everything_keeps_nothing_from_the_others(announced):
    opened = BreakerOpened(breaker="smtp://mail")

    events.emit(opened)

    assert [SubscriberFailed(subscriber="metrics", error="OSError"), opened] == announced


def test_a_subscriber_that_fails_at_one_event_hears_of_it(monkeypatch):
    heard = []

    def subscriber(event):
        if isinstance(event, BreakerOpened):
            fail(event)
        heard.append(event)

    monkeypatch.setattr(events, "_subscribers", [("metrics", subscriber)])

    events.emit(BreakerOpened(breaker="smtp://mail"))

    assert [SubscriberFailed(subscriber="metrics", error="OSError")] == heard


def test_a_subscriber_that_goes_on_failing_is_logged_once_a_minute(announced, log_lines, monkeypatch):
    assert announced == []
    logged_at = {}
    monkeypatch.setattr(logs, "_failures_logged_at", logged_at)
    events.subscribe("logs", logs.log_event)

    for _ in range(3):
        events.emit(BreakerClosed(breaker="smtp://mail"))
    told = [line for line in log_lines() if line["event"] == SubscriberFailed.text]
    logged_at["metrics"] -= logs.SUBSCRIBER_FAILED_SECONDS
    events.emit(BreakerClosed(breaker="smtp://mail"))

    assert [("metrics", "OSError", "error")] == [(line["subscriber"], line["error"], line["level"]) for line in told]
    assert 2 == [line["event"] for line in log_lines()].count(SubscriberFailed.text)
    assert 4 == [line["event"] for line in log_lines()].count(BreakerClosed.text)


def classes(base):
    """Return the classes that are events themselves, and not what several have in common."""
    derived = base.__subclasses__()
    return [found for each in derived for found in classes(each)] if derived else [base]
