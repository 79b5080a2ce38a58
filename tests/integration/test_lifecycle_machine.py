"""Any order of verbs, current and stale, on real SQL, heard of or not: the model knows what each must answer."""

from dataclasses import dataclass, field
from uuid import UUID

import hypothesis.strategies as st
from dramatiq.message import Message
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from rows import claim_one, complete_one, release_one, rescue
from samples import a_failure, new_job
from time_travel import set_dates

from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.lifecycle import POISON_WORKER_LOSSES, EndReason, OnAmbiguous, Status
from jobs_service.maintenance.dead_letters import DeadLetters
from jobs_service.maintenance.recovery import Recovery
from jobs_service.maintenance.relay import Relay
from jobs_service.maintenance.service import Turn

#: Few, so that a worker often meets a job that it had before.
WORKERS = [UUID(int=1), UUID(int=2)]

FAILURE = a_failure()

#: Each must return no row, whatever happened.
INVARIANTS = {
    "a lease while processing, and only then": "(status = 'processing') <> (lease_token IS NOT NULL)",
    "no more attempts than allowed": "attempts > max_attempts",
    "a reason without a result, and only then": "(status IN ('failed', 'cancelled')) <> (end_reason IS NOT NULL)",
    "an end when terminal, and only then": "(status IN ('pending', 'processing')) <> (finished_at IS NULL)",
    "pending jobs have a date to be looked at": "status = 'pending' AND publish_at IS NULL",
    "a result only when completed": "result IS NOT NULL AND status <> 'completed'",
    "a text says what the value beside it says": (
        "payload_text::jsonb <> payload OR (result_text IS NOT NULL AND result_text::jsonb IS DISTINCT FROM result)"
    ),
}

#: With a text beside the value, and without.
JSON_TEXTS = st.sampled_from(['{"b": 1, "a": 2}', '{"a": 1, "b": 2}', "1"])


class Forgetful:
    """A database whose first answer to each statement is lost, if so told: the statement is sent again."""

    def __init__(self, database):
        self.database = database
        self.forgets = False

    def rows(self, sql, names=()):
        if self.forgets:
            self.database.rows(sql, names)
        return self.database.rows(sql, names)

    def row(self, sql, names=()):
        return next(iter(self.rows(sql, names)), None)


@dataclass
class Model:
    """What one job must look like."""

    max_attempts: int
    on_ambiguous: OnAmbiguous = OnAmbiguous.RESEND
    payload: str = "1"
    status: Status = Status.PENDING
    attempts: int = 0
    worker_losses: int = 0
    failures: int = 0
    claims: list = field(default_factory=list)
    reason: EndReason | None = None
    effect_begun: bool = False
    expired: bool = False
    #: Its last outcome but crashes and the like was a deferral.
    deferred: bool = False
    #: The tokens of attempts that are over and were not told.
    lost: set = field(default_factory=set)
    #: The tokens of attempts that said of themselves that their process died or broke.
    told: set = field(default_factory=set)

    @property
    def current(self):
        return self.claims[-1] if self.status is Status.PROCESSING else None


def machine_on(real, broker, dead_letters, epoch):  # noqa: C901 - it adds up the rules, each of which is simple
    """Return the machine for a database: Hypothesis makes its instances itself, and gives them nothing."""
    database = Forgetful(real)

    class Machine(RuleBasedStateMachine):
        jobs = Bundle("jobs")

        @initialize()
        def empty(self):
            database.forgets = False
            database.rows("TRUNCATE jobs, workers, servers")
            broker.client.flushall()
            self.models = {}
            self.relay_service = Relay(database, broker, epoch, interval_seconds=1, republish_seconds=20)
            self.recovery_service = Recovery(database, interval_seconds=1)
            self.dead_letters_service = DeadLetters(database, dead_letters, interval_seconds=1)
            # Not once a minute but each time: a list of the right length may hold the wrong ids.
            self.dead_letters_service._is_time_to_compare = lambda: True

        @rule(forgets=st.booleans())
        def lose_replies_from_now_on(self, forgets):
            database.forgets = forgets

        @rule(
            target=jobs, max_attempts=st.integers(1, 4), on_ambiguous=st.sampled_from(OnAmbiguous), payload=JSON_TEXTS
        )
        def submit(self, max_attempts, on_ambiguous, payload):
            job_id = new_id()
            fields = {"max_attempts": max_attempts, "on_ambiguous": on_ambiguous}
            lifecycle.submit(database, [new_job(id=job_id, type="t", payload=payload, **fields)])
            self.models[job_id] = Model(max_attempts, on_ambiguous, payload)
            return job_id

        @rule(job_id=jobs)
        def submit_again_after_a_lost_answer(self, job_id):
            if self.models[job_id].status is None:
                return  # pruned, long after any answer could be missed
            lifecycle.submit(database, [new_job(id=job_id, type="t", payload='{"other": 1}', max_attempts=9)])

        @rule(job_id=jobs)
        def publish(self, job_id):
            lifecycle.published(database, [job_id], republish_seconds=20)

        @rule(job_id=jobs, worker_id=st.sampled_from(WORKERS))
        def claim(self, job_id, worker_id):
            self._claimed(job_id, claim_one(database, job_id, worker_id))

        def _claimed(self, job_id, claim):
            model = self.models[job_id]
            assert (claim is not None) == (model.status is Status.PENDING and not model.expired)
            if claim:
                model.status, model.attempts, model.effect_begun = Status.PROCESSING, model.attempts + 1, False
                model.claims.append(claim)
                assert (model.attempts, model.worker_losses) == (claim.attempts, claim.worker_losses)
                assert model.payload == claim.payload

        @rule()
        def relay(self):
            self.relay_service.run_once(Turn())

        @rule()
        def lose_every_message(self):
            broker.flush("default")

        @rule()
        def wipe_redis(self):
            broker.client.flushall()

        @rule()
        def forget_when_messages_were_sent(self):
            """Time passes: what was published and led to nothing is due again."""
            set_dates(database.rows, "jobs", self._pending(), publish_at=0)

        def _pending(self):
            return [job_id for job_id, model in self.models.items() if model.status is Status.PENDING]

        @rule(doubled=st.booleans(), worker_id=st.sampled_from(WORKERS))
        def pop_a_message(self, doubled, worker_id):
            """A worker pops the first message, perhaps one that was sent twice, and does what it says."""
            popped = broker.client.zpopmin(broker.key("default"))
            for data, _ in popped * (1 + doubled):
                job_id = UUID(Message.decode(data).args[0])
                if not self.models[job_id].current:
                    self._claimed(job_id, claim_one(database, job_id, worker_id))

        @rule(job_id=jobs)
        def begin_the_effect(self, job_id):
            model = self.models[job_id]
            if model.current:
                assert lifecycle.begin_effect(database, model.current)
                model.effect_begun = True

        @rule(job_id=jobs)
        def let_it_expire(self, job_id):
            set_dates(database.rows, "jobs", [job_id], missing_ok=True, expires_at=-1)
            self.models[job_id].expired = True

        @rule()
        def expire(self):
            late = {job_id for job_id, model in self.models.items() if model.expired and model.status is Status.PENDING}
            assert late == {job.job_id for job in lifecycle.expire(database)}
            for job_id in late:
                model = self.models[job_id]
                model.status = Status.FAILED
                model.reason = EndReason.UNAVAILABLE if model.deferred else EndReason.EXPIRED

        @rule(job_id=jobs)
        def cancel(self, job_id):
            model = self.models[job_id]
            possible = model.status in {Status.PENDING, Status.PROCESSING}
            cancelled = lifecycle.cancel(database, job_id)
            assert possible == (cancelled is not None)
            if possible:
                in_doubt = model.current is not None and model.effect_begun
                assert cancelled.on_ambiguous == (model.on_ambiguous if in_doubt else None)
            if possible:
                model.failures += model.current is not None and model.effect_begun
                model.lost |= {model.current.token} if model.current else set()
                model.status, model.reason = Status.CANCELLED, EndReason.CANCELLED_BY_OPERATOR

        @rule(job_id=jobs)
        def redrive(self, job_id):
            model = self.models[job_id]
            possible = model.status in lifecycle.TERMINAL
            assert possible == (lifecycle.redrive(database, job_id) is not None)
            if possible:
                model.lost |= {claim.token for claim in model.claims}
                model.status, model.reason, model.expired, model.deferred = Status.PENDING, None, False, False
                model.attempts = model.worker_losses = 0

        @rule(job_id=jobs)
        def snooze(self, job_id):
            model = self.models[job_id]
            if model.current:
                assert lifecycle.snooze(database, model.current, "not now", delay_seconds=0)
                model.status, model.attempts = Status.PENDING, model.attempts - 1

        @rule(job_id=jobs, is_tried=st.booleans(), is_over=st.booleans())
        def defer(self, job_id, is_tried, is_over):
            """It runs, and what it needs is away: for a moment, or for longer than it may wait."""
            model = self.models[job_id]
            if model.status is Status.PENDING:
                self.claim(job_id, WORKERS[0])
            if not model.current:
                return
            # One that has expired meanwhile cannot wait at all.
            is_over = is_over or model.expired
            deferred = lifecycle.defer(
                database,
                model.current,
                FAILURE,
                deferral=Deferral(first_seconds=0, limit_seconds=-1 if is_over else 3_600),
                server="smtp://mail",
                is_tried=is_tried,
            )
            assert is_over == deferred.is_over
            model.attempts, model.failures = model.attempts - 1, model.failures + is_tried
            model.deferred = not is_over
            model.status = Status.FAILED if is_over else Status.PENDING
            model.reason = EndReason.UNAVAILABLE if is_over else None
            if not is_over:
                set_dates(database.rows, "jobs", [job_id], run_at=0)

        @rule()
        def recover(self):
            """Maintenance chooses a prober, or brings jobs forward."""
            set_dates(database.rows, "servers", missing_ok=True, probe_at=0)
            self.recovery_service.run_once(Turn())

        @rule()
        def forget_which_servers_are_away(self):
            database.rows("TRUNCATE servers")

        @rule(job_id=jobs)
        def discard(self, job_id):
            """A person deletes a dead letter."""
            model = self.models[job_id]
            is_possible = model.status is Status.FAILED
            assert is_possible == (lifecycle.discard(database, job_id, by="b") is not None)
            if is_possible:
                self.models[job_id] = Model(1, status=None, claims=model.claims)

        @rule(job_id=jobs, priority=st.integers(0, 9))
        def change(self, job_id, priority):
            """A client changes a job as it is now; only one that is pending changes."""
            version = lifecycle.version(database, job_id)
            changes = lifecycle.Changes(priority=priority, tags=["t"])
            changed = version and lifecycle.change(database, job_id, changes, version=version)
            assert bool(changed) == (self.models[job_id].status is Status.PENDING)

        @rule(status=st.sampled_from(lifecycle.TERMINAL))
        def prune(self, status):
            gone = {job_id for job_id, model in self.models.items() if model.status is status}
            pruned = lifecycle.prune(database, list(self.models), status=status, retention_seconds=-1)
            assert pruned == (0 if database.forgets else len(gone))
            for job_id in gone:
                self.models[job_id] = Model(1, status=None, claims=self.models[job_id].claims)

        @rule()
        def project_dead_letters(self):
            self.dead_letters_service.run_once(Turn())
            failed = {str(job_id) for job_id, model in self.models.items() if model.status is Status.FAILED}
            assert failed == set(dead_letters.ids())
            assert len(failed) == dead_letters.length()

        @rule(job_id=jobs)
        def ask_for_a_claim_again_after_a_lost_answer(self, job_id):
            model = self.models[job_id]
            if model.current:
                claim = claim_one(database, job_id, model.current.worker_id, token=model.current.token)
                assert claim.attempts == model.attempts

        @rule(job_id=jobs, twice=st.booleans(), result=JSON_TEXTS)
        def complete(self, job_id, twice, result):
            model = self.models[job_id]
            if model.current:
                for _ in range(1 + twice):
                    assert complete_one(database, model.claims[-1], result)
                model.status = Status.COMPLETED

        @rule(job_id=jobs)
        def fail(self, job_id):
            model = self.models[job_id]
            if not model.current:
                return
            if model.attempts < model.max_attempts:
                assert lifecycle.retry(database, model.current, FAILURE, delay_seconds=0)
                model.status, model.deferred = Status.PENDING, False
            else:
                assert lifecycle.fail(database, model.current, FAILURE, reason=EndReason.ATTEMPTS_EXHAUSTED)
                model.status, model.reason = Status.FAILED, EndReason.ATTEMPTS_EXHAUSTED
            model.failures += 1

        @rule(job_id=jobs)
        def release(self, job_id):
            model = self.models[job_id]
            if model.current:
                assert release_one(database, model.current) is not model.effect_begun
                if not model.effect_begun:
                    model.status, model.attempts = Status.PENDING, model.attempts - 1

        @rule(job_id=jobs, data=st.data())
        def write_late(self, job_id, data):
            """An attempt that lost its lease long ago tries every verb."""
            model = self.models[job_id]
            stale = [claim for claim in model.claims if claim is not model.current and claim.token in model.lost]
            if stale:
                claim = data.draw(st.sampled_from(stale))
                assert not complete_one(database, claim, '"late"')
                assert not lifecycle.retry(database, claim, FAILURE, delay_seconds=0)
                assert not lifecycle.fail(database, claim, FAILURE, reason=EndReason.REJECTED)
                assert not release_one(database, claim)
                assert not lifecycle.snooze(database, claim, None, delay_seconds=0)
                assert lifecycle.defer(database, claim, FAILURE, deferral=Deferral()) is None
                assert not lifecycle.begin_effect(database, claim)
                # One that said so itself is answered once more, as after a lost reply.
                if claim.token not in model.told:
                    assert lifecycle.crash(database, claim, "late", delay_seconds=0) is None
                    assert lifecycle.abandon(database, claim, "late") is None

        @rule(worker_id=st.sampled_from(WORKERS))
        def lose_a_worker(self, worker_id):
            held = self._held_by(worker_id)
            assert held == {rescued.job_id for rescued in rescue(database, worker_id)}
            for job_id in held:
                self._crash(self.models[job_id], counted=False)

        @rule(worker_id=st.sampled_from(WORKERS), known=st.booleans())
        def end_a_worker(self, worker_id, known):
            held = {job_id for job_id in self._held_by(worker_id) if not self.models[job_id].effect_begun}
            tokens = [model.current.token for model in self.models.values() if model.current] if known else []
            released = lifecycle.release_worker(database, worker_id, known=tokens)
            assert (set() if known else held) == {job.job_id for job in released}
            for job in released:
                model = self.models[job.job_id]
                assert job.attempts == model.attempts
                model.lost.add(model.current.token)
                model.status, model.attempts = Status.PENDING, model.attempts - 1

        def _held_by(self, worker_id):
            return {
                job_id
                for job_id, model in self.models.items()
                if model.current and model.current.worker_id == worker_id
            }

        @rule(job_id=jobs)
        def crash(self, job_id):
            """Its own process dies, and the worker says so."""
            model = self.models[job_id]
            if model.current:
                rescued = lifecycle.crash(database, model.current, "SIGKILL", delay_seconds=0)
                self._crash_told(model, rescued, counted=True)

        @rule(job_id=jobs)
        def abandon(self, job_id):
            """Its process is broken, and the worker says so."""
            model = self.models[job_id]
            if model.current:
                rescued = lifecycle.abandon(database, model.current, "no file can be opened")
                self._crash_told(model, rescued, counted=False)

        @rule(job_id=jobs)
        def fail_unknown(self, job_id):
            model = self.models[job_id]
            is_possible = model.status is Status.PENDING
            failed = lifecycle.fail_unknown(database, [job_id], job_type="t", grace_seconds=-3_600)
            assert is_possible == bool(failed)
            if is_possible:
                model.status, model.reason = Status.FAILED, EndReason.UNKNOWN_TYPE

        def _crash_told(self, model, rescued, *, counted):
            """The worker itself said so, and learns what has become of the job."""
            attempts = model.attempts
            model.told.add(model.current.token)
            self._crash(model, counted=counted)
            assert (model.reason, attempts) == (rescued.end_reason, rescued.attempts)

        def _crash(self, model, *, counted):
            model.lost.add(model.current.token)
            model.worker_losses, model.failures = model.worker_losses + 1, model.failures + 1
            model.reason = _reason_after_a_crash(model, counted)
            model.attempts -= not counted
            model.status = Status.FAILED if model.reason else Status.PENDING

        @invariant()
        def nothing_forbidden_is_there(self):
            for sentence, wrong in INVARIANTS.items():
                assert database.rows(f"SELECT id FROM jobs WHERE {wrong}") == [], sentence

        @invariant()
        def every_job_is_as_the_model_says(self):
            rows = database.rows(
                "SELECT id, status, end_reason, attempts, worker_losses, jsonb_array_length(history) FROM jobs"
            )
            models = getattr(self, "models", {})
            assert {job_id: tuple(facts) for job_id, *facts in rows} == {
                job_id: (model.status, model.reason, model.attempts, model.worker_losses, model.failures)
                for job_id, model in models.items()
                if model.status
            }

    return Machine


def _reason_after_a_crash(model, counted):
    if model.worker_losses >= POISON_WORKER_LOSSES:
        return EndReason.POISON
    if model.effect_begun and model.on_ambiguous is OnAmbiguous.HOLD:
        return EndReason.AMBIGUOUS
    return EndReason.ATTEMPTS_EXHAUSTED if counted and model.attempts >= model.max_attempts else None


def test_any_order_of_verbs_keeps_every_promise(database, broker, dead_letters, epoch):
    run_state_machine_as_test(
        machine_on(database, broker, dead_letters, epoch),
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
