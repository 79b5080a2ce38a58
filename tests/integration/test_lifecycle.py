"""The verbs against PostgreSQL: each moves a row once, and only along its transition."""

import dataclasses
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
import pytest
from rows import claim_one, complete_one, insert_by_hand, release_one, rescue
from samples import a_failure, new_job
from time_travel import HOUR, MINUTE, set_dates

from jobs_service.config import Settings
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle
from jobs_service.jobs.lifecycle import ClaimRequest, EndReason, OnAmbiguous, Status

FAILURE = a_failure(error="RuntimeError", message="no", seconds=0.25)


@pytest.fixture
def claim(database, submit, worker_id):
    return claim_one(database, submit(payload={"a": 1}), worker_id)


def test_a_submitted_job_is_pending_and_due(submit, row):
    job_id = submit()

    assert ("pending", 0, True, True) == row(job_id, "status", "attempts", "run_at <= now()", "publish_at <= now()")


def test_a_job_whose_message_follows_is_left_to_it_for_a_while(submit, row):
    job_id = submit(publish_grace_seconds=20)

    assert row(job_id, "publish_at > now() + interval '15 seconds'")


def test_a_delay_and_a_date_put_off_both_run_and_publication(submit, row):
    later = datetime.now(UTC) + timedelta(hours=1)

    for job_id in (submit(delay_seconds=3600), submit(run_at=later)):
        assert row(job_id, "run_at > now() + interval '59 minutes' AND publish_at >= run_at")


def test_a_date_in_the_past_means_now(submit, row):
    job_id = submit(run_at=datetime(2001, 1, 1, tzinfo=UTC))

    assert row(job_id, "run_at > now() - interval '1 minute'")


def test_the_two_columns_of_the_brief_hold_utc(database, submit, row):
    database.rows("SET timezone = 'Asia/Kolkata'")

    job_id = submit()

    assert row(job_id, "abs(extract(epoch FROM timezone('utc', now()) - created_at)) < 60")


def test_a_claim_counts_the_attempt_and_returns_the_payload(database, submit, worker_id, row):
    job_id = submit(payload={"name": "Alice"})

    claim = claim_one(database, job_id, worker_id)

    assert {"name": "Alice"} == msgspec.json.decode(claim.payload)
    assert (1, 3) == (claim.attempts, claim.max_attempts)
    assert ("processing", 1, claim.token) == row(job_id, "status", "attempts", "lease_token")


def test_a_second_claim_finds_nothing(database, claim):
    assert claim_one(database, claim.job_id, uuid4()) is None


def test_a_claim_whose_answer_was_lost_is_found_by_its_token(database, claim):
    again = claim_one(database, claim.job_id, claim.worker_id, token=claim.token)

    assert (claim.token, 1) == (again.token, again.attempts)


def test_a_job_that_is_not_due_or_not_there_cannot_be_claimed(database, submit, worker_id):
    assert claim_one(database, submit(delay_seconds=60), worker_id) is None
    assert claim_one(database, new_id(), worker_id) is None


def test_completing_keeps_the_result_and_ends_the_lease(database, claim, row):
    assert complete_one(database, claim, '"output/x.csv"')

    expected = ("completed", '"output/x.csv"', None, True)
    assert expected == row(claim.job_id, "status", "result", "lease_token", "finished_at IS NOT NULL")


def test_a_verdict_that_is_sent_twice_holds_once(database, claim, row):
    assert complete_one(database, claim, "1")
    assert complete_one(database, claim, "1")

    assert ("completed", 1) == row(claim.job_id, "status", "attempts")


def test_completing_a_canary_deletes_it_and_notes_when(database, claim, row):
    assert lifecycle.complete_canary(database, claim)

    assert row(claim.job_id, "status") is None
    noted = database.row("SELECT queue, job_id, seconds >= 0 FROM canaries WHERE finished_at <= now()")
    assert ("default", claim.job_id, True) == noted


def test_a_canary_completed_twice_is_so_by_its_own_attempt_only(database, claim, worker_id):
    """The first answer was lost; and an attempt that lost its lease to another is late."""
    rescue(database, worker_id)
    successor = claim_one(database, claim.job_id, worker_id)

    assert not lifecycle.complete_canary(database, claim)
    for _ in range(2):
        assert lifecycle.complete_canary(database, successor)
    assert not lifecycle.complete_canary(database, claim)


def test_a_retry_puts_the_job_off_and_writes_history(database, claim, row):
    assert lifecycle.retry(database, claim, FAILURE, delay_seconds=30)

    status, error, off, history = row(
        claim.job_id, "status", "error", "run_at > now() + interval '25 seconds' AND publish_at = run_at", "history"
    )
    assert ("pending", "no", True) == (status, error, off)
    [entry] = msgspec.json.decode(history)
    assert (1, "RuntimeError", 0.25) == (entry["attempt"], entry["error"], entry["seconds"])
    assert str(claim.worker_id) == entry["worker_id"]


def test_failing_makes_a_dead_letter_with_its_reason(database, claim, row):
    assert lifecycle.fail(database, claim, FAILURE, reason=EndReason.REJECTED)

    assert ("failed", "rejected", "no") == row(claim.job_id, "status", "end_reason", "error")


def test_releasing_gives_the_attempt_back(database, claim, row):
    assert release_one(database, claim)

    assert ("pending", 0, None) == row(claim.job_id, "status", "attempts", "lease_token")


def test_a_late_writer_is_refused(database, claim, worker_id, row):
    """Paused for longer than its lease, it wakes up while its successor is at work."""
    [rescued] = rescue(database, worker_id)
    successor = claim_one(database, claim.job_id, worker_id)

    assert claim.job_id == rescued.job_id
    assert not complete_one(database, claim, '"late"')
    assert not lifecycle.retry(database, claim, FAILURE, delay_seconds=0)
    assert not lifecycle.fail(database, claim, FAILURE, reason=EndReason.REJECTED)
    assert not release_one(database, claim)
    assert ("processing", 1) == row(claim.job_id, "status", "attempts")
    assert complete_one(database, successor, '"right"')


def test_a_worker_that_has_beaten_since_it_was_looked_at_keeps_its_jobs(database, claim, row):
    assert [] == lifecycle.rescue(database, {claim.worker_id: -1, uuid4(): None})

    assert "processing" == row(claim.job_id, "status")


def test_jobs_without_a_worker_are_rescued_too(database, claim, row):
    database.rows("UPDATE jobs SET worker_id = NULL")

    assert [claim.job_id] == [job.job_id for job in lifecycle.rescue(database, {None: None})]
    assert "pending" == row(claim.job_id, "status")


def test_an_attempt_that_its_worker_was_lost_with_does_not_count(database, submit, row):
    """It may have been a neighbour that killed the worker."""
    lost = uuid4()
    claim = claim_one(database, submit(max_attempts=1), lost)

    [rescued] = rescue(database, lost)

    assert (None, 1) == (rescued.end_reason, rescued.attempts)
    assert ("pending", 0, 1) == row(claim.job_id, "status", "attempts", "worker_losses")
    [entry] = msgspec.json.decode(row(claim.job_id, "history"))
    assert ("WorkerLost", 1, False) == (entry["error"], entry["attempt"], entry["counted"])
    assert claim_one(database, claim.job_id, uuid4())


def test_an_attempt_that_killed_its_own_process_counts(database, submit, worker_id, row):
    claim = claim_one(database, submit(max_attempts=1), worker_id)

    rescued = lifecycle.crash(database, claim, "SIGKILL", delay_seconds=5)

    assert EndReason.ATTEMPTS_EXHAUSTED is rescued.end_reason
    assert ("failed", 1, 1) == row(claim.job_id, "status", "attempts", "worker_losses")
    [entry] = msgspec.json.decode(row(claim.job_id, "history"))
    assert "counted" not in entry


def test_an_attempt_of_a_broken_process_is_given_up_and_does_not_count(database, submit, worker_id, row):
    claim = claim_one(database, submit(max_attempts=1), worker_id)

    rescued = lifecycle.abandon(database, claim, "no file can be opened")

    assert (None, 1) == (rescued.end_reason, rescued.attempts)
    assert ("pending", 0, 1, "no file can be opened") == row(
        claim.job_id, "status", "attempts", "worker_losses", "history->0->>'message'"
    )
    assert lifecycle.abandon(database, claim_one(database, claim.job_id, uuid4()), "again").end_reason is None
    assert (
        EndReason.POISON is lifecycle.abandon(database, claim_one(database, claim.job_id, uuid4()), "again").end_reason
    )


def give_back(database, claim):
    return release_one(database, claim)


def give_back_of_worker(database, claim):
    return lifecycle.release_worker(database, claim.worker_id)


def take_back(database, claim):
    return rescue(database, claim.worker_id)


def give_up(database, claim):
    return lifecycle.abandon(database, claim, "broken")


@pytest.mark.parametrize("verb", [give_back, give_back_of_worker, take_back, give_up])
def test_what_goes_back_keeps_its_place_in_line_and_is_looked_at_at_once(database, submit, worker_id, row, verb):
    job_id = submit()
    set_dates(database.rows, "jobs", run_at=-HOUR)
    submitted = row(job_id, "run_at")
    claim = claim_one(database, job_id, worker_id)
    set_dates(database.rows, "jobs", publish_at=HOUR)

    assert verb(database, claim)

    assert (submitted, True) == row(job_id, "run_at", "publish_at <= now()")
    # It waits since now, not since it could run for the first time.
    assert 3_600 <= claim.waited_seconds
    assert 60 > claim_one(database, job_id, worker_id).waited_seconds


@pytest.mark.parametrize("verb", [give_back, give_back_of_worker, take_back, give_up])
def test_after_a_step_of_the_clock_what_goes_back_is_due(database, submit, worker_id, row, verb):
    claim = claim_one(database, submit(), worker_id)
    set_dates(database.rows, "jobs", run_at=HOUR)

    assert verb(database, claim)

    assert row(claim.job_id, "run_at <= now()")


def test_a_late_verdict_of_the_same_worker_is_refused(database, submit, worker_id, row):
    """Status, attempts and worker are the same as after the verdict; only the token tells the attempts apart."""
    late = claim_one(database, submit(), worker_id)
    lifecycle.cancel(database, late.job_id)
    lifecycle.redrive(database, late.job_id)
    current = claim_one(database, late.job_id, worker_id)
    assert complete_one(database, current, '"right"')

    assert not complete_one(database, late, '"late"')
    assert '"right"' == row(late.job_id, "result")
    assert complete_one(database, current, '"asked again"')


def test_a_late_release_and_a_late_retry_of_the_same_worker_are_refused(database, submit, worker_id):
    late = claim_one(database, submit(), worker_id)
    lifecycle.cancel(database, late.job_id)
    lifecycle.redrive(database, late.job_id)
    current = claim_one(database, late.job_id, worker_id)
    assert release_one(database, current)

    assert not release_one(database, late)
    assert not lifecycle.snooze(database, late, None, delay_seconds=0)
    assert not lifecycle.retry(database, late, FAILURE, delay_seconds=0)
    assert lifecycle.crash(database, late, "late", delay_seconds=0) is None
    assert lifecycle.abandon(database, late, "late") is None


def test_a_worker_that_ends_keeps_what_it_knows_of(database, submit, worker_id, row):
    known, unknown = (claim_one(database, submit(), worker_id) for _ in range(2))

    released = lifecycle.release_worker(database, worker_id, known=[known.token])

    assert [(unknown.job_id, 1)] == [(job.job_id, job.attempts) for job in released]
    assert "processing" == row(known.job_id, "status")


def test_an_unknown_type_is_failed_only_after_its_grace(database, submit, row):
    job_id = submit(type="from-the-future")

    assert [] == lifecycle.fail_unknown(database, [job_id], job_type="from-the-future", grace_seconds=600)
    assert [job_id] == [
        job.job_id for job in lifecycle.fail_unknown(database, [job_id], job_type="from-the-future", grace_seconds=0)
    ]
    assert ("failed", "unknown_type") == row(job_id, "status", "end_reason")


def test_publishing_is_noted_without_touching_an_index(database, submit):
    job_id = submit()
    database.rows("SELECT pg_stat_force_next_flush()")

    lifecycle.published(database, [job_id], republish_seconds=20)

    database.rows("SELECT pg_stat_force_next_flush()")
    hot = "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'jobs'"
    assert (1,) == database.row(hot)


def test_a_row_inserted_by_hand_is_a_whole_job(database, worker_id):
    job_id = new_id()
    insert_by_hand(database, job_id)

    assert claim_one(database, job_id, worker_id)


def test_many_jobs_are_written_claimed_and_completed_by_a_statement_each(database, worker_id):
    jobs = [new_job() for _ in range(20)]

    lifecycle.submit(database, jobs)
    claims = lifecycle.claim(database, [ClaimRequest(job.id, worker_id) for job in reversed(jobs)])
    completed = lifecycle.complete(database, [(claim, f'"{claim.job_id}"') for claim in claims])

    assert [True] * 20 == completed
    assert [job.id for job in reversed(jobs)] == [claim.job_id for claim in claims]
    wrong = "SELECT count(*) FROM jobs WHERE result <> to_jsonb(id::text) OR attempts <> 1"
    assert (0,) == database.row(wrong)


def test_of_a_batch_only_what_can_be_claimed_is(database, submit, worker_id):
    due, later, unknown = submit(), submit(delay_seconds=60), new_id()

    claims = lifecycle.claim(database, [ClaimRequest(job_id, worker_id) for job_id in (later, due, unknown, due)])

    assert 1 == len([claim for claim in claims if claim])
    assert claims[0] is None
    assert claims[2] is None


def test_a_job_that_lost_three_workers_is_poison(database, submit, row):
    job_id = submit(max_attempts=10)
    reasons = []

    for _ in range(3):
        claim = claim_one(database, job_id, uuid4())
        reasons += [rescued.end_reason for rescued in rescue(database, claim.worker_id)]

    assert 2 == claim.worker_losses
    assert [None, None, EndReason.POISON] == reasons
    assert ("failed", "poison", 0) == row(job_id, "status", "end_reason", "attempts")


def test_a_claim_looks_its_job_up_by_id_whatever_the_statistics_say(database, submit):
    database.rows("ANALYZE jobs")
    lifecycle.submit(database, [new_job() for _ in range(2_000)])
    names = {"job_ids": [submit()], "worker_ids": [uuid4()], "tokens": [uuid4()]}

    plan = "\n".join(line for (line,) in database.rows("EXPLAIN " + lifecycle._CLAIM, names))

    assert "jobs_pkey" in plan
    assert "jobs_by_status" not in plan
    assert "jobs_waiting" not in plan


def test_a_snooze_puts_the_job_off_and_gives_the_attempt_back(database, claim, row):
    assert lifecycle.snooze(database, claim, "the server is away", delay_seconds=30)
    assert lifecycle.snooze(database, claim, "sent twice, as after a lost answer", delay_seconds=30)

    expected = ("pending", 0, "the server is away", True)
    assert expected == row(claim.job_id, "status", "attempts", "error", "run_at > now() + interval '25 seconds'")


def test_an_effect_begins_only_under_the_lease(database, claim, row):
    assert lifecycle.begin_effect(database, claim)
    assert row(claim.job_id, "effect_started_at IS NOT NULL")

    lifecycle.cancel(database, claim.job_id)

    assert not lifecycle.begin_effect(database, claim)


@pytest.mark.parametrize(
    ("on_ambiguous", "expected"),
    [(OnAmbiguous.RESEND, ("pending", None)), (OnAmbiguous.HOLD, ("failed", "ambiguous"))],
)
def test_a_worker_lost_after_its_effect_began_leaves_an_unknown_outcome(database, submit, row, on_ambiguous, expected):
    claim = claim_one(database, submit(on_ambiguous=on_ambiguous), uuid4())
    lifecycle.begin_effect(database, claim)

    [rescued] = rescue(database, claim.worker_id)

    assert on_ambiguous is rescued.on_ambiguous
    assert expected == row(claim.job_id, "status", "end_reason")
    [entry] = msgspec.json.decode(row(claim.job_id, "history"))
    assert entry["ambiguous"] is True


def test_a_worker_lost_before_its_effect_began_leaves_no_doubt(database, submit, row):
    claim = claim_one(database, submit(on_ambiguous=OnAmbiguous.HOLD), uuid4())

    [rescued] = rescue(database, claim.worker_id)

    assert rescued.on_ambiguous is None
    assert ("pending", None) == row(claim.job_id, "status", "end_reason")


def test_an_unknown_outcome_is_marked_in_the_history(database, claim, row):
    failure = a_failure(error="DeliveryUnknown", message="the answer was lost", is_ambiguous=True)
    assert lifecycle.fail(database, claim, failure, reason=EndReason.AMBIGUOUS)

    [entry] = msgspec.json.decode(row(claim.job_id, "history"))
    assert entry["ambiguous"] is True


def test_an_expired_job_cannot_be_claimed_and_becomes_a_dead_letter(database, submit, worker_id, row):
    job_id = submit()
    set_dates(database.rows, "jobs", expires_at=-1)
    other = submit(expires_at=datetime.now(UTC) + timedelta(hours=1))

    assert claim_one(database, job_id, worker_id) is None
    assert [job_id] == [job.job_id for job in lifecycle.expire(database)]

    assert ("failed", "expired") == row(job_id, "status", "end_reason")
    assert claim_one(database, other, worker_id) is not None


def test_a_cancelled_attempt_is_refused(database, claim, row):
    assert claim.job_id == lifecycle.cancel(database, claim.job_id).job_id

    assert not complete_one(database, claim, "1")
    assert ("cancelled", "cancelled_by_operator") == row(claim.job_id, "status", "end_reason")
    assert lifecycle.cancel(database, claim.job_id) is None


def test_a_redriven_job_starts_afresh_and_keeps_its_history(database, claim, worker_id, row):
    lifecycle.fail(database, claim, FAILURE, reason=EndReason.REJECTED)

    assert claim.job_id == lifecycle.redrive(database, claim.job_id).job_id

    assert ("pending", 0, None, None) == row(claim.job_id, "status", "attempts", "end_reason", "error")
    assert 1 == row(claim.job_id, "jsonb_array_length(history)")
    assert 1 == claim_one(database, claim.job_id, worker_id).attempts
    assert lifecycle.redrive(database, claim.job_id) is None


def fail(database, claim, verb):
    """Have the attempt fail, in one of the ways that leave an entry in the history."""
    match verb:
        case "retry":
            return lifecycle.retry(database, claim, FAILURE, delay_seconds=0)
        case "fail":
            return lifecycle.fail(database, claim, FAILURE, reason=EndReason.REJECTED)
        case "rescue":
            return rescue(database, claim.worker_id)
        case "crash":
            return lifecycle.crash(database, claim, "SIGKILL", delay_seconds=0)
        case "abandon":
            return lifecycle.abandon(database, claim, "no file can be opened")


@pytest.mark.parametrize("verb", ["retry", "fail", "rescue", "crash", "abandon"])
# 400 is what a former version may have left.
@pytest.mark.parametrize("before", [0, 49, 50, 400])
def test_a_history_keeps_its_first_and_last_entries(database, submit, row, verb, before):
    places = [*range(before + 1)]
    kept, job_id = places if before < 50 else places[:10] + places[-40:], submit()
    database.rows(
        """UPDATE jobs SET history_omitted = 7, history = (
             SELECT COALESCE(jsonb_agg(jsonb_build_object('attempt', n, 'place', n)), '[]')
             FROM generate_series(0, %s - 1) AS n
           ) WHERE id = %s""",
        (before, job_id),
    )
    claim = claim_one(database, job_id, uuid4())

    assert fail(database, claim, verb)

    history = msgspec.json.decode(row(job_id, "history"))
    assert kept == [entry.get("place", before) for entry in history]
    assert str(claim.worker_id) == history[-1]["worker_id"]
    assert 7 + len(places) - len(kept) == row(job_id, "history_omitted")


def test_a_job_that_is_redriven_again_and_again_stays_small(database, submit, row):
    job_id, seen = submit(max_attempts=1), []
    for _ in range(60):
        claim = claim_one(database, job_id, uuid4())
        assert 1 == claim.attempts, "attempts do not depend on what the history has"
        lifecycle.fail(database, claim, FAILURE, reason=EndReason.ATTEMPTS_EXHAUSTED)
        seen.append(str(claim.worker_id))
        lifecycle.redrive(database, job_id)

    history = msgspec.json.decode(row(job_id, "history"))
    assert seen[:10] + seen[-40:] == [entry["worker_id"] for entry in history]
    assert 10 == row(job_id, "history_omitted")


def test_a_worker_that_ends_gives_back_what_it_holds_and_nobody_else_does(database, submit, worker_id, row):
    mine, begun = claim_one(database, submit(), worker_id), claim_one(database, submit(), worker_id)
    theirs = claim_one(database, submit(), uuid4())
    lifecycle.begin_effect(database, begun)

    assert [mine.job_id] == [job.job_id for job in lifecycle.release_worker(database, worker_id)]

    assert ("pending", 0) == row(mine.job_id, "status", "attempts")
    assert ["processing", "processing"] == [row(claim.job_id, "status") for claim in (begun, theirs)]


def test_only_what_has_been_finished_for_long_enough_is_pruned(database, claim, submit, row):
    complete_one(database, claim, "1")
    waiting = submit()

    assert 0 == lifecycle.prune(database, [claim.job_id], status=Status.COMPLETED, retention_seconds=60)
    assert 0 == lifecycle.prune(database, [claim.job_id], status=Status.FAILED, retention_seconds=0)
    set_dates(database.rows, "jobs", [claim.job_id], finished_at=-2 * MINUTE)
    assert 1 == lifecycle.prune(database, [claim.job_id, waiting], status=Status.COMPLETED, retention_seconds=60)

    assert row(claim.job_id, "status") is None
    assert "pending" == row(waiting, "status")


def test_what_may_have_been_done_is_not_given_back_as_if_it_had_not(database, claim, row):
    lifecycle.begin_effect(database, claim)

    assert not release_one(database, claim)

    assert "processing" == row(claim.job_id, "status")


def test_a_message_cannot_fail_a_job_of_another_type(database, submit, row):
    job_id = submit(type="csv-generation")
    set_dates(database.rows, "jobs", run_at=-HOUR)

    assert not lifecycle.fail_unknown(database, [job_id], job_type="nobody", grace_seconds=600)
    assert lifecycle.fail_unknown(database, [job_id], job_type="csv-generation", grace_seconds=600)

    assert "unknown_type" == row(job_id, "end_reason")


def test_a_row_that_is_inserted_by_hand_has_as_many_attempts_as_any_by_default(database):
    database.rows("INSERT INTO jobs (id, type, payload) VALUES (gen_random_uuid(), 'test', '{}')")

    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert [(fields["max_attempts"],)] == database.rows("SELECT max_attempts FROM jobs")
