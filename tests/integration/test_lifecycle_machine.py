"""Any order of verbs, current and stale, on real SQL: the model knows what each must answer."""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

import hypothesis.strategies as st
from dramatiq.message import Message
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from rows import claim_one, complete_one

from jobs_service import lifecycle
from jobs_service.ids import new_id
from jobs_service.lifecycle import POISON_CRASHES, DeadReason, Failure, NewJob, OnAmbiguous, Status
from jobs_service.maintenance.dead_letters import DeadLetters
from jobs_service.maintenance.relay import Relay
from jobs_service.maintenance.service import Turn

FAILURE = Failure(error="E", message="m", traceback="t", seconds=0.1)

#: Each must return no row, whatever happened.
INVARIANTS = {
    "a lease while processing, and only then": "(status = 'processing') <> (lease_token IS NOT NULL)",
    "no more attempts than allowed": "attempts > max_attempts",
    "a reason without a result, and only then": "(status IN ('failed', 'cancelled')) <> (dead_reason IS NOT NULL)",
    "an end when terminal, and only then": "(status IN ('pending', 'processing')) <> (finished_at IS NULL)",
    "pending jobs have a date to be looked at": "status = 'pending' AND publish_at IS NULL",
    "a result only when completed": "result IS NOT NULL AND status <> 'completed'",
}


@dataclass
class Model:
    """What one job must look like."""

    max_attempts: int
    on_ambiguous: OnAmbiguous = OnAmbiguous.RESEND
    status: Status = Status.PENDING
    attempts: int = 0
    crashes: int = 0
    failures: int = 0
    claims: list = field(default_factory=list)
    reason: DeadReason | None = None
    effect_begun: bool = False
    expired: bool = False
    #: The tokens of attempts that are over and were not told.
    lost: set = field(default_factory=set)

    @property
    def current(self):
        return self.claims[-1] if self.status is Status.PROCESSING else None


def machine_on(database, broker, dead_letters):  # noqa: C901 - it adds up the rules, each of which is simple
    """Return the machine for a database: Hypothesis makes its instances itself, and gives them nothing."""

    class Machine(RuleBasedStateMachine):
        jobs = Bundle("jobs")

        @initialize()
        def empty(self):
            database.rows("TRUNCATE jobs, workers")
            broker.client.flushall()
            self.models = {}
            self.relay_service = Relay(database, broker, dead_letters, interval_seconds=1, republish_seconds=20)
            self.dead_letters_service = DeadLetters(database, dead_letters, interval_seconds=1)
            # Not once a minute but each time: a list of the right length may hold the wrong ids.
            self.dead_letters_service._is_time_to_compare = lambda: True

        @rule(target=jobs, max_attempts=st.integers(1, 4), on_ambiguous=st.sampled_from(OnAmbiguous))
        def submit(self, max_attempts, on_ambiguous):
            job_id = new_id()
            lifecycle.submit(
                database, [NewJob(job_id, "t", "{}", "default", 5, max_attempts, on_ambiguous=on_ambiguous)]
            )
            self.models[job_id] = Model(max_attempts, on_ambiguous)
            return job_id

        @rule(job_id=jobs)
        def submit_again_after_a_lost_answer(self, job_id):
            if self.models[job_id].status is None:
                return  # pruned, long after any answer could be missed
            lifecycle.submit(database, [NewJob(job_id, "t", '{"other": 1}', "default", 5, 9)])

        @rule(job_id=jobs)
        def publish(self, job_id):
            lifecycle.published(database, [job_id], republish_seconds=20)

        @rule(job_id=jobs)
        def claim(self, job_id):
            self._claimed(job_id, claim_one(database, job_id, uuid4()))

        def _claimed(self, job_id, claim):
            model = self.models[job_id]
            assert (claim is not None) == (model.status is Status.PENDING and not model.expired)
            if claim:
                model.status, model.attempts, model.effect_begun = Status.PROCESSING, model.attempts + 1, False
                model.claims.append(claim)
                assert (model.attempts, model.crashes) == (claim.attempts, claim.crashes)

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
            database.rows("UPDATE jobs SET publish_at = now() WHERE status = 'pending'")

        @rule(doubled=st.booleans())
        def ring(self, doubled):
            """A worker pops the first message, perhaps one that was sent twice, and does what it says."""
            popped = broker.client.zpopmin(broker.key("default"))
            for data, _ in popped * (1 + doubled):
                job_id = UUID(Message.decode(data).args[0])
                if not self.models[job_id].current:
                    self._claimed(job_id, claim_one(database, job_id, uuid4()))

        @rule(job_id=jobs)
        def begin_the_effect(self, job_id):
            model = self.models[job_id]
            if model.current:
                assert lifecycle.begin_effect(database, model.current)
                model.effect_begun = True

        @rule(job_id=jobs)
        def let_it_expire(self, job_id):
            database.rows("UPDATE jobs SET expires_at = now() - interval '1 second' WHERE id = %s", (job_id,))
            self.models[job_id].expired = True

        @rule()
        def expire(self):
            late = {job_id for job_id, model in self.models.items() if model.expired and model.status is Status.PENDING}
            assert late == {job.job_id for job in lifecycle.expire(database)}
            for job_id in late:
                self.models[job_id].status, self.models[job_id].reason = Status.FAILED, DeadReason.EXPIRED

        @rule(job_id=jobs)
        def cancel(self, job_id):
            model = self.models[job_id]
            possible = model.status in {Status.PENDING, Status.PROCESSING}
            assert possible == (lifecycle.cancel(database, job_id) is not None)
            if possible:
                model.lost |= {model.current.token} if model.current else set()
                model.status, model.reason = Status.CANCELLED, DeadReason.CANCELLED_BY_OPERATOR

        @rule(job_id=jobs)
        def redrive(self, job_id):
            model = self.models[job_id]
            possible = model.status in lifecycle.TERMINAL
            assert possible == (lifecycle.redrive(database, job_id) is not None)
            if possible:
                model.lost |= {claim.token for claim in model.claims}
                model.status, model.reason, model.expired = Status.PENDING, None, False
                model.attempts = model.crashes = 0

        @rule(job_id=jobs)
        def snooze(self, job_id):
            model = self.models[job_id]
            if model.current:
                assert lifecycle.snooze(database, model.current, "not now", delay_seconds=0)
                model.status, model.attempts = Status.PENDING, model.attempts - 1

        @rule(status=st.sampled_from(lifecycle.TERMINAL))
        def prune(self, status):
            gone = {job_id for job_id, model in self.models.items() if model.status is status}
            assert len(gone) == lifecycle.prune(database, list(self.models), status=status, retention_seconds=-1)
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

        @rule(job_id=jobs, twice=st.booleans())
        def complete(self, job_id, twice):
            model = self.models[job_id]
            if model.current:
                for _ in range(1 + twice):
                    assert complete_one(database, model.claims[-1], "1")
                model.status = Status.COMPLETED

        @rule(job_id=jobs)
        def fail(self, job_id):
            model = self.models[job_id]
            if not model.current:
                return
            if model.attempts < model.max_attempts:
                assert lifecycle.retry(database, model.current, FAILURE, delay_seconds=0)
                model.status = Status.PENDING
            else:
                assert lifecycle.bury(database, model.current, FAILURE, reason=DeadReason.ATTEMPTS_EXHAUSTED)
                model.status, model.reason = Status.FAILED, DeadReason.ATTEMPTS_EXHAUSTED
            model.failures += 1

        @rule(job_id=jobs)
        def release(self, job_id):
            model = self.models[job_id]
            if model.current:
                assert lifecycle.release(database, model.current) is not model.effect_begun
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
                assert not lifecycle.bury(database, claim, FAILURE, reason=DeadReason.REJECTED)
                assert not lifecycle.release(database, claim)
                assert not lifecycle.snooze(database, claim, None, delay_seconds=0)
                assert not lifecycle.begin_effect(database, claim)
                assert lifecycle.crash(database, claim, "late", delay_seconds=0) is None

        @rule()
        def lose_all_workers(self):
            database.rows("UPDATE jobs SET started_at = now() - interval '1 hour' WHERE status = 'processing'")
            held = {job_id for job_id, model in self.models.items() if model.current}
            assert held == {rescued.job_id for rescued in lifecycle.rescue(database, lease_seconds=15)}
            for job_id in held:
                self._crash(self.models[job_id])

        @rule(job_id=jobs)
        def crash(self, job_id):
            """Its own process dies, and the worker says so."""
            model = self.models[job_id]
            if model.current:
                rescued = lifecycle.crash(database, model.current, "SIGKILL", delay_seconds=0)
                self._crash(model)
                assert (model.status, model.reason) == (rescued.status, rescued.dead_reason)

        def _crash(self, model):
            model.lost.add(model.current.token)
            model.crashes, model.failures = model.crashes + 1, model.failures + 1
            model.reason = _reason_after_a_crash(model)
            model.status = Status.FAILED if model.reason else Status.PENDING

        @invariant()
        def nothing_forbidden_is_there(self):
            for sentence, wrong in INVARIANTS.items():
                assert database.rows(f"SELECT id FROM jobs WHERE {wrong}") == [], sentence

        @invariant()
        def every_job_is_as_the_model_says(self):
            rows = database.rows(
                "SELECT id, status, dead_reason, attempts, crashes, jsonb_array_length(history) FROM jobs"
            )
            models = getattr(self, "models", {})
            assert {job_id: tuple(facts) for job_id, *facts in rows} == {
                job_id: (model.status, model.reason, model.attempts, model.crashes, model.failures)
                for job_id, model in models.items()
                if model.status
            }

    return Machine


def _reason_after_a_crash(model):
    if model.crashes >= POISON_CRASHES:
        return DeadReason.POISON
    if model.effect_begun and model.on_ambiguous is OnAmbiguous.HOLD:
        return DeadReason.AMBIGUOUS
    return DeadReason.ATTEMPTS_EXHAUSTED if model.attempts >= model.max_attempts else None


def test_any_order_of_verbs_keeps_every_promise(database, broker, dead_letters):
    run_state_machine_as_test(
        machine_on(database, broker, dead_letters),
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
