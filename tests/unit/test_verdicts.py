"""What becomes of a job after an attempt: `verdict.decide`, a pure function."""

import math

import pytest
from dramatiq.middleware import TimeLimitExceeded
from samples import a_claim

from jobs_service.errors import InvalidRequest, KnownUnavailable, OutcomeUnknown, Rejected, Snoozed, Unavailable
from jobs_service.jobs.failures import ProcessLost, failure_of
from jobs_service.jobs.lifecycle import EndReason, OnAmbiguous
from jobs_service.worker.attempt import RunningAttempt
from jobs_service.worker.verdict import Complete, Crash, Defer, Fail, Retry, Snooze, decide


def attempt(**claim):
    return RunningAttempt(a_claim(**claim), result='"output/x.csv"')


@pytest.fixture
def running():
    return attempt()


def test_an_attempt_that_returned_completes_with_its_result(running):
    assert Complete('"output/x.csv"') == decide(running, None, retry_seconds=None)


def test_a_failure_that_retries_put_off_is_retried_after_its_delay(running):
    verdict = decide(running, RuntimeError("no"), retry_seconds=2.5)

    assert isinstance(verdict, Retry)
    assert 2.5 == verdict.delay_seconds
    assert ("RuntimeError", "no") == (verdict.failure.error, verdict.failure.message)


@pytest.mark.parametrize(
    ("exception", "reason"),
    [
        (RuntimeError("no"), EndReason.ATTEMPTS_EXHAUSTED),
        (Rejected("550"), EndReason.REJECTED),
        (InvalidRequest("field gone"), EndReason.INVALID_PAYLOAD),
    ],
)
def test_a_failure_that_retries_gave_up_is_failed_with_its_reason(running, exception, reason):
    verdict = decide(running, exception, retry_seconds=None)

    assert isinstance(verdict, Fail)
    assert reason is verdict.reason


def test_an_attempt_that_is_put_off_counts_for_nothing(running):
    verdict = decide(running, Snoozed("the server is away", delay_seconds=30), retry_seconds=None)

    assert Snooze("the server is away", 30) == verdict


@pytest.mark.parametrize("retry_seconds", [2.5, None])
def test_what_is_away_defers_the_job_whatever_attempts_are_left(running, retry_seconds):
    verdict = decide(running, Unavailable("421 closing", server="smtp://mail"), retry_seconds=retry_seconds)

    assert isinstance(verdict, Defer)
    assert ("smtp://mail", True, None) == (verdict.server, verdict.is_tried, verdict.retry_after_seconds)
    assert ("Unavailable", "421 closing", "") == (
        verdict.failure.error,
        verdict.failure.message,
        verdict.failure.traceback,
    )


def test_a_server_that_was_not_asked_is_not_blamed_again(running):
    assert not decide(running, KnownUnavailable("away", server="smtp://mail"), retry_seconds=None).is_tried


@pytest.mark.parametrize("seconds", [1e13, math.inf, math.nan, -5.0])
def test_no_wish_of_a_server_is_beyond_what_a_date_can_hold(running, seconds):
    verdict = decide(running, Unavailable("later", retry_after_seconds=seconds), retry_seconds=None)

    assert 0 <= verdict.retry_after_seconds <= 366 * 86_400


def test_a_refusal_after_the_effect_has_begun_is_an_answer_too(running):
    running.effect_begun = True

    assert not decide(running, Unavailable("451 later"), retry_seconds=None).failure.is_ambiguous


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("smtp://mail.example:25", "smtp://mail.example:25"),
        ("https://ann:secret@store.example/a@b", "https://store.example/a@b"),
        ("ann:secret@mail.example", "mail.example"),
        ("https://store.example/in?token=secret#part", "https://store.example/in"),
        ("https://ann:se@cret@store.example", "https://store.example"),
        ("two\nlines\0", "two_lines_"),
        ("x" * 1_000, "x" * 200),
    ],
)
def test_a_servers_name_is_one_short_line_without_a_password(text, name):
    assert name == Unavailable("away", server=text).server


@pytest.mark.parametrize(("retry_seconds", "delay_seconds"), [(2.5, 2.5), (None, 0.0)])
def test_a_lost_process_is_a_crash_and_the_row_knows_how_many_there_were(running, retry_seconds, delay_seconds):
    verdict = decide(running, ProcessLost("SIGKILL"), retry_seconds=retry_seconds)

    assert Crash("SIGKILL", delay_seconds) == verdict


@pytest.mark.parametrize("seconds", [1e13, math.inf, math.nan, -5.0])
def test_no_delay_is_beyond_what_a_date_can_hold(running, seconds):
    verdict = decide(running, Snoozed("whenever", delay_seconds=seconds), retry_seconds=None)

    assert 0 <= verdict.delay_seconds <= 366 * 86_400


def test_an_unknown_outcome_is_tried_again_and_marked(running):
    verdict = decide(running, OutcomeUnknown("the answer was lost"), retry_seconds=1.0)

    assert isinstance(verdict, Retry)
    assert verdict.failure.is_ambiguous


def test_an_unknown_outcome_of_a_job_that_holds_is_a_dead_letter_at_once():
    verdict = decide(attempt(on_ambiguous=OnAmbiguous.HOLD), OutcomeUnknown("lost"), retry_seconds=1.0)

    assert isinstance(verdict, Fail)
    assert EndReason.AMBIGUOUS is verdict.reason


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupt_leaves_an_unknown_outcome_only_once_the_effect_has_begun(running, begun):
    running.effect_begun = begun

    verdict = decide(running, TimeLimitExceeded(), retry_seconds=1.0)

    assert begun is verdict.failure.is_ambiguous


def test_an_error_after_the_effect_has_begun_is_an_answer(running):
    running.effect_begun = True

    assert not decide(running, RuntimeError("451"), retry_seconds=1.0).failure.is_ambiguous


def test_what_is_kept_of_an_exception_can_be_stored_and_is_bounded():
    failure = failure_of(ValueError("a\0b\ud800" + "x" * 10_000), 1.0)

    assert "\0" not in failure.message
    assert failure.message.encode()
    assert len(failure.message) <= 1_001
    assert len(failure.traceback) <= 4_001


def test_an_exception_that_cannot_be_put_into_words_is_named():
    class Wordless(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    assert "Wordless" == failure_of(Wordless(), 0.0).message


def test_an_exception_without_words_is_named():
    assert "KeyboardInterrupt" == failure_of(KeyboardInterrupt(), 0.0).message


def test_what_is_logged_of_an_actors_arguments_has_no_payload(running):
    assert "<attempt 1>" == repr(running)
