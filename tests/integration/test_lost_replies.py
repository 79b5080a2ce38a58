"""PostgreSQL moves a job and its reply is lost: for each verb, and whoever calls it, the truth is told, and once."""

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Thread
from uuid import uuid4

import dramatiq
import falcon.testing
import pytest
from eventually import eventually
from proxy import Proxy
from rows import Sweeps, claim_one
from time_travel import HOUR, set_dates

from jobs_service import events
from jobs_service.api.app import create_app
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.redis import Popped, message_for
from jobs_service.database.connection import open_database
from jobs_service.errors import DatabaseUnavailable, Snoozed, Unavailable
from jobs_service.events import (
    AttemptAmbiguous,
    BulkActionEnded,
    JobCancelled,
    JobCompleted,
    JobDeferred,
    JobDiscarded,
    JobFailed,
    JobProcessing,
    JobReceived,
    JobRedriven,
    JobReleased,
    JobRescued,
    JobRetried,
    JobSnoozed,
)
from jobs_service.jobs import bulk_actions, dead_letters, lifecycle, unfinished
from jobs_service.jobs.bulk_actions import Kind
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.failures import ProcessBroken, ProcessLost
from jobs_service.jobs.lifecycle import OnAmbiguous
from jobs_service.jobs.listing import Filters
from jobs_service.maintenance.bulk_actions import BulkActions
from jobs_service.maintenance.expirer import Expirer
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.service import Turn
from jobs_service.maintenance.strays import Strays
from jobs_service.worker.assembly import build_lifecycle_sync
from jobs_service.worker.attempt import RunningAttempts

TRANSITION = b"UPDATE jobs"
#: How a verb looks for what it did itself.
LOOK = (b"transition_token = ANY", b"lease_token = ANY", b"SELECT job_id FROM canaries", b"FROM discards WHERE")

#: What is lost, and how often in a row. Twice is what no repetition on another connection makes good.
LOSSES = {
    "a reply": {TRANSITION: 1},
    "two replies": {TRANSITION: 2},
    "three replies": {TRANSITION: 3},
    "a reply, and those of the look for it": {TRANSITION: 1} | dict.fromkeys(LOOK, 2),
}


class World:
    """The callers of the verbs, on a database whose replies can be lost."""

    def __init__(self, settings, proxy, near, broker, submit):
        self.settings = settings
        self.proxy = proxy
        self.database = open_database(settings)
        #: The same rows on a connection that nothing happens to.
        self.near = near
        self.broker = broker
        self.dead_letters = DeadLetterList(broker.client, broker.keys)
        self.submit = submit
        self.worker_id = uuid4()
        self.sync = build_lifecycle_sync(
            self.database,
            broker,
            self.dead_letters,
            RunningAttempts(),
            self.worker_id,
            claiming=self.database,
            completing=self.database,
            threads=4,
            give_back_seconds=30,
            deferral=Deferral(),
        )
        self.sync.completions.start()
        #: The events of this process.
        self.announced = []

    def message(self, job_id, job_type="known"):
        return Popped(message_for(job_id, job_type, "default", 5), 0.0, job_type, None)

    def begin(self, job_id, job_type="known"):
        message = self.message(job_id, job_type)
        assert [message] == self.sync.claims.claim([message])
        self.sync.before_process_message(self.broker, message)
        return message

    def end(self, message, exception=None, *, is_last=False):
        if is_last:
            message.fail()
        self.sync.after_process_message(self.broker, message, exception=exception)
        eventually(lambda: all(not attempt.has_returned for attempt in self.sync.attempts), what="the verdict")

    def sweep(self, service):
        """Run a service until it is answered, as the leader does."""
        runs = []

        def run():
            with suppress(DatabaseUnavailable):
                runs.append(service.run_once(Turn()))
            return runs

        eventually(run, what="a sweep that is answered")
        # What was told of once is not told of again.
        service.run_once(Turn())

    def post(self, path):
        return falcon.testing.TestClient(create_app(self.settings)).simulate_post(path).status_code

    def delete(self, path):
        """Delete, and say it as an answer with a body would."""
        status = falcon.testing.TestClient(create_app(self.settings)).simulate_delete(path).status_code
        return 200 if status == 204 else status


@dataclasses.dataclass(frozen=True)
class Case:
    """`prepare` returns what `act` needs: a job's id, or something that has it; the reply is lost to `act`."""

    prepare: Callable
    act: Callable
    announced: list
    row: tuple
    is_a_request: bool = False
    #: What its transition is recognised by.
    transition: bytes = TRANSITION

    @property
    def is_dead(self):
        return self.row is not None and self.row[0] == "failed"

    def answers(self, loss):
        """Return what may be answered. Further losses may be too many for a client to wait."""
        if not self.is_a_request:
            return {None}
        return {200} if loss == LOSSES["a reply"] else {200, 503}


def singing(world):
    return world.begin(world.submit(type="canary"), "canary")


def running(world, **fields):
    return world.begin(world.submit(type="known", **fields))


def ended(exception=None, *, is_last=False):
    return lambda world, message: world.end(message, exception, is_last=is_last)


def running_with_lost_reply(world):
    """Claim a job and miss every answer, when there is no time to ask again."""
    job_id = world.submit(type="known")
    [claim] = lifecycle.claim(world.near, [lifecycle.ClaimRequest(job_id, world.worker_id)])
    world.sync.claims.unanswered.add(claim.token)
    return job_id


def stop(world, _):
    world.broker.draining = True
    world.sync.after_worker_shutdown(world.broker, None)


def held_by_a_lost_worker(world):
    claim = claim_one(world.near, world.submit(on_ambiguous=OnAmbiguous.HOLD), uuid4())
    lifecycle.begin_effect(world.near, claim)
    set_dates(world.near.rows, "jobs", started_at=-HOUR)
    return claim.job_id


def rescue(world, _):
    sweeps = Sweeps(world.database, world.dead_letters)
    [(worker_id,)] = world.near.rows("SELECT worker_id FROM jobs")
    sweeps.rowless_is_silent(worker_id)
    world.sweep(sweeps.rescuer)


def late(world):
    job_id = world.submit()
    set_dates(world.near.rows, "jobs", expires_at=-1)
    return job_id


def expire(world, _):
    world.sweep(Expirer(world.database, world.dead_letters, interval_seconds=5))


def stray(world):
    job_id = world.submit(type="gone", queue="abandoned")
    set_dates(world.near.rows, "jobs", run_at=-HOUR)
    return job_id


def fail_strays(world, _):
    liveness = Liveness(lease_seconds=15, heartbeat_interval_seconds=5)
    world.sweep(Strays(world.database, world.broker, world.dead_letters, interval_seconds=30, liveness=liveness))


def waiting(world):
    return world.submit()


def with_its_effect_begun(world):
    claim = claim_one(world.near, world.submit(), world.worker_id)
    lifecycle.begin_effect(world.near, claim)
    return claim.job_id


def dead(world):
    job_id = world.submit()
    lifecycle.cancel(world.near, job_id)
    world.dead_letters.push(job_id)
    return job_id


def failed(world):
    job_id = stray(world)
    lifecycle.fail_unknown(world.near, [job_id], job_type="gone", grace_seconds=0)
    world.dead_letters.push(job_id)
    return job_id


def member_of(kind):
    """Begin an action on a job of the kind that it is about."""

    def member(world):
        job_id = world.submit() if kind is Kind.CANCELLATION else failed(world)
        selection = unfinished.selection(Filters()) if kind is Kind.CANCELLATION else dead_letters.selection({})
        bulk_actions.begin(world.near, uuid4(), kind, selection, text="{}", rate_per_second=1_000, by="b")
        return job_id

    return member


def change_members(world, _):
    service = BulkActions(world.database, world.dead_letters, interval_seconds=1)

    def has_ended():
        with suppress(DatabaseUnavailable):
            service.run_once(Turn())
        return world.near.rows("SELECT FROM bulk_actions WHERE state = 'completed'")

    eventually(has_ended, what="the end of the action")


#: Verb, and where it has several callers which one, -> how it is called and what must come of it:
#: the events, and the row's status, attempts, worker_losses and length of history.
CASES = {
    "claim": Case(
        lambda world: world.submit(type="known"),
        lambda world, job_id: world.begin(job_id) and None,
        [JobReceived, JobProcessing],
        ("processing", 1, 0, 0),
    ),
    "complete": Case(running, ended(), [JobCompleted], ("completed", 1, 0, 0)),
    "complete_canary": Case(singing, ended(), [JobCompleted], None, transition=b"DELETE FROM jobs"),
    "retry": Case(running, ended(RuntimeError("no")), [JobRetried], ("pending", 1, 0, 1)),
    "fail": Case(running, ended(RuntimeError("no"), is_last=True), [JobFailed], ("failed", 1, 0, 1)),
    "snooze": Case(running, ended(Snoozed("no", delay_seconds=9)), [JobSnoozed], ("pending", 0, 0, 0)),
    "defer": Case(running, ended(Unavailable("no", server="smtp://mail")), [JobDeferred], ("pending", 0, 0, 1)),
    "defer, the last": Case(
        lambda world: running(world, expires_at=datetime.now(UTC) + timedelta(hours=1)),
        ended(Unavailable("no", server="smtp://mail", retry_after_seconds=7_200)),
        [JobFailed],
        ("failed", 0, 0, 1),
    ),
    "crash": Case(running, ended(ProcessLost("SIGKILL")), [JobRetried], ("pending", 1, 1, 1)),
    "crash, the last": Case(
        lambda world: running(world, max_attempts=1),
        ended(ProcessLost("SIGKILL")),
        [JobFailed],
        ("failed", 1, 1, 1),
    ),
    "abandon": Case(running, ended(ProcessBroken("no file")), [JobRetried], ("pending", 0, 1, 1)),
    "release": Case(running, stop, [JobReleased], ("pending", 0, 0, 0)),
    "release, of a claim whose reply was lost": Case(
        running_with_lost_reply, stop, [JobReleased], ("pending", 0, 0, 0)
    ),
    "rescue": Case(held_by_a_lost_worker, rescue, [JobRescued, AttemptAmbiguous, JobFailed], ("failed", 0, 1, 1)),
    "expire": Case(late, expire, [JobFailed], ("failed", 0, 0, 0)),
    "fail_unknown": Case(stray, fail_strays, [JobFailed], ("failed", 0, 0, 0)),
    "fail_unknown, of a message": Case(
        stray,
        lambda world, job_id: world.sync.after_nack(world.broker, world.message(job_id, "gone")),
        [JobFailed],
        ("failed", 0, 0, 0),
    ),
    "cancel": Case(
        waiting,
        lambda world, job_id: world.post(f"/jobs/{job_id}/cancel"),
        [JobCancelled],
        ("cancelled", 0, 0, 0),
        is_a_request=True,
    ),
    "cancel, after the effect had begun": Case(
        with_its_effect_begun,
        lambda world, job_id: world.post(f"/jobs/{job_id}/cancel"),
        [AttemptAmbiguous, JobCancelled],
        ("cancelled", 1, 0, 1),
        is_a_request=True,
    ),
    "discard": Case(
        failed,
        lambda world, job_id: world.delete(f"/dead-letters/{job_id}"),
        [JobDiscarded],
        None,
        is_a_request=True,
        transition=b"DELETE FROM jobs",
    ),
    "redrive, of many": Case(
        member_of(Kind.REDRIVE), change_members, [JobRedriven, BulkActionEnded], ("pending", 0, 0, 0)
    ),
    "discard, of many": Case(
        member_of(Kind.DISCARD),
        change_members,
        [JobDiscarded, BulkActionEnded],
        None,
        transition=b"DELETE FROM bulk_action_jobs",
    ),
    "cancel, of many": Case(
        member_of(Kind.CANCELLATION), change_members, [JobCancelled, BulkActionEnded], ("cancelled", 0, 0, 0)
    ),
    "redrive": Case(
        dead,
        lambda world, job_id: world.post(f"/jobs/{job_id}/retry"),
        [JobRedriven],
        ("pending", 0, 0, 0),
        is_a_request=True,
    ),
}


def test_every_verb_has_a_case():
    assert set(lifecycle.TRANSITIONS) == {name.partition(",")[0] for name in CASES}


@pytest.fixture
def proxy(postgres):
    with Proxy(postgres.port) as proxy:
        yield proxy


def declare_type(broker, name, *, is_canary):
    options = {"is_canary": is_canary}
    dramatiq.Actor(print, broker=broker, actor_name=name, queue_name="default", priority=0, options=options)


@pytest.fixture
def world(settings, proxy, database, broker, submit):
    url = settings.database_url.replace(f":{proxy.target_port}/", f":{proxy.port}/")
    for name, is_canary in {"known": False, "canary": True}.items():
        declare_type(broker, name, is_canary=is_canary)
    world = World(dataclasses.replace(settings, database_url=url), proxy, database, broker, submit)
    # A first statement on a new connection is not sent twice: this is about the others.
    world.database.rows("SELECT 1")
    events.subscribe("test", world.announced.append)
    yield world
    events._subscribers.remove(("test", world.announced.append))
    world.database.discard()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_transition_whose_reply_is_lost_is_told_of_once(world, case, loss):
    prepared = case.prepare(world)
    [(job_id,)] = world.near.rows("SELECT id FROM jobs")
    world.announced.clear()
    world.near.rows("DELETE FROM job_events")
    for statement, times in loss.items():
        world.proxy.lose_reply(case.transition if statement is TRANSITION else statement, times=times)

    answer = case.act(world, prepared)

    eventually(lambda: len(world.announced) >= len(case.announced), what="the events")
    assert case.announced == [type(event) for event in world.announced]
    assert {str(job_id)} == {event.job_id for event in world.announced if type(event) is not BulkActionEnded}
    assert [case.row] * (case.row is not None) == world.near.rows(
        "SELECT status, attempts, worker_losses, jsonb_array_length(history) FROM jobs"
    )
    eventually(lambda: [str(job_id)] * case.is_dead == world.dead_letters.ids(), what="the list of dead letters")
    assert answer in case.answers(loss)
    assert world.proxy.lost >= min(loss[TRANSITION], 2)
    # Clients that watch are told once as well.
    is_told = case.row is not None or JobDiscarded in case.announced
    assert [([job_id],)] * is_told == world.near.rows("SELECT job_ids FROM job_events")


def test_a_redrive_that_is_sent_again_late_runs_nothing_again(world, worker_id):
    """The job was run again, and to its end, before the statement is repeated."""
    job_id = dead(world)
    lost_reply = lifecycle.LostReply()
    world.proxy.lose_reply(TRANSITION, times=2)
    with pytest.raises(DatabaseUnavailable):
        lifecycle.redrive(world.database, job_id, lost_reply=lost_reply)
    lifecycle.complete(world.near, [(claim_one(world.near, job_id, worker_id), "1")])

    assert lifecycle.redrive(world.database, job_id, lost_reply=lost_reply) is None

    assert [("completed",)] == world.near.rows("SELECT status FROM jobs")


def test_a_person_who_cancels_twice_is_told_so(world):
    job_id = waiting(world)

    assert [200, 409] == [world.post(f"/jobs/{job_id}/cancel") for _ in range(2)]
    assert 1 == sum(type(event) is JobCancelled for event in world.announced)


def test_a_claim_that_cannot_be_heard_of_at_a_stop_is_given_back(world):
    job_id = world.submit(type="known")
    world.broker.draining = True
    world.proxy.lose_reply(TRANSITION, times=2)
    assert [] == world.sync.claims.claim([world.message(job_id)])
    assert [("processing",)] == world.near.rows("SELECT status FROM jobs")

    world.proxy.lose_reply(TRANSITION, times=2)
    stop(world, None)

    assert [("pending", 0)] == world.near.rows("SELECT status, attempts FROM jobs")
    assert [JobReceived, JobReleased] == [type(event) for event in world.announced]


def test_a_stop_waits_for_the_verdict_on_what_was_done(world):
    """What it gives back is a claim that it knows nothing of; what has returned is left to its own thread."""
    done = running(world)
    [known] = world.sync.attempts
    known.returned_at = time.monotonic()
    unknown = running_with_lost_reply(world)
    world.announced.clear()
    ending = Thread(target=stop, args=(world, None))

    ending.start()
    eventually(lambda: world.announced, what="a claim that was given back")
    [released] = world.announced
    assert (JobReleased, str(unknown)) == (type(released), released.job_id)
    assert [("processing",)] == world.near.rows("SELECT status FROM jobs WHERE id = %s", (known.claim.job_id,))
    assert ending.is_alive()
    world.end(done)
    ending.join()

    completed = world.announced[-1]
    assert (JobCompleted, str(known.claim.job_id)) == (type(completed), completed.job_id)


def test_a_stop_does_not_wait_for_a_server_that_has_nothing_of_its_own(world):
    world.sync.release.give_back_seconds = math.inf
    world.proxy.down()
    ending = Thread(target=stop, args=(world, None), daemon=True)

    ending.start()

    eventually(lambda: not ending.is_alive(), what="the end of the stop")


def test_a_stop_ends_in_time_whatever_it_leaves(world):
    """The rescuer takes it then."""
    running(world)
    world.sync.release.give_back_seconds = 0.5
    world.proxy.down()

    stop(world, None)

    assert [("processing",)] == world.near.rows("SELECT status FROM jobs")
