"""Any order of verbs, current and stale, on real SQL: the model knows what each must answer."""

from dataclasses import dataclass, field
from uuid import uuid4

import hypothesis.strategies as st
from conftest import claim_one, complete_one
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from jobs_service import lifecycle
from jobs_service.ids import new_id
from jobs_service.lifecycle import POISON_CRASHES, DeadReason, Failure, NewJob, Status

FAILURE = Failure(error="E", message="m", traceback="t", seconds=0.1)
TERMINAL = {Status.COMPLETED, Status.FAILED}

#: Each must return no row, whatever happened.
INVARIANTS = {
    "a lease while processing, and only then": "(status = 'processing') <> (lease_token IS NOT NULL)",
    "no more attempts than allowed": "attempts > max_attempts",
    "a reason when failed, and only then": "(status = 'failed') <> (dead_reason IS NOT NULL)",
    "a failed attempt is in the history": "jsonb_array_length(history) > attempts",
    "pending jobs have a date to be looked at": "status = 'pending' AND publish_at IS NULL",
    "a result only when completed": "result IS NOT NULL AND status <> 'completed'",
}


@dataclass
class Model:
    """What one job must look like."""

    max_attempts: int
    status: Status = Status.PENDING
    attempts: int = 0
    crashes: int = 0
    failures: int = 0
    claims: list = field(default_factory=list)

    @property
    def current(self):
        return self.claims[-1] if self.status is Status.PROCESSING else None


def machine_on(database):  # noqa: C901 - it adds up the rules, each of which is simple
    """Return the machine for a database: Hypothesis makes its instances itself, and gives them nothing."""

    class Machine(RuleBasedStateMachine):
        jobs = Bundle("jobs")

        @initialize()
        def empty(self):
            database.rows("TRUNCATE jobs, workers")
            self.models = {}

        @rule(target=jobs, max_attempts=st.integers(1, 4))
        def submit(self, max_attempts):
            job_id = new_id()
            lifecycle.submit(database, [NewJob(job_id, "t", "{}", "default", 5, max_attempts)])
            self.models[job_id] = Model(max_attempts)
            return job_id

        @rule(job_id=jobs)
        def submit_again_after_a_lost_answer(self, job_id):
            lifecycle.submit(database, [NewJob(job_id, "t", '{"other": 1}', "default", 5, 9)])

        @rule(job_id=jobs)
        def publish(self, job_id):
            lifecycle.published(database, [job_id], republish_seconds=20)

        @rule(job_id=jobs)
        def claim(self, job_id):
            model = self.models[job_id]
            claim = claim_one(database, job_id, uuid4())
            assert (claim is not None) == (model.status is Status.PENDING)
            if claim:
                model.status, model.attempts = Status.PROCESSING, model.attempts + 1
                model.claims.append(claim)
                assert (model.attempts, model.crashes) == (claim.attempts, claim.crashes)

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
                model.status = Status.FAILED
            model.failures += 1

        @rule(job_id=jobs)
        def release(self, job_id):
            model = self.models[job_id]
            if model.current:
                assert lifecycle.release(database, model.current)
                model.status, model.attempts = Status.PENDING, model.attempts - 1

        @rule(job_id=jobs, data=st.data())
        def write_late(self, job_id, data):
            """An attempt that lost its lease long ago tries every verb."""
            model = self.models[job_id]
            stale = [claim for claim in model.claims if claim is not model.current and claim.worker_id in self.lost]
            if stale:
                claim = data.draw(st.sampled_from(stale))
                assert not complete_one(database, claim, '"late"')
                assert not lifecycle.retry(database, claim, FAILURE, delay_seconds=0)
                assert not lifecycle.bury(database, claim, FAILURE, reason=DeadReason.REJECTED)
                assert not lifecycle.release(database, claim)

        @rule()
        def lose_all_workers(self):
            database.rows("UPDATE jobs SET started_at = now() - interval '1 hour' WHERE status = 'processing'")
            held = {job_id for job_id, model in self.models.items() if model.current}
            assert held == {rescued.job_id for rescued in lifecycle.rescue(database, lease_seconds=15)}
            for job_id in held:
                self._crash(self.models[job_id])

        def _crash(self, model):
            self.lost.add(model.current.worker_id)
            model.crashes, model.failures = model.crashes + 1, model.failures + 1
            final = model.attempts >= model.max_attempts or model.crashes >= POISON_CRASHES
            model.status = Status.FAILED if final else Status.PENDING

        @property
        def lost(self):
            return self.__dict__.setdefault("_lost", set())

        @invariant()
        def nothing_forbidden_is_there(self):
            for sentence, wrong in INVARIANTS.items():
                assert database.rows(f"SELECT id FROM jobs WHERE {wrong}") == [], sentence

        @invariant()
        def every_job_is_as_the_model_says(self):
            rows = database.rows("SELECT id, status, attempts, crashes, jsonb_array_length(history) FROM jobs")
            models = getattr(self, "models", {})
            seen = {job_id: (Status(status), *counts) for job_id, status, *counts in rows}
            assert seen == {
                job_id: (model.status, model.attempts, model.crashes, model.failures)
                for job_id, model in models.items()
            }

    return Machine


def test_any_order_of_verbs_keeps_every_promise(database):
    run_state_machine_as_test(
        machine_on(database),
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
