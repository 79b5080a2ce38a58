"""The time limit interrupts the actor, and nothing after it."""

import threading

import pytest
from dramatiq.broker import MessageProxy
from dramatiq.middleware import TimeLimitExceeded

from jobs_service.broker.redis import message_for
from jobs_service.ids import new_id
from jobs_service.worker.middleware.time_limit import StrictTimeLimit, _interrupt_overdue


@pytest.fixture
def limit():
    return StrictTimeLimit(time_limit=1)


@pytest.fixture
def message():
    return MessageProxy(message_for(new_id(), "t", "default", 5))


def test_an_overdue_thread_is_interrupted(limit):
    limit.manager.add_timeout(threading.get_ident(), 0)

    with pytest.raises(TimeLimitExceeded):
        _interrupt_and_wait(limit)


def test_an_actor_that_has_just_ended_is_not_interrupted_in_a_hook(limit, message, monkeypatch):
    """The worst moment: the deadline passes between the actor's end and the hook that takes it off the list."""
    limit.manager.add_timeout(threading.get_ident(), 0)
    remove = limit.manager.remove_timeout

    def remove_late(thread_id):
        _interrupt_overdue(limit.manager)
        remove(thread_id)

    monkeypatch.setattr(limit.manager, "remove_timeout", remove_late)

    limit.after_process_message(None, message)


def _interrupt_and_wait(limit):
    _interrupt_overdue(limit.manager)
    for _ in range(1_000):
        threading.get_ident()
