"""Relay, rescuer and dead letters: called directly, on real servers."""

from uuid import uuid4

import dramatiq
import pytest
from rows import add_worker, claim_one

from jobs_service import lifecycle
from jobs_service.broker import message_for
from jobs_service.dead_letters import KEY
from jobs_service.errors import BrokerUnavailable
from jobs_service.ids import new_id
from jobs_service.lifecycle import DeadReason, Failure
from jobs_service.maintenance import rescuer as rescuer_module
from jobs_service.maintenance.dead_letters import DeadLetters
from jobs_service.maintenance.expirer import Expirer
from jobs_service.maintenance.leader import Maintenance
from jobs_service.maintenance.relay import Relay
from jobs_service.maintenance.rescuer import Rescuer
from jobs_service.maintenance.strays import Strays


@pytest.fixture
def relay(database, broker, dead_letters):
    dead_letters.set_epoch("1")
    return Relay(database, broker, dead_letters, interval_seconds=1, republish_seconds=20)


@pytest.fixture
def bury(database, submit, worker_id):
    def bury():
        claim = claim_one(database, submit(), worker_id)
        assert lifecycle.bury(database, claim, Failure("E", "m", "t", 0), reason=DeadReason.REJECTED)
        return claim.job_id

    return bury


def test_what_is_due_is_published_once(relay, broker, submit):
    submit()
    submit(delay_seconds=60)

    assert {"published": 1} == relay.run_once()
    assert {"published": 0} == relay.run_once()
    assert 1 == broker.waiting("default")


def test_a_message_that_was_lost_is_published_again_when_its_time_comes(relay, broker, submit, database):
    submit()
    relay.run_once()
    broker.flush("default")

    database.rows("UPDATE jobs SET publish_at = now()")

    assert {"published": 1} == relay.run_once()


def test_a_foreign_value_at_one_queues_key_holds_up_no_other(relay, broker, submit):
    broker.declare_queue("another")
    broker.client.set(broker.key("another"), "what is this")
    submit()

    with pytest.raises(BrokerUnavailable):
        relay.run_once()

    assert 1 == broker.waiting("default")


def test_what_redis_lost_is_published_again_at_once(relay, broker, submit):
    for _ in range(3):
        submit()
    relay.run_once()

    broker.client.flushall()

    assert {"published": 3} == relay.run_once()


def test_the_window_is_never_exceeded_and_the_urgent_come_first(relay, broker, submit):
    broker.window = 3
    for priority in (1, 9, 5, 9, 1):
        submit(priority=priority)

    assert {"published": 3} == relay.run_once()
    assert {"published": 0} == relay.run_once()

    bell = broker.consume("default", prefetch=9, timeout=100)
    assert [9, 9, 5] == [next(bell).options["priority"] for _ in range(3)]


def test_a_window_that_is_full_of_others_has_room_for_the_more_urgent(relay, broker, submit):
    broker.window = 3
    for priority in (1, 1, 1, 1):
        submit(priority=priority)
    assert {"published": 3} == relay.run_once()

    for priority in (0, 1, 9, 5):
        submit(priority=priority)

    assert {"published": 2} == relay.run_once()
    bell = broker.consume("default", prefetch=9, timeout=100)
    assert [9, 5, 1, 1, 1] == [next(bell).options["priority"] for _ in range(5)]


def test_nothing_is_noted_as_published_while_redis_is_away(relay, broker, submit, row, monkeypatch):
    from jobs_service.errors import BrokerUnavailable

    job_id = submit()
    monkeypatch.setattr(broker, "ring", _raise(BrokerUnavailable("away")))

    with pytest.raises(BrokerUnavailable):
        relay.run_once()

    assert row(job_id, "publish_at <= now()")


def test_the_rescuer_takes_jobs_back_from_the_silent_and_clears_their_rows(database, dead_letters, submit, row):
    silent = uuid4()
    add_worker(database, silent, silent_seconds=3600)
    job_id = submit()
    claim_one(database, job_id, silent)
    database.rows("UPDATE jobs SET started_at = now() - interval '1 hour'")
    rescuer = Rescuer(database, dead_letters, interval_seconds=5, lease_seconds=15, heartbeat_seconds=5)

    assert {"rescued": 1} == rescuer.run_once()
    assert "pending" == row(job_id, "status")
    assert (0,) == database.row("SELECT count(*) FROM workers")


def test_the_list_is_rebuilt_when_it_differs_from_the_failed_rows(database, dead_letters, broker, bury):
    service = DeadLetters(database, dead_letters, interval_seconds=10)
    ids = [str(bury()) for _ in range(3)]

    assert {"rebuilt": 3} == service.run_once()
    assert {"rebuilt": 0} == service.run_once()
    assert sorted(ids) == sorted(item.decode() for item in broker.client.lrange(KEY, 0, -1))

    broker.client.flushall()

    assert {"rebuilt": 3} == service.run_once()


def test_the_list_is_emptied_with_the_last_failed_row(database, dead_letters, broker):
    dead_letters.push(new_id())

    DeadLetters(database, dead_letters, interval_seconds=10).run_once()

    assert 0 == broker.client.exists(KEY)


def test_an_id_is_pushed_once(dead_letters):
    job_id = new_id()

    dead_letters.push(job_id)
    dead_letters.push(job_id)

    assert 1 == dead_letters.length()


def test_one_of_two_is_elected_and_the_other_follows_when_it_goes(settings):
    from jobs_service.database import open_database

    first, second = (Maintenance(open_database(settings), [], silence_seconds=60) for _ in range(2))

    assert first._is_leader()
    assert first._is_leader()
    assert not second._is_leader()

    first.database.discard()

    assert second._is_leader()


def test_a_republished_message_is_the_one_that_was_sent(relay, broker, submit):
    job_id = submit(priority=7)
    broker.enqueue(message_for(job_id, "csv-generation", "default", 7))

    relay.run_once()

    assert 1 == broker.waiting("default")


def _raise(error):
    def fail(*_):
        raise error

    return fail


def test_a_list_of_the_right_length_with_a_wrong_id_is_mended(database, dead_letters, bury):
    job_id = bury()
    dead_letters.client.rpush(KEY, str(new_id()))

    assert {"rebuilt": 1} == DeadLetters(database, dead_letters, interval_seconds=1).run_once()

    assert [str(job_id)] == dead_letters.ids()


def test_a_value_of_another_kind_gives_way_to_the_list(database, dead_letters, bury):
    job_id = bury()
    dead_letters.client.set(KEY, "what is this")
    service = DeadLetters(database, dead_letters, interval_seconds=1)

    assert {"rebuilt": 1} == service.run_once()

    assert [str(job_id)] == dead_letters.ids()


def test_after_a_sleep_of_the_machine_the_living_beat_first(database, dead_letters, submit, row):
    claim = claim_one(database, submit(), uuid4())
    database.rows("UPDATE jobs SET started_at = now() - interval '1 hour'")
    rescuer = Rescuer(database, dead_letters, interval_seconds=1, lease_seconds=15, heartbeat_seconds=5)
    rescuer._ran_at -= 3_600

    assert {"rescued": 0} == rescuer.run_once()
    assert "processing" == row(claim.job_id, "status")
    assert {"rescued": 1} == rescuer.run_once()


def test_a_leader_that_was_none_for_long_has_not_slept(database, dead_letters, submit):
    claim_one(database, submit(), uuid4())
    database.rows("UPDATE jobs SET started_at = now() - interval '1 hour'")
    rescuer = Rescuer(database, dead_letters, interval_seconds=1, lease_seconds=15, heartbeat_seconds=5)
    rescuer._ran_at -= 3_600
    rescuer.begin()

    assert {"rescued": 1} == rescuer.run_once()


def test_more_than_a_batch_is_rescued_in_one_sweep(database, dead_letters, submit, monkeypatch):
    monkeypatch.setattr(rescuer_module, "BATCH", 2)
    for _ in range(5):
        claim_one(database, submit(), uuid4())
    database.rows("UPDATE jobs SET started_at = now() - interval '1 hour'")
    rescuer = Rescuer(database, dead_letters, interval_seconds=1, lease_seconds=15, heartbeat_seconds=5)

    assert {"rescued": 5} == rescuer.run_once()


def test_an_expired_job_is_listed_as_a_dead_letter(database, dead_letters, submit):
    job_id = submit()
    database.rows("UPDATE jobs SET expires_at = now() - interval '1 second'")

    assert {"expired": 1} == Expirer(database, dead_letters, interval_seconds=1).run_once()

    assert [str(job_id)] == dead_letters.ids()


@pytest.fixture
def strays(database, broker, dead_letters):
    dramatiq.actor(lambda job_id: None, broker=broker, actor_name="known", queue_name="default")  # noqa: ARG005
    return Strays(database, broker, dead_letters, interval_seconds=1)


def late(database, seconds):
    database.rows("UPDATE jobs SET run_at = now() - %s * interval '1 second'", (seconds,))


def test_a_job_whose_type_has_moved_to_another_queue_follows_it(database, strays, submit, row):
    job_id = submit(queue="abandoned", type="known")
    assert {"moved": 0, "buried": 0} == strays.run_once()

    late(database, 61)

    assert {"moved": 1, "buried": 0} == strays.run_once()
    assert ("default", "pending") == row(job_id, "queue", "status")


def test_a_job_of_an_unknown_type_on_an_unserved_queue_is_a_dead_letter_in_time(
    database, strays, dead_letters, submit, row
):
    job_id = submit(queue="abandoned", type="forgotten")
    late(database, 61)
    assert {"moved": 0, "buried": 0} == strays.run_once()

    late(database, 601)

    assert {"moved": 0, "buried": 1} == strays.run_once()
    assert ("failed", "unknown_type") == row(job_id, "status", "dead_reason")
    assert [str(job_id)] == dead_letters.ids()


def test_a_queue_that_a_worker_serves_is_left_alone(database, strays, submit, worker_id, row):  # noqa: ARG001
    database.rows("UPDATE workers SET queues = '{served}'")
    job_id = submit(queue="served", type="known")
    late(database, 3_600)

    assert {"moved": 0, "buried": 0} == strays.run_once()
    assert "served" == row(job_id, "queue")
