"""Whether Redis can be used: nobody waits long for the answer, and it says since when."""

import asyncio
from threading import Event

import pytest

from jobs_service.api.resources import attention
from jobs_service.api.resources.attention import RedisWatch


@pytest.fixture
def states(monkeypatch):
    """What the looks at Redis find, one after the other."""
    states = []
    monkeypatch.setattr(attention, "state_of_redis", lambda broker, queues: states.pop(0))  # noqa: ARG005
    return states


def test_trouble_has_the_time_at_which_it_was_first_seen(states):
    states += ["ok", "refused", "silent", "ok", "refused"]

    async def look():
        watch = RedisWatch(None, [])
        return [await watch.trouble() for _ in range(5)]

    fine, first, second, mended, again = asyncio.run(look())

    assert (None, None) == (fine, mended)
    assert ("refused", "silent") == (first.text, second.text)
    assert first.since == second.since != again.since


def test_nobody_waits_for_a_silent_redis(monkeypatch):
    """Until it is known what is wrong, what was known before counts."""
    answers = Event()

    def silent(broker, queues):  # noqa: ARG001
        answers.wait()
        return "does not answer"

    monkeypatch.setattr(attention, "state_of_redis", silent)
    monkeypatch.setattr(attention, "REDIS_SECONDS", 0.01)

    async def look():
        watch = RedisWatch(None, [])
        try:
            unknown = [await watch.trouble() for _ in range(3)]
        finally:
            answers.set()
        while not (trouble := await watch.trouble()):
            pass
        return unknown, trouble

    unknown, trouble = asyncio.run(look())

    assert [None] * 3 == unknown
    assert "does not answer" == trouble.text
