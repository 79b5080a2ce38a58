"""The doorbell on a real Valkey."""

import json
import math
import threading

import pytest
from dramatiq.broker import MessageProxy
from eventually import eventually

from jobs_service.broker.redis import message_for
from jobs_service.errors import NameTaken
from jobs_service.ids import new_id


def message_like(**wrong):
    """Return an encoded message that is right but for some fields."""
    right = message_for(new_id(), "csv-generation", "default", 5).asdict()
    return json.dumps(right | wrong).encode()


@pytest.fixture
def consumer(broker):
    consumer = broker.consume("default", prefetch=4, timeout=200)
    yield consumer
    consumer.close()


def publish(broker, *, priority=5, queue="default"):
    message = message_for(new_id(), "csv-generation", queue, priority)
    broker.enqueue(message)
    return message


def test_publishing_twice_leaves_one_message(broker):
    message = publish(broker)
    broker.enqueue(message)

    assert 1 == broker.waiting("default")


def test_the_most_urgent_is_popped_first_then_the_oldest(broker, consumer):
    low, first, second = publish(broker, priority=0), publish(broker, priority=9), publish(broker, priority=9)
    expected = [message.message_id for message in (*sorted((first, second), key=lambda m: m.message_timestamp), low)]

    assert sorted(expected) == sorted(popped := [next(consumer).message_id for _ in range(3)])
    assert low.message_id == popped[-1]


def test_an_empty_queue_gives_none_after_the_timeout(consumer):
    assert next(consumer) is None


def test_a_waiting_consumer_is_woken_by_a_message(broker, consumer):
    got = []
    consumer.timeout_seconds = 10
    consumer.client = type(consumer.client)(connection_pool=_patient(consumer.client))
    thread = threading.Thread(target=lambda: got.append(next(consumer)))
    thread.start()

    message = publish(broker)
    thread.join(30)

    assert [message.message_id] == [proxy.message_id for proxy in got]


def test_no_more_is_popped_than_may_be_in_hand(broker, consumer):
    for _ in range(6):
        publish(broker)

    in_hand = [next(consumer) for _ in range(4)]

    assert next(consumer) is None
    assert 2 == broker.waiting("default")
    consumer.ack(in_hand[0])
    assert next(consumer) is not None


@pytest.mark.parametrize("give_back", ["requeue", "drain"])
def test_popped_messages_go_back_to_their_places(broker, consumer, give_back):
    """Where they stood says the job's date, not its id."""
    line = [message_for(new_id(), "csv-generation", "default", 5) for _ in range(3)]
    broker.publish("default", [(message, 1_000 - place) for place, message in enumerate(line)])
    before = broker.client.zrange(broker.key("default"), 0, -1, withscores=True)

    popped = next(consumer)
    if give_back == "requeue":
        consumer.requeue([popped])
    broker.draining = True
    assert next(consumer) is None

    in_hand = 0 if give_back == "requeue" else 1
    assert before[in_hand:] == broker.client.zrange(broker.key("default"), 0, -1, withscores=True)


@pytest.mark.parametrize("place", [-math.inf, math.inf])
def test_a_message_that_was_put_at_infinity_is_given_back_like_any_other(broker, consumer, place):
    by_hand = message_for(new_id(), "csv-generation", "default", 5)
    broker.client.zadd(broker.key("default"), {by_hand.encode(): place})
    publish(broker)

    consumer.requeue([next(consumer), next(consumer)])

    assert 2 == broker.waiting("default")


def test_a_draining_process_hands_out_nothing_and_gives_back_what_it_has(broker, consumer):
    for _ in range(3):
        publish(broker)
    next(consumer)

    broker.draining = True

    assert next(consumer) is None
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
def test_an_undecodable_message_is_set_aside_and_its_neighbours_are_not_harmed(broker, consumer, poison):
    broker.client.zadd(broker.key("default"), {poison: 0})
    healthy = publish(broker)

    assert healthy.message_id == next(consumer).message_id
    assert 1 == broker.client.llen(broker.keys.undecodable)


def test_what_dramatiq_would_obey_in_a_message_is_not_taken_over(broker, consumer):
    """An eta would put it into a worker's memory for good, and count against what may be in hand."""
    message = message_for(new_id(), "csv-generation", "default", 5).copy(
        options={"eta": 4102444800000, "time_limit": 1}
    )
    broker.client.zadd(broker.key("default"), {message.encode(): 0})

    assert {"priority": 5} == next(consumer).options


def test_a_foreign_value_in_the_queues_place_stays_and_the_bell_works_once_it_is_gone(broker, consumer):
    broker.client.rpush(broker.key("default"), "x")

    assert next(consumer) is None
    with pytest.raises(NameTaken, match="REDIS_PREFIX"):
        publish(broker)
    assert [b"x"] == broker.client.lrange(broker.key("default"), 0, -1)

    broker.client.delete(broker.key("default"))
    message = publish(broker)
    assert message.message_id == next(consumer).message_id


def test_a_message_is_handed_out_as_of_the_queue_it_was_popped_from(broker, consumer):
    broker.publish("default", [(message_for(new_id(), "csv-generation", "elsewhere", 5), 0)])

    proxy = next(consumer)

    assert isinstance(proxy, MessageProxy)
    assert "default" == proxy.queue_name


MAIL, CSV = "EMAIL_SEND", "csv-generation"


@pytest.fixture
def limited(broker):
    """A consumer with four threads, of which a mail may take two."""
    broker.learn([MAIL, CSV])
    broker.limits.set(MAIL, 2)
    consumer = broker.consume("default", prefetch=4, timeout=600_000)
    consumer.client = type(consumer.client)(connection_pool=_patient(consumer.client, 600))
    yield consumer
    consumer.close()


def line_up(broker, *types, priority=5):
    """Ring for jobs that came in this order. Return their ids."""
    messages = [message_for(new_id(), job_type, "default", priority) for job_type in types]
    broker.publish("default", [(message, 1_000 + place) for place, message in enumerate(messages)])
    return [message.message_id for message in messages]


def pop(consumer, count):
    """Pop what is there; a wait for more would last longer than the test has patience."""
    return [next(consumer) for _ in range(count)]


def ids(messages):
    return [message.message_id for message in messages]


def test_what_stands_behind_a_type_at_its_limit_is_popped(broker, limited):
    line = line_up(broker, MAIL, MAIL, MAIL, MAIL, CSV, CSV)

    assert [line[0], line[1], line[4], line[5]] == ids(pop(limited, 4))
    assert 2 == broker.waiting("default")


def test_the_next_of_a_type_is_popped_in_the_place_of_one_that_is_done(broker, limited):
    line = line_up(broker, MAIL, MAIL, MAIL, CSV)
    first, *_ = pop(limited, 3)

    limited.ack(first)

    assert [line[2]] == ids(pop(limited, 1))


def test_lines_of_several_types_are_one_line_while_nobody_is_free(broker, limited):
    """By priority, then by date, whichever the type is."""
    before = pop_all(broker, limited, line_up(broker, CSV, CSV, CSV, CSV))
    line = line_up(broker, MAIL, CSV, MAIL, CSV) + line_up(broker, CSV, MAIL, priority=9)

    popped = []
    for message in before:
        limited.ack(message)
        popped += pop(limited, 1)

    assert [line[4], line[5], line[0], line[1]] == ids(popped)


def next_message(consumer):
    """Return the next message, and not that there was none."""
    return next(consumer) or next(consumer)


def pop_all(broker, consumer, line):
    messages = pop(consumer, len(line))
    assert line == ids(messages)
    assert 0 == broker.waiting("default")
    return messages


@pytest.mark.parametrize("is_there_before", [True, False])
def test_a_wait_that_leaves_out_a_type_ends_when_that_has_room_again(broker, limited, is_there_before):
    """The next of the type may be in line already, or come later."""
    mails = pop_all(broker, limited, line_up(broker, MAIL, MAIL))
    line = line_up(broker, MAIL) if is_there_before else []
    got = []
    thread = threading.Thread(target=lambda: got.append(next_message(limited)), daemon=True)
    thread.start()
    eventually(lambda: MAIL in limited._left_out, what="a wait without mails")

    limited.ack(mails[0])
    line = line or line_up(broker, MAIL)

    assert line == eventually(lambda: ids(got), what="the mail")


def test_a_type_with_room_for_one_job_does_not_part_the_batches_of_others(broker, limited):
    """The wait in Redis takes as many from whichever line comes first, so the smallest room counts for all of them."""
    broker.limits.set(MAIL, 1)
    batches = []
    broker.claims.claim = lambda messages: batches.append(len(messages)) or messages
    assert [] == limited._take_first(4)
    line_up(broker, *[CSV] * 4)

    pop(limited, 4)

    assert [1, 3] == batches


def test_one_call_ends_a_wait_however_many_jobs_of_its_type_end_meanwhile(broker, limited):
    mails = pop_all(broker, limited, line_up(broker, MAIL, MAIL))
    thread = threading.Thread(target=lambda: next_message(limited), daemon=True)
    thread.start()
    eventually(lambda: MAIL in limited._left_out, what="a wait without mails")
    before = calls(broker, "expire")

    limited.done(mails[:1])
    limited.done(mails[1:])

    assert before + 1 == calls(broker, "expire")
    line_up(broker, MAIL)
    thread.join(60)
    assert not thread.is_alive()


def test_what_comes_by_the_common_line_keeps_to_the_limits(broker, limited):
    """A message from elsewhere: it waits in its type's own line then, at its place."""
    messages = [message_for(new_id(), MAIL, "default", 5) for _ in range(3)]
    broker.client.zadd(broker.key("default"), {message.encode(): place for place, message in enumerate(messages)})

    first, _ = pop(limited, 2)

    assert 0 == broker.client.zcard(broker.key("default"))
    assert 1 == broker.client.zcard(broker.line("default", MAIL))
    limited.ack(first)
    assert [messages[2].message_id] == ids(pop(limited, 1))


def test_a_spelling_of_a_type_counts_as_the_type(broker, limited):
    line_up(broker, "email-send", "Email_Send", "EMAIL_SEND", CSV)

    assert 3 == sum(message is not None for message in pop(limited, 3))
    assert 1 == broker.waiting("default")


def test_messages_of_a_type_that_nobody_here_knows_are_popped_too(broker, limited):
    """Whoever gets one says so, and in time the job becomes a dead letter."""
    line = line_up(broker, "of-tomorrow", MAIL)

    assert set(line) == set(ids(pop(limited, 2)))


def test_a_job_costs_one_round_trip_while_no_type_is_at_its_limit(broker, limited):
    types = [CSV, "canary"]
    broker.learn(types)
    line = line_up(broker, *[CSV] * 40)
    before = calls(broker)

    done = 0
    in_hand = pop(limited, 4)
    while done < 36:
        limited.ack(in_hand.pop(0))
        in_hand += pop(limited, 1)
        done += 1

    assert 0 == broker.waiting("default"), line
    # One more to begin with: whether several lines have something is looked at first.
    assert calls(broker) - before <= 40


def calls(broker, *commands):
    """Return how often these commands were sent; by default, how often messages were asked for."""
    stats = broker.client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in commands or ("evalsha", "bzmpop"))


@pytest.fixture
def two_queues(broker):
    """The consumers of two queues of a process with four threads."""
    consumers = [broker.consume(queue, prefetch=4, timeout=200) for queue in ("default", "elsewhere")]
    yield consumers
    for consumer in consumers:
        consumer.close()


def test_two_queues_share_the_threads_of_a_process(broker, two_queues):
    default, elsewhere = two_queues
    for _ in range(3):
        publish(broker)
    in_hand = pop(default, 3)
    for _ in range(6):
        publish(broker, queue="elsewhere")

    assert next(elsewhere) is not None
    publish(broker)
    assert [None, None] == [next(elsewhere), next(default)]
    default.done(in_hand)
    assert 3 == sum(message is not None for message in pop(elsewhere, 4))
    assert next(default) is None


def test_what_two_queues_have_popped_for_the_same_threads_goes_back_to_its_place(broker, two_queues):
    """Neither knows what the other is about to take."""
    default, elsewhere = two_queues
    line_up(broker, *["csv-generation"] * 4)
    before = broker.client.zrange(broker.key("default"), 0, -1, withscores=True)
    popped = default._pop()
    for _ in range(3):
        publish(broker, queue="elsewhere")
    pop(elsewhere, 3)

    default._claim(popped)

    assert 4 == len(popped)
    assert popped[0].message_id == next(default).message_id
    assert next(default) is None
    assert before[1:] == broker.client.zrange(broker.key("default"), 0, -1, withscores=True)


def test_consumers_that_run_at_the_same_time_never_hold_more_than_the_process_has_threads(broker, two_queues):
    held = []
    broker.claims.claim = lambda messages: held.append(broker.limits._held_in_all) or messages
    for consumer in two_queues:
        broker.publish(
            consumer.queue_name, [(message_for(new_id(), "x", consumer.queue_name, 5), 0) for _ in range(200)]
        )

    def consume(consumer):
        taken = 0
        while taken < 200:
            if message := next(consumer):
                taken += 1
                consumer.ack(message)

    threads = [threading.Thread(target=consume, args=(consumer,), daemon=True) for consumer in two_queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert not any(thread.is_alive() for thread in threads)
    assert max(held) <= 4
    assert 0 == broker.limits._held_in_all


def _patient(client, seconds=20):
    pool = client.connection_pool
    pool.connection_kwargs["socket_timeout"] = seconds
    return pool
