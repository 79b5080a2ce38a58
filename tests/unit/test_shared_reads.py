"""A read that is shared by those who ask at the same time."""

import asyncio

import pytest

from jobs_service.api.resources import shared_reads
from jobs_service.api.resources.shared_reads import SharedRead


class Source:
    """Something that is read: it answers when it is let."""

    def __init__(self):
        self.calls = 0
        self.may_answer = asyncio.Event()

    async def read(self):
        self.calls += 1
        await self.may_answer.wait()
        return self.calls


def test_those_who_wait_at_the_same_time_share_a_read():
    async def ask():
        source = Source()
        shared = SharedRead(source.read)
        asked = [asyncio.create_task(shared.get()) for _ in range(3)]
        await asyncio.sleep(0)
        asked[0].cancel()
        source.may_answer.set()
        return await asyncio.gather(*asked, return_exceptions=True), await shared.get()

    (first, *others), later = asyncio.run(ask())

    # Who goes away does not take the answer from the others.
    assert isinstance(first, asyncio.CancelledError)
    assert ([1, 1], 2) == (others, later)


def test_a_slow_result_is_kept(monkeypatch):
    monkeypatch.setattr(shared_reads, "QUICK_SECONDS", -1)
    monkeypatch.setattr(shared_reads, "KEPT_TIMES", 1e9)

    async def ask():
        source = Source()
        source.may_answer.set()
        shared = SharedRead(source.read)
        return [await shared.get() for _ in range(3)]

    assert [1, 1, 1] == asyncio.run(ask())


def test_while_a_slow_result_is_read_anew_callers_get_the_last_one(monkeypatch):
    monkeypatch.setattr(shared_reads, "QUICK_SECONDS", -1)
    clock = [100.0]
    monkeypatch.setattr(shared_reads.time, "monotonic", lambda: clock[0])

    async def ask():
        source = Source()
        source.may_answer.set()

        async def read():
            clock[0] += 0.25  # it is kept for 5 s, and shown for as long again
            return await source.read()

        shared = SharedRead(read)
        answers = [await shared.get()]
        clock[0] += 6
        source.may_answer.clear()
        answers += [await shared.get(), await shared.get()]
        source.may_answer.set()
        await asyncio.sleep(0)
        answers.append(await shared.get())
        clock[0] += 11
        answers.append(await shared.get())
        return answers, source.calls

    assert ([1, 1, 1, 2, 3], 3) == asyncio.run(ask())


def test_an_error_is_everyones_and_is_not_kept():
    async def ask():
        outcomes = [OSError("away"), OSError("still"), "answer"]

        async def read():
            outcome = outcomes.pop(0)
            if isinstance(outcome, OSError):
                raise outcome
            return outcome

        shared = SharedRead(read)
        for sentence in ("away", "still"):
            with pytest.raises(OSError, match=sentence):
                await shared.get()
        return await shared.get()

    assert "answer" == asyncio.run(ask())


def test_after_an_error_no_earlier_result_is_shown(monkeypatch):
    monkeypatch.setattr(shared_reads, "QUICK_SECONDS", -1)
    clock = [100.0]
    monkeypatch.setattr(shared_reads.time, "monotonic", lambda: clock[0])

    async def ask():
        outcomes = ["answer", OSError("away"), OSError("still")]

        async def read():
            clock[0] += 0.25
            outcome = outcomes.pop(0)
            if isinstance(outcome, OSError):
                raise outcome
            return outcome

        shared = SharedRead(read)
        answers = [await shared.get()]
        clock[0] += 6
        answers.append(await shared.get())
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="still"):
            await shared.get()
        return answers

    assert ["answer", "answer"] == asyncio.run(ask())
