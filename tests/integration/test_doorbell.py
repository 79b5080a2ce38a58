"""The doorbell on a real Valkey."""

import json
import math
import threading

import pytest
from dramatiq.broker import MessageProxy

from jobs_service.broker import message_for
from jobs_service.errors import NameTaken
from jobs_service.ids import new_id


def message_like(**wrong):
    """Return an encoded message that is right but for some fields."""
    right = message_for(new_id(), "csv-generation", "default", 5).asdict()
    return json.dumps(right | wrong).encode()


@pytest.fixture
def bell(broker):
    bell = broker.consume("default", prefetch=4, timeout=200)
    yield bell
    bell.close()


def ring(broker, *, priority=5, queue="default"):
    message = message_for(new_id(), "csv-generation", queue, priority)
    broker.enqueue(message)
    return message


def test_ringing_twice_leaves_one_message(broker):
    message = ring(broker)
    broker.enqueue(message)

    assert 1 == broker.waiting("default")


def test_the_most_urgent_is_popped_first_then_the_oldest(broker, bell):
    low, first, second = ring(broker, priority=0), ring(broker, priority=9), ring(broker, priority=9)
    expected = [message.message_id for message in (*sorted((first, second), key=lambda m: m.message_timestamp), low)]

    assert sorted(expected) == sorted(popped := [next(bell).message_id for _ in range(3)])
    assert low.message_id == popped[-1]


def test_an_empty_queue_gives_none_after_the_timeout(bell):
    assert next(bell) is None


def test_a_waiting_consumer_is_woken_by_the_ring(broker, bell):
    got = []
    bell.timeout_seconds = 10
    bell.client = type(bell.client)(connection_pool=_patient(bell.client))
    thread = threading.Thread(target=lambda: got.append(next(bell)))
    thread.start()

    message = ring(broker)
    thread.join(30)

    assert [message.message_id] == [proxy.message_id for proxy in got]


def test_no_more_is_popped_than_may_be_in_hand(broker, bell):
    for _ in range(6):
        ring(broker)

    in_hand = [next(bell) for _ in range(4)]

    assert next(bell) is None
    assert 2 == broker.waiting("default")
    bell.ack(in_hand[0])
    assert next(bell) is not None


@pytest.mark.parametrize("give_back", ["requeue", "drain"])
def test_popped_messages_go_back_to_their_places(broker, bell, give_back):
    """Where they stood says the job's date, not its id."""
    line = [message_for(new_id(), "csv-generation", "default", 5) for _ in range(3)]
    broker.ring("default", [(message, 1_000 - place) for place, message in enumerate(line)])
    before = broker.client.zrange(broker.key("default"), 0, -1, withscores=True)

    popped = next(bell)
    if give_back == "requeue":
        bell.requeue([popped])
    broker.draining = True
    assert next(bell) is None

    in_hand = 0 if give_back == "requeue" else 1
    assert before[in_hand:] == broker.client.zrange(broker.key("default"), 0, -1, withscores=True)


@pytest.mark.parametrize("place", [-math.inf, math.inf])
def test_a_message_that_was_put_at_infinity_is_given_back_like_any_other(broker, bell, place):
    by_hand = message_for(new_id(), "csv-generation", "default", 5)
    broker.client.zadd(broker.key("default"), {by_hand.encode(): place})
    ring(broker)

    bell.requeue([next(bell), next(bell)])

    assert 2 == broker.waiting("default")


def test_a_draining_process_hands_out_nothing_and_gives_back_what_it_has(broker, bell):
    for _ in range(3):
        ring(broker)
    next(bell)

    broker.draining = True

    assert next(bell) is None
    assert 2 == broker.waiting("default")


@pytest.mark.parametrize(
    "poison",
    [
        b"\xff\x00 not json",
        b"[]",
        b"{}",
        b'{"queue_name":"default","actor_name":"x","args":[],"kwargs":{},"options":{},"message_id":"1","message_timestamp":1}',
        b'{"queue_name":"q","actor_name":"x","args":["1"],"kwargs":{},"options":{},"message_id":"1","message_timestamp":1}',
        b"[" * 50_000,
        message_like(actor_name=[1]),
        message_like(options=None),
        message_like(options={"priority": "x"}),
    ],
)
def test_an_undecodable_message_is_set_aside_and_its_neighbours_are_not_harmed(broker, bell, poison):
    broker.client.zadd(broker.key("default"), {poison: 0})
    healthy = ring(broker)

    assert healthy.message_id == next(bell).message_id
    assert 1 == broker.client.llen(broker.keys.undecodable)


def test_what_dramatiq_would_obey_in_a_message_is_not_taken_over(broker, bell):
    """An eta would put it into a worker's memory for good, and count against what may be in hand."""
    message = message_for(new_id(), "csv-generation", "default", 5).copy(
        options={"eta": 4102444800000, "time_limit": 1}
    )
    broker.client.zadd(broker.key("default"), {message.encode(): 0})

    assert {"priority": 5} == next(bell).options


def test_a_foreign_value_in_the_queues_place_stays_and_the_bell_works_once_it_is_gone(broker, bell):
    broker.client.rpush(broker.key("default"), "x")

    assert next(bell) is None
    with pytest.raises(NameTaken, match="REDIS_PREFIX"):
        ring(broker)
    assert [b"x"] == broker.client.lrange(broker.key("default"), 0, -1)

    broker.client.delete(broker.key("default"))
    message = ring(broker)
    assert message.message_id == next(bell).message_id


def test_a_message_is_handed_out_as_of_the_queue_it_was_popped_from(broker, bell):
    broker.ring("default", [(message_for(new_id(), "csv-generation", "elsewhere", 5), 0)])

    proxy = next(bell)

    assert isinstance(proxy, MessageProxy)
    assert "default" == proxy.queue_name


def _patient(client):
    pool = client.connection_pool
    pool.connection_kwargs["socket_timeout"] = 20
    return pool
