"""What the console makes of queues: how urgent one is, its bar, and pages of lists."""

import pytest

from jobs_service.api.console.formats import prose, query
from jobs_service.api.console.listing import Slice
from jobs_service.api.console.queues import BAR_WIDTH, LEAST_WIDTH, QueueView, bar

DEPTH = dict.fromkeys(("due", "scheduled", "retrying", "deferred", "processing", "failed"), 0)


def queue(*, name="default", depth=None, **facts):
    """Return a queue that is on time, except for `facts`."""
    known = {
        "oldest_waiting_seconds": 1.0,
        "target_seconds": 60.0,
        "live_workers": 1,
        "paused": None,
        "submitted_per_minute": 0.0,
        "completed_per_minute": 0.0,
        "failed_per_minute": 0.0,
        "by_type": [],
        "job_types": [],
    }
    return QueueView(known | {"name": name, "depth": DEPTH | (depth or {"due": 1})} | facts)


PAUSED = {"by": "b", "since": "2026-11-26T09:30:00.000Z", "reason": "r"}


@pytest.mark.parametrize(
    ("facts", "condition"),
    [
        ({}, "on-time"),
        ({"oldest_waiting_seconds": 60.1}, "late"),
        ({"oldest_waiting_seconds": 60.0}, "on-time"),
        ({"oldest_waiting_seconds": 60.1, "live_workers": 0}, "unserved"),
        ({"depth": {"scheduled": 3}, "oldest_waiting_seconds": None, "live_workers": 0}, "idle-unserved"),
        ({"oldest_waiting_seconds": 60.1, "live_workers": 0, "paused": PAUSED}, "paused"),
        ({"depth": {"scheduled": 3}, "oldest_waiting_seconds": None}, "idle"),
        ({"depth": {"processing": 1}, "oldest_waiting_seconds": None}, "on-time"),
        ({"depth": {"failed": 1}, "oldest_waiting_seconds": None, "completed_per_minute": 0.2}, "on-time"),
    ],
)
def test_the_condition_of_a_queue(facts, condition):
    assert condition == queue(**facts).condition


def test_the_most_urgent_queues_come_first_and_the_others_by_name():
    queues = [
        queue(name="a"),
        queue(name="b", depth={"scheduled": 1}),
        queue(name="c", paused=PAUSED),
        queue(name="d", oldest_waiting_seconds=61),
        queue(name="e", live_workers=0),
        queue(name="A", depth={"scheduled": 1}),
    ]

    assert ["e", "d", "c", "A", "a", "b"] == [found.name for found in sorted(queues, key=lambda found: found.urgency)]


def test_a_queue_grows_when_more_come_in_than_end():
    assert queue(submitted_per_minute=2.0, completed_per_minute=1.0, failed_per_minute=0.5).is_growing
    assert not queue(submitted_per_minute=2.0, completed_per_minute=1.0, failed_per_minute=1.0).is_growing
    assert not queue(submitted_per_minute=2.0, depth={"scheduled": 1}).is_growing


def test_a_bar_has_a_part_that_can_be_seen_for_each_state_that_there_is():
    parts = bar(DEPTH | {"due": 1_000_000, "failed": 1})

    assert ["due", "failed"] == [part.state for part in parts]
    assert parts[-1].width >= LEAST_WIDTH * 0.9
    assert parts[-1].x + parts[-1].width == pytest.approx(BAR_WIDTH, abs=0.2)
    assert [] == bar(DEPTH)


@pytest.mark.parametrize(
    ("number", "items", "first", "last"), [(1, [0, 1, 2], 1, 3), (2, [3, 4, 5], 4, 6), (3, [6], 7, 7), (99, [6], 7, 7)]
)
def test_a_page_of_a_list(number, items, first, last):
    page = Slice.of(range(7), 3, number)

    assert (items, 7, 3) == (list(page.items), page.total, page.last)
    assert (first, last) == (page.first_item, page.last_item)


def test_a_list_without_items_is_one_page():
    assert (1, 1, 0) == (Slice.of([], 3).last, Slice.of([], 3).number, Slice.of([], 3).last_item)


def test_the_query_of_a_url_has_no_empty_parameters():
    assert "q=a%26b&page=2" == query({"q": "a&b", "state": "", "page": 1}, page=2)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Use `a<b`.", "Use <code>a&lt;b</code>."),
        ("a ` b <i>", "a ` b &lt;i&gt;"),
        ("`x`", "<code>x</code>"),
        ("", ""),
    ],
)
def test_names_between_backticks_are_code(text, html):
    assert html == prose(text)
