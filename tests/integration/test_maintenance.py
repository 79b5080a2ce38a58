"""Relay, rescuer and dead letters: called directly, on real servers."""

import itertools
from uuid import UUID, uuid4

import dramatiq
import pytest
import redis
from rows import Sweeps, add_worker, claim_one, pruner, rescue
from samples import a_failure
from time_travel import HOUR, set_dates

from jobs_service import events
from jobs_service.broker.keys import Keys
from jobs_service.broker.redis import message_for
from jobs_service.errors import BrokerUnavailable, NameTaken
from jobs_service.events import JobFailed
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.maintenance import (
    dead_letters as dead_letters_module,
    expirer as expirer_module,
    pruner as pruner_module,
    relay as relay_module,
    rescuer as rescuer_module,
    strays as strays_module,
)
from jobs_service.maintenance.dead_letters import DeadLetters
from jobs_service.maintenance.expirer import Expirer
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.relay import Relay
from jobs_service.maintenance.service import Turn
from jobs_service.maintenance.strays import Strays


@pytest.fixture
def relay(database, broker, epoch):
    epoch.set()
    return Relay(database, broker, epoch, interval_seconds=1, republish_seconds=20)


@pytest.fixture
def fail(database, submit, worker_id):
    def fail():
        claim = claim_one(database, submit(), worker_id)
        assert lifecycle.fail(database, claim, a_failure(), reason=EndReason.REJECTED)
        return claim.job_id

    return fail


def test_what_is_due_is_published_once(relay, broker, submit):
    submit()
    submit(delay_seconds=60)

    assert {"published": 1} == relay.run_once(Turn())
    assert {"published": 0} == relay.run_once(Turn())
    assert 1 == broker.waiting("default")


def test_a_message_that_was_lost_is_published_again_when_its_time_comes(relay, broker, submit, database):
    submit()
    relay.run_once(Turn())
    broker.flush("default")

    set_dates(database.rows, "jobs", publish_at=0)

    assert {"published": 1} == relay.run_once(Turn())


def test_a_foreign_value_at_one_queues_key_holds_up_no_other(relay, broker, submit):
    broker.declare_queue("another")
    broker.client.set(broker.key("another"), "what is this")
    submit(queue="another")
    submit()

    with pytest.raises(BrokerUnavailable):
        relay.run_once(Turn())

    assert 1 == broker.waiting("default")


def test_a_date_at_infinity_holds_up_no_other_job(relay, broker, submit, database):
    """Written by hand; PostgreSQL calls it due."""
    database.rows("UPDATE jobs SET run_at = '-infinity' WHERE id = %s", (submit(),))
    submit()

    assert {"published": 2} == relay.run_once(Turn())
    assert 2 == broker.waiting("default")


def test_what_redis_lost_is_published_again_at_once(relay, broker, submit):
    for _ in range(3):
        submit()
    relay.run_once(Turn())

    broker.client.flushall()

    assert {"published": 3} == relay.run_once(Turn())


def test_what_lies_under_the_names_of_the_version_before_is_published_under_the_new_ones(relay, broker, submit):
    for _ in range(3):
        submit()
    relay.run_once(Turn())
    broker.flush("default")
    broker.client.set(broker.keys.epoch, "1")

    assert {"published": 3} == relay.run_once(Turn())
    assert {"published": 0} == relay.run_once(Turn())


def test_the_window_is_never_exceeded_and_the_urgent_come_first(relay, broker, submit):
    broker.window = 3
    for priority in (1, 9, 5, 9, 1):
        submit(priority=priority)

    assert {"published": 3} == relay.run_once(Turn())
    assert {"published": 0} == relay.run_once(Turn())

    consumer = broker.consume("default", prefetch=9, timeout=100)
    assert [9, 9, 5] == [next(consumer).options["priority"] for _ in range(3)]


def test_a_window_that_is_full_of_others_has_room_for_the_more_urgent(relay, broker, submit):
    broker.window = 3
    for priority in (1, 1, 1, 1):
        submit(priority=priority)
    assert {"published": 3} == relay.run_once(Turn())

    for priority in (0, 1, 9, 5):
        submit(priority=priority)

    assert {"published": 2} == relay.run_once(Turn())
    consumer = broker.consume("default", prefetch=9, timeout=100)
    assert [9, 5, 1, 1, 1] == [next(consumer).options["priority"] for _ in range(5)]


def test_nothing_is_noted_as_published_while_redis_is_away(relay, broker, submit, row, monkeypatch):
    from jobs_service.errors import BrokerUnavailable

    job_id = submit()
    monkeypatch.setattr(broker, "publish", _raise(BrokerUnavailable("away")))

    with pytest.raises(BrokerUnavailable):
        relay.run_once(Turn())

    assert row(job_id, "publish_at <= now()")


@pytest.fixture
def sweeps(database, dead_letters):
    return Sweeps(database, dead_letters)


def beat(database, worker_id):
    database.rows("UPDATE workers SET beats = beats + 1 WHERE id = %s", (worker_id,))


def test_the_rescuer_takes_jobs_back_from_the_silent(database, sweeps, submit, row, worker_id):
    job_id = submit()
    claim_one(database, job_id, worker_id)

    assert 1 == sweeps.sweep_until_silent()
    assert "pending" == row(job_id, "status")


def test_a_worker_that_beats_keeps_its_jobs_whatever_the_dates_say(database, sweeps, submit, row, worker_id):
    claim = claim_one(database, submit(), worker_id)
    set_dates(database.rows, "workers", heartbeat_at=-HOUR)
    set_dates(database.rows, "jobs", started_at=-HOUR)

    for _ in range(10):
        assert 0 == sweeps.sweep()
        sweeps.clock.advance(5)
        beat(database, worker_id)

    assert "processing" == row(claim.job_id, "status")


def test_a_silent_worker_loses_its_jobs_whatever_the_dates_say(database, sweeps, submit, worker_id):
    claim_one(database, submit(), worker_id)
    set_dates(database.rows, "workers", heartbeat_at=HOUR)
    set_dates(database.rows, "jobs", started_at=HOUR)

    assert 1 == sweeps.sweep_until_silent()


def test_a_worker_that_beats_after_the_look_keeps_its_jobs(database, sweeps, submit, worker_id, monkeypatch):
    claim_one(database, submit(), worker_id)
    monkeypatch.setattr(sweeps.rescuer, "_look", _after(sweeps.rescuer._look, lambda: beat(database, worker_id)))

    sweeps.liveness.silent = lambda *_: {worker_id: 0}

    assert 0 == sweeps.sweep()


@pytest.mark.parametrize("nobody", [None, UUID(int=1)])
def test_jobs_whose_worker_has_no_row_are_watched_for_a_lease(database, sweeps, submit, nobody):
    claim = claim_one(database, submit(), uuid4())
    database.rows("UPDATE jobs SET worker_id = %s WHERE id = %s", (nobody, claim.job_id))

    assert 1 == sweeps.sweep_until_silent()


def test_the_row_of_a_worker_silent_for_long_is_cleared_away(database, sweeps, worker_id):
    living = uuid4()
    add_worker(database, living)

    for _ in range(31):
        sweeps.sweep()
        sweeps.clock.advance(5)
        beat(database, living)

    assert [(living,)] == database.rows("SELECT id FROM workers"), worker_id


def test_the_rescuer_comes_again_when_the_next_silence_is_complete(sweeps, worker_id):  # noqa: ARG001
    sweeps.sweep()
    sweeps.clock.advance(5)
    turn = Turn()
    sweeps.sweep(turn)

    assert 10 == turn.next_seconds


def test_the_list_is_rebuilt_when_it_differs_from_the_failed_rows(database, dead_letters, broker, fail):
    service = DeadLetters(database, dead_letters, interval_seconds=10)
    ids = [str(fail()) for _ in range(3)]

    assert {"rebuilt": 3} == service.run_once(Turn())
    assert {"rebuilt": 0} == service.run_once(Turn())
    assert sorted(ids) == sorted(item.decode() for item in broker.client.lrange(Keys().dead_letters, 0, -1))

    broker.client.flushall()

    assert {"rebuilt": 3} == service.run_once(Turn())


def test_a_long_list_is_rebuilt_in_several_turns(database, dead_letters, fail, monkeypatch):
    """Whoever reads it meanwhile sees the old list."""
    monkeypatch.setattr(dead_letters_module, "BATCH", 2)
    ids = [str(fail()) for _ in range(5)]
    service = DeadLetters(database, dead_letters, interval_seconds=10)
    turns = []
    while not turns or turns[-1].next_seconds == 0:
        assert [] == dead_letters.ids()
        turns.append(Turn(seconds=0))
        rebuilt = service.run_once(turns[-1])
        assert len(turns) < 50

    assert {"rebuilt": 5} == rebuilt
    assert len(turns) > 5
    assert ids == dead_letters.ids()


def test_a_comparison_that_redis_interrupts_begins_anew(database, dead_letters, fail, monkeypatch):
    monkeypatch.setattr(dead_letters_module, "BATCH", 2)
    ids = [str(fail()) for _ in range(5)]
    service = DeadLetters(database, dead_letters, interval_seconds=10)
    with monkeypatch.context() as patch:
        patch.setattr(dead_letters.client, "rename", _raise(redis.ConnectionError("away")))
        with pytest.raises(BrokerUnavailable):
            service.run_once(Turn())

    assert {"rebuilt": 5} == service.run_once(Turn())
    assert ids == dead_letters.ids()


def test_the_list_is_emptied_with_the_last_failed_row(database, dead_letters, broker):
    dead_letters.push(new_id())

    DeadLetters(database, dead_letters, interval_seconds=10).run_once(Turn())

    assert 0 == broker.client.exists(Keys().dead_letters)


def test_a_dead_letter_is_on_the_list_when_it_is_announced(dead_letters, monkeypatch):
    listed, job_id = [], str(new_id())
    monkeypatch.setattr(events, "_subscribers", [("test", lambda event: listed.append((event, dead_letters.ids())))])
    failed = JobFailed(job_id=job_id, type="t", queue="default", attempt=1, error="Expired", reason=EndReason.EXPIRED)

    dead_letters.add(failed)

    assert [(failed, [job_id])] == listed


def test_an_id_is_pushed_once(dead_letters):
    job_id = new_id()

    dead_letters.push(job_id)
    dead_letters.push(job_id)

    assert 1 == dead_letters.length()


def test_a_republished_message_is_the_one_that_was_sent(relay, broker, submit):
    job_id = submit(priority=7)
    broker.enqueue(message_for(job_id, "csv-generation", "default", 7))

    relay.run_once(Turn())

    assert 1 == broker.waiting("default")


def _after(first, then):
    def both(*arguments):
        first(*arguments)
        then()

    return both


def _raise(error):
    def fail(*_):
        raise error

    return fail


def test_a_list_of_the_right_length_with_a_wrong_id_is_mended(database, dead_letters, fail):
    job_id = fail()
    dead_letters.client.rpush(Keys().dead_letters, str(new_id()))

    assert {"rebuilt": 1} == DeadLetters(database, dead_letters, interval_seconds=1).run_once(Turn())

    assert [str(job_id)] == dead_letters.ids()


@pytest.mark.parametrize("put", ["set", "rpush"])
def test_what_another_program_wrote_stays_until_it_is_taken_away(database, dead_letters, fail, put):
    """A string, and a list of what is no job id."""
    job_id = fail()
    getattr(dead_letters.client, put)(Keys().dead_letters, "what is this")
    before = dead_letters.client.dump(Keys().dead_letters)
    service = DeadLetters(database, dead_letters, interval_seconds=1)

    # A list of one is as long as there are dead letters: this run compares the ids.
    with pytest.raises(NameTaken, match="REDIS_PREFIX"):
        service.run_once(Turn())
    dead_letters.push(job_id)
    dead_letters.remove(job_id)
    assert before == dead_letters.client.dump(Keys().dead_letters)

    dead_letters.client.delete(Keys().dead_letters)
    assert {"rebuilt": 1} == service.run_once(Turn())
    assert [str(job_id)] == dead_letters.ids()


def test_more_than_a_batch_is_rescued_in_one_sweep(database, sweeps, submit, monkeypatch):
    monkeypatch.setattr(rescuer_module, "BATCH", 2)
    for _ in range(5):
        claim_one(database, submit(), uuid4())

    assert 5 == sweeps.sweep_until_silent()


@pytest.fixture(params=["rescuer", "expirer", "relay", "strays", "pruner"])
def five(request, submit):
    """Return a service that has five jobs to work on, and what it counts them as."""
    return globals()[f"_for_{request.param}"](request.getfixturevalue, submit)


def test_a_service_leaves_what_does_not_fit_into_its_turn_to_the_next(five, monkeypatch):
    """Each does one batch at most of a turn that is over, asks for another one, and has done all in the end."""
    for module in (rescuer_module, expirer_module, relay_module, strays_module, pruner_module):
        monkeypatch.setattr(module, "BATCH", 2)
    work, what = five
    done = []
    while sum(done) < 5:
        turn = Turn(is_cut_short=_on_second_look())
        done.append(work.run_once(turn)[what])
        # The pruner's next round comes at its next interval: reading the folder has its share of the time.
        assert turn.next_seconds == 0 or sum(done) == 5 or work.name == "pruner"
        assert len(done) < 20
    assert max(done) <= 2


def _on_second_look():
    """A turn that is over once it has begun."""
    looks = itertools.count()
    return lambda: next(looks) > 0


def _for_rescuer(get, submit):
    for _ in range(5):
        claim_one(get("database"), submit(), UUID(int=1))
    get("sweeps").rowless_is_silent(UUID(int=1))
    return get("sweeps").rescuer, "rescued"


def _for_expirer(get, submit):
    for _ in range(5):
        submit()
    set_dates(get("database").rows, "jobs", expires_at=-1)
    return Expirer(get("database"), get("dead_letters"), interval_seconds=1), "expired"


def _for_relay(get, submit):
    for _ in range(5):
        submit()
    return get("relay"), "published"


def _for_strays(get, submit):
    for _ in range(5):
        submit(queue="abandoned", type="forgotten")
    late(get("database"), 601)
    return get("strays"), "failed"


def _for_pruner(get, _):
    get("finish")(days=8, count=5)
    return pruner(get("database"), get("outputs"), completed=7), "completed"


def test_a_queue_that_is_filled_as_fast_as_it_is_drained_holds_up_no_other(relay, broker, submit, monkeypatch):
    monkeypatch.setattr(relay_module, "BATCH", 1)
    for queue in ("another", "third"):
        broker.declare_queue(queue)
    for queue in ("another", "default", "third"):
        for _ in range(3):
            submit(queue=queue)

    for _ in range(3):
        relay.run_once(Turn(is_cut_short=_on_second_look()))

    assert [1, 1, 1] == [broker.waiting(queue) for queue in ("another", "default", "third")]


def test_what_is_older_than_the_last_in_line_has_room_in_a_full_window(relay, broker, submit, database):
    broker.learn(["csv-generation"])
    broker.window = 2
    early, lost = submit(), uuid4()
    claim_one(database, early, lost)
    for _ in range(4):
        submit()
    assert {"published": 2} == relay.run_once(Turn())
    rescue(database, lost)

    assert {"published": 1} == relay.run_once(Turn())

    consumer = broker.consume("default", prefetch=9, timeout=100)
    assert str(early) == next(consumer).message_id


def test_a_job_that_was_published_before_the_clock_was_set_back_is_published_again(relay, broker, submit, database):
    submit()
    relay.run_once(Turn())
    broker.flush("default")

    set_dates(database.rows, "jobs", publish_at=30)
    assert {"published": 0} == relay.run_once(Turn())
    set_dates(database.rows, "jobs", publish_at=HOUR)
    assert {"published": 1} == relay.run_once(Turn())
    assert (True,) == database.row("SELECT publish_at < now() + interval '21 seconds' FROM jobs")


def test_a_leader_whose_lease_is_lost_changes_no_row(five, database):
    work, what = five
    before = database.rows("SELECT * FROM jobs ORDER BY id")
    database.rows("INSERT INTO leases VALUES ('maintenance', gen_random_uuid(), 8, 'infinity')")

    work.run_once(Turn(fence=7))
    assert before == database.rows("SELECT * FROM jobs ORDER BY id")

    assert 5 == work.run_once(Turn(fence=8))[what]
    assert before != database.rows("SELECT * FROM jobs ORDER BY id")


def test_an_expired_job_is_listed_as_a_dead_letter(database, dead_letters, submit):
    job_id = submit()
    set_dates(database.rows, "jobs", expires_at=-1)

    assert {"expired": 1} == Expirer(database, dead_letters, interval_seconds=1).run_once(Turn())

    assert [str(job_id)] == dead_letters.ids()


@pytest.fixture
def strays(database, broker, dead_letters):
    dramatiq.actor(lambda job_id: None, broker=broker, actor_name="known", queue_name="default")  # noqa: ARG005
    liveness = Liveness(lease_seconds=15, heartbeat_interval_seconds=5)
    return Strays(database, broker, dead_letters, interval_seconds=1, liveness=liveness)


def late(database, seconds):
    set_dates(database.rows, "jobs", run_at=-seconds)


def test_a_job_whose_type_has_moved_to_another_queue_follows_it(database, strays, submit, row):
    job_id = submit(queue="abandoned", type="known")
    assert {"moved": 0, "failed": 0} == strays.run_once(Turn())

    late(database, 61)

    assert {"moved": 1, "failed": 0} == strays.run_once(Turn())
    assert ("default", "pending") == row(job_id, "queue", "status")


def test_a_job_of_an_unknown_type_on_an_unserved_queue_is_a_dead_letter_in_time(
    database, strays, dead_letters, submit, row
):
    job_id = submit(queue="abandoned", type="forgotten")
    late(database, 61)
    assert {"moved": 0, "failed": 0} == strays.run_once(Turn())

    late(database, 601)

    assert {"moved": 0, "failed": 1} == strays.run_once(Turn())
    assert ("failed", "unknown_type") == row(job_id, "status", "end_reason")
    assert [str(job_id)] == dead_letters.ids()


def test_a_queue_that_a_worker_serves_is_left_alone(database, strays, submit, worker_id, row):  # noqa: ARG001
    database.rows("UPDATE workers SET queues = '{served}'")
    job_id = submit(queue="served", type="known")
    late(database, 3_600)

    assert {"moved": 0, "failed": 0} == strays.run_once(Turn())
    assert "served" == row(job_id, "queue")


def test_each_type_has_a_window_of_its_own(relay, broker, submit):
    """What stands behind a long line of another type is sent at once."""
    broker.window = 2
    broker.learn(["csv-generation", "EMAIL_SEND"])
    for _ in range(4):
        submit(type="EMAIL_SEND")
    assert {"published": 2} == relay.run_once(Turn())
    submit()

    assert {"published": 1} == relay.run_once(Turn())

    assert 1 == broker.client.zcard(broker.line("default", "csv-generation"))


def test_types_that_nobody_here_knows_share_a_window(relay, broker, submit):
    broker.window = 2
    for job_type in ("of-tomorrow", "of-yesterday", "of-today"):
        for _ in range(3):
            submit(type=job_type)

    assert {"published": 2} == relay.run_once(Turn())
    assert {"published": 0} == relay.run_once(Turn())
    assert 2 == broker.client.zcard(broker.key("default"))
