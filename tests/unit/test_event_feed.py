"""What a stream sends while things happen at the same time: nothing is skipped where it is cut short."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from event_source import Parser

from jobs_service.api.event_feed import MAX_UNREAD_BYTES, Filter, Joined, Stream, Told
from jobs_service.api.resources.event_streams import Session
from jobs_service.jobs.event_log import Gap, JobEvent, JobState, Page, Position, Snapshot, Tokens

HERE = Snapshot(100, frozenset())
NOW = Snapshot(200, frozenset())


def event(number, *, status="processing", xact=150):
    return JobEvent(
        xact=xact,
        place=(number, 0),
        name="progress",
        job_id="j",
        type="t",
        queue="q",
        status=status,
        attempt=number,
        at="2026-11-26T09:30:00.000Z",
    )


def page(position, *numbers, is_full=False, gap=None):
    events = [event(number) for number in numbers]
    return Page(NOW, events, {}, Tokens.of("ab", HERE, NOW), position, is_full=is_full, gap=gap)


class FakeFeed:
    """A feed in which a client has missed these pages. `meanwhile` is called when a page is read."""

    hidden = ()

    def __init__(self, *pages, status="processing"):
        self.is_over = False
        self.position = None
        self.pages = list(pages)
        self.status = status
        self.meanwhile = lambda: None

    @asynccontextmanager
    async def place(self, watcher):  # noqa: ARG002 - as the feed has it
        yield

    async def missed(self, position, job_id):  # noqa: ARG002 - as above
        self.meanwhile()
        return self.pages.pop(0)

    async def join(self, watcher):
        watcher.since = NOW
        state = JobState(job_id="j", type="t", queue="q", status=self.status, attempt=9, at="2026-11-26T09:30:00.000Z")
        return Joined(Position("ab", NOW), state)


def sent(feed, stream, position):
    """Return what a client gets, and the id with which it resumes."""

    async def collect():
        return [block.serialize() async for block in Session(feed, stream, position).blocks()]

    parser = Parser()
    lines = b"".join(asyncio.run(collect())).decode().split("\n")
    messages = [message for line in lines if (message := parser.feed(line))]
    return [(message.name, message.data.get("attempt")) for message in messages], parser.last_event_id


@pytest.fixture
def stream():
    return Stream("j", Filter())


def at(number):
    return Position("ab", HERE, NOW, (number, 2**31))


def test_what_was_missed_comes_before_the_state(stream):
    feed = FakeFeed(page(at(2), 1, 2, is_full=True), page(Position("ab", NOW), 3), status="completed")

    told, last_id = sent(feed, stream, Position("ab", HERE))

    assert [("progress", 1), ("progress", 2), ("progress", 3)] == told
    assert Position("ab", NOW).token() == last_id


def test_a_stop_while_a_client_catches_up_skips_nothing(stream):
    feed = FakeFeed(page(at(2), 1, 2, is_full=True), page(at(4), 3, 4, is_full=True))

    def stop():
        feed.is_over = len(feed.pages) == 1

    feed.meanwhile = stop
    told, last_id = sent(feed, stream, Position("ab", HERE))

    assert [1, 2, 3, 4][: len(told)] == [number for _, number in told]
    assert Position.of_token(last_id).place == (told[-1][1], 0)


def test_a_client_that_reads_too_slowly_while_it_catches_up_skips_nothing(stream):
    feed = FakeFeed(page(at(2), 1, 2, is_full=True), page(at(4), 3, 4, is_full=True))

    def overflow():
        for number in range(MAX_UNREAD_BYTES // 100):
            stream.take(Told(event(number, xact=300), Tokens.of("ab", NOW, NOW)))

    feed.meanwhile = overflow
    told, last_id = sent(feed, stream, Position("ab", HERE))

    assert stream.was_dropped
    assert [("progress", 1), ("progress", 2)] == told
    assert Position.of_token(last_id).place == (2, 0)


def test_a_job_that_ends_while_a_client_catches_up_is_told_last(stream):
    feed = FakeFeed(page(at(2), 1, 2, is_full=True), page(Position("ab", NOW), 3))
    ends = Told(event(7, status="completed", xact=300), Tokens.of("ab", NOW, NOW))
    feed.meanwhile = lambda: stream.take(ends)

    told, _ = sent(feed, stream, Position("ab", HERE))

    assert [1, 2, 3, 7] == [number for _, number in told]


def test_after_a_gap_comes_the_state(stream):
    feed = FakeFeed(page(Position("ab", NOW), gap=Gap.EXPIRED), status="failed")

    told, last_id = sent(feed, stream, Position("ab", HERE))

    assert [("reset", None), ("state", 9)] == told
    assert Position("ab", NOW).token() == last_id


def test_a_filter_leaves_canaries_out_unless_it_names_them():
    hidden = {"t"}

    assert not Filter().matches(event(1), hidden)
    assert Filter(type="t").matches(event(1), hidden)
    assert Filter().matches(event(1), ())
    assert not Filter(queue="other").matches(event(1), ())
    assert not Filter(status="completed").matches(event(1), ())
