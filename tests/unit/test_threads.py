"""What blocks runs beside the event loop, in the caller's context, and does not pile up."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from jobs_service.api.resources.database import DatabaseResource
from jobs_service.api.threads import Threads
from jobs_service.errors import DatabaseUnavailable, TooBusy

name = ContextVar("name", default="")


def test_a_call_has_the_context_of_its_caller_and_leaves_it_as_it_is():
    def call(more):
        found = name.get()
        name.set("the call's")
        return found + more, threading.current_thread()

    async def ask(threads, said):
        name.set(said)
        found, thread = await threads.run(call, more="!")
        assert threading.current_thread() is not thread
        return found, name.get()

    async def scenario():
        threads = Threads(1)
        return await asyncio.gather(ask(threads, "a"), ask(threads, "b"))

    assert asyncio.run(scenario()) == [("a!", "a"), ("b!", "b")]


def test_an_error_is_the_callers():
    async def scenario():
        await Threads(1).run(int, "x")

    with pytest.raises(ValueError, match="'x'"):
        asyncio.run(scenario())


def test_more_calls_than_may_wait_are_refused_until_one_has_ended():
    go = threading.Event()

    async def scenario():
        threads = Threads(2, max_waiting=1)
        calls = [asyncio.create_task(threads.run(go.wait, 60)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(TooBusy):
            await threads.run(go.wait, 60)
        # One that waits is given up by its caller, one that has begun as well: that holds its place until it ends.
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        go.set()
        assert await threads.run(go.wait, 60)

    asyncio.run(scenario())


class Away:
    def refusal(self):
        return "no answer"


def test_a_database_that_is_known_not_to_answer_is_not_asked():
    resource = DatabaseResource(Away(), Threads(1))

    with pytest.raises(DatabaseUnavailable, match="no answer"):
        asyncio.run(resource.run(pytest.fail, "it was asked"))
