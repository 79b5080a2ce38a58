"""A queue that is full, or whose Redis does not answer, is left to the relay for a while, without another look."""

from types import SimpleNamespace

import pytest
import redis

from jobs_service import circuit_breaker
from jobs_service.broker import publisher as module
from jobs_service.broker.publisher import COUNT_SECONDS, LEAVE_SECONDS, Publisher
from jobs_service.errors import BrokerUnavailable
from jobs_service.ids import new_id
from jobs_service.jobs.lifecycle import NewJob


class Broker:
    """Counts how often a queue is looked at. Its window has room for one message of each priority."""

    window = 1

    def __init__(self):
        self.looks = 0
        self.published = 0
        self.waiting = [0] * 10
        self.is_down = False
        #: What the error of a Redis that is down comes from.
        self.cause = None

    def waiting_from(self, queue, job_type):  # noqa: ARG002
        self.looks += 1
        self._fail_if_down()
        return self.waiting

    def publish(self, queue, messages):  # noqa: ARG002
        self.published += 1
        self._fail_if_down()

    def _fail_if_down(self):
        if self.is_down:
            raise BrokerUnavailable("connection refused") from self.cause


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def publisher(broker):
    return Publisher(broker)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = SimpleNamespace(seconds=1_000.0)
    clock.monotonic = lambda: clock.seconds
    monkeypatch.setattr(circuit_breaker, "time", clock)
    monkeypatch.setattr(module, "time", clock)
    return clock


def may_publish(publisher, *, queue="default", priority=5):
    return publisher.may_publish(queue, "csv-generation", priority)


def publish(publisher):
    job = NewJob(id=new_id(), type="csv-generation", queue="default", payload="{}", priority=5, max_attempts=1)
    return not publisher.publish([(job, SimpleNamespace(due_ms=0))])


def test_a_queue_with_room_is_counted_only_now_and_then(publisher, broker, clock):
    assert [True, True] == [may_publish(publisher), may_publish(publisher)]
    assert 1 == broker.looks

    clock.seconds += COUNT_SECONDS
    assert may_publish(publisher)
    assert 2 == broker.looks


def test_a_full_window_is_left_to_the_relay_and_other_priorities_are_not(publisher, broker, clock):
    broker.waiting[5] = 1
    assert [False, True] == [may_publish(publisher), may_publish(publisher, priority=9)]

    broker.waiting[5] = 0
    clock.seconds += LEAVE_SECONDS / 2
    assert not may_publish(publisher)
    clock.seconds += LEAVE_SECONDS / 2
    assert may_publish(publisher)


def test_while_redis_does_not_answer_a_queue_is_not_looked_at(publisher, broker, clock):
    broker.is_down = True
    assert [False] * 4 == [may_publish(publisher, priority=priority) for priority in (5, 5, 9, 0)]
    assert 1 == broker.looks

    broker.is_down = False
    clock.seconds += LEAVE_SECONDS
    assert may_publish(publisher)


def test_after_a_message_that_redis_did_not_take_the_queue_is_left_to_the_relay(publisher, broker):
    assert may_publish(publisher)
    broker.is_down = True

    assert not publish(publisher)
    assert not may_publish(publisher)
    assert may_publish(publisher, queue="mails") is False  # each queue finds out by itself
    assert 2 == broker.looks


@pytest.mark.parametrize("cause", [redis.ConnectionError, redis.TimeoutError])
def test_where_redis_itself_is_away_one_look_is_enough_for_all_queues(publisher, broker, clock, cause):
    """One thread looks for all of them, and each look may last as long as Redis may take to answer."""
    assert may_publish(publisher)
    broker.is_down, broker.cause = True, cause()

    jobs = [
        NewJob(id=new_id(), type="csv-generation", queue=queue, payload="{}", priority=5, max_attempts=1)
        for queue in ("default", "mails", "default")
    ]
    errors = publisher.publish([(job, SimpleNamespace(due_ms=0)) for job in jobs])

    assert {"default": "connection refused", "mails": "connection refused"} == errors
    assert 1 == broker.published
    assert not may_publish(publisher, queue="mails")
    assert 1 == broker.looks
    clock.seconds += LEAVE_SECONDS
    broker.is_down = False
    assert may_publish(publisher, queue="mails")


def test_messages_of_one_queue_go_together(publisher, broker):
    jobs = [
        NewJob(id=new_id(), type="csv-generation", queue=queue, payload="{}", priority=5, max_attempts=1)
        for queue in ("default", "mails", "default")
    ]

    assert {} == publisher.publish([(job, SimpleNamespace(due_ms=0)) for job in jobs])
    assert 2 == broker.published
