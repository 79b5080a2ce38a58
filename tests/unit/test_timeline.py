"""What the attempts of a job were, and what its time went by with, from its row, its history and its log."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
import pytest

from jobs_service.api.console.attempts import Outcome, attempts_of
from jobs_service.api.console.calls import Reply
from jobs_service.api.console.seen_jobs import job_of
from jobs_service.api.console.timeline import Kind, timeline
from jobs_service.jobs.lifecycle import HISTORY_FIRST, HISTORY_LAST
from jobs_service.jobs.notes import AttemptLog, Line
from jobs_service.jobs.representation import EXAMPLE

START = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)


def at(seconds):
    """A time as the API writes it, so many seconds after the submission."""
    moment = START + timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def entry(number, start, seconds, **more):
    # PostgreSQL writes microseconds into the history.
    started_at = (START + timedelta(seconds=start, microseconds=345)).isoformat()
    of_error = {"error": "OSError", "message": "no space left", "traceback": "Traceback"}
    return {"attempt": number, "started_at": started_at, "seconds": seconds, **of_error, **more}


def job(status, *, run_at=0, history=(), **more):
    times = {"created_at": at(0), "run_at": at(run_at), "started_at": None, "finished_at": None}
    fields = {"status": status, "history": list(history), "attempts": len(history), "max_attempts": 100}
    return job_of(Reply(200, {}, msgspec.json.encode(EXAMPLE | times | fields | more)))


def said(number, seconds, text="said"):
    return AttemptLog(number, at(seconds), None, [Line(at(seconds), "info", text)], 0)


def kinds(job, *, now=100, logs=()):
    line = timeline(job, attempts_of(job, logs), START + timedelta(seconds=now))
    return [(each.part.kind, round(each.part.seconds, 1)) for each in line.drawn]


def test_a_job_that_waits_for_its_date():
    assert [(Kind.SCHEDULED, 100)] == kinds(job("pending", run_at=500))


def test_a_job_that_is_due_and_has_not_begun():
    assert [(Kind.SCHEDULED, 60), (Kind.WAITING, 40)] == kinds(job("pending", run_at=60))


def test_an_attempt_that_runs():
    running = job("processing", started_at=at(10), attempts=1)

    assert [(Kind.WAITING, 10), (Kind.RUNNING, 90)] == kinds(running)
    assert [("host-1", Outcome.RUNNING)] == [
        (each.host, each.outcome) for each in attempts_of(running, runs_on="host-1")
    ]


def test_attempts_that_failed_before_one_that_completed():
    history = [entry(1, 10, 2), entry(2, 22, 3)]
    done = job("completed", run_at=35, history=history, attempts=3, started_at=at(40), finished_at=at(41))

    assert [
        (Kind.WAITING, 10),
        (Kind.FAILED, 2),
        (Kind.PAUSE, 10),
        (Kind.FAILED, 3),
        (Kind.PAUSE, 10),
        (Kind.WAITING, 5),
        (Kind.COMPLETED, 1),
    ] == kinds(done)


def test_the_last_failed_attempt_lasts_until_its_verdict():
    dead = job("failed", history=[entry(1, 10, 2)], started_at=at(10), finished_at=at(12.5))

    assert [(Kind.WAITING, 10), (Kind.FAILED, 2.5)] == kinds(dead)


def test_a_pause_that_goes_on():
    paused = job("pending", run_at=200, history=[entry(1, 10, 2)], started_at=at(10))

    assert [(Kind.WAITING, 10), (Kind.FAILED, 2), (Kind.PAUSE, 88)] == kinds(paused)


def test_a_server_that_was_away():
    away = entry(1, 10, 1, error="Unavailable", counted=False)
    deferred = job("pending", run_at=90, history=[away], started_at=at(10), deferred_since=at(11), attempts=0)

    # The attempt that found it has the colour of the wait.
    assert [(Kind.WAITING, 10), (Kind.DEFERRAL, 1), (Kind.DEFERRAL, 79), (Kind.WAITING, 10)] == kinds(deferred)


def test_a_job_that_waited_for_a_server_without_an_attempt():
    deferred = job("pending", run_at=90, deferred_since=at(20), attempts=0, started_at=at(5))

    assert [(Kind.SCHEDULED, 20), (Kind.DEFERRAL, 70), (Kind.WAITING, 10)] == kinds(deferred)


def test_a_worker_that_was_lost():
    lost = entry(1, 10, 5, error="WorkerLost", counted=False)
    again = job("processing", history=[lost], attempts=1, started_at=at(20))

    assert [Outcome.LOST, Outcome.RUNNING] == [each.outcome for each in attempts_of(again)]
    assert [(Kind.WAITING, 10), (Kind.FAILED, 5), (Kind.WAITING, 5), (Kind.RUNNING, 80)] == kinds(again)


def test_a_dead_letter_that_was_run_again():
    again = job("pending", run_at=80, history=[entry(1, 10, 5)], attempts=0)

    assert [(Kind.WAITING, 10), (Kind.FAILED, 5), (Kind.ENDED, 65), (Kind.WAITING, 20)] == kinds(again)


def test_a_job_that_was_cancelled_while_it_ran():
    cancelled = job("cancelled", attempts=1, started_at=at(10), finished_at=at(15))

    assert [(Kind.WAITING, 10), (Kind.CANCELLED, 5)] == kinds(cancelled)


def test_a_job_that_was_cancelled_between_two_attempts():
    cancelled = job("cancelled", run_at=60, history=[entry(1, 10, 5)], started_at=at(10), finished_at=at(20))

    assert [(Kind.WAITING, 10), (Kind.FAILED, 5), (Kind.PAUSE, 5)] == kinds(cancelled)


def test_a_job_that_was_cancelled_after_its_effect_had_begun():
    unknown = entry(1, 10, 5, error="Cancelled", ambiguous=True)
    cancelled = job("cancelled", history=[unknown], attempts=1, started_at=at(10), finished_at=at(15))

    assert [(Kind.WAITING, 10), (Kind.CANCELLED, 5)] == kinds(cancelled)
    assert attempts_of(cancelled)[0].is_ambiguous


def test_attempts_that_are_not_kept():
    numbers = [*range(1, HISTORY_FIRST + 1), *range(61, 61 + HISTORY_LAST)]
    history = [entry(number, number * 10, 1) for number in numbers]
    dead = job("failed", run_at=990, history=history, history_omitted=50, started_at=at(1000), finished_at=at(1001))

    line = timeline(dead, attempts_of(dead), START)
    [omitted] = [each.part for each in line.drawn if each.part.kind is Kind.OMITTED]
    assert "50 further attempts in 8 min 29 s, which are not kept" == omitted.words
    assert len(numbers) == sum(each.part.attempt is not None for each in line.drawn)


def test_a_short_part_beside_one_that_is_much_longer_can_be_seen():
    dead = job("failed", history=[entry(1, 100_000, 0.01)], started_at=at(100_000), finished_at=at(100_000.01))

    line = timeline(dead, attempts_of(dead), START)

    assert not line.is_to_scale
    assert line.drawn[1].width >= 1.5


@pytest.mark.parametrize("count", [0, 1, 8, 100])
def test_the_parts_fill_the_line(count):
    history = [entry(number, number * 100, 0.01) for number in range(1, count + 1)]
    dead = job("failed", history=history, started_at=at(count * 100), finished_at=at(count * 100 + 1))

    line = timeline(dead, attempts_of(dead), START + timedelta(seconds=1))

    assert count == sum(each.part.attempt is not None for each in line.drawn)
    assert 100 == pytest.approx(sum(each.width for each in line.drawn), abs=1)
    assert all(each.width > 0 for each in line.drawn)
    assert all(before.x < after.x for before, after in zip(line.drawn, line.drawn[1:], strict=False))


def test_parts_that_differ_little_are_to_scale():
    dead = job("failed", history=[entry(1, 10, 30)], started_at=at(10), finished_at=at(40))

    line = timeline(dead, attempts_of(dead), START)

    assert line.is_to_scale
    assert [25, 75] == [each.width for each in line.drawn]


def test_a_job_of_this_moment_has_a_line():
    assert [] == kinds(job("pending"), now=0)


def test_logs_belong_to_the_attempts_that_wrote_them():
    done = job("completed", history=[entry(1, 10, 5)], attempts=2, started_at=at(30), finished_at=at(35))

    first, second = attempts_of(done, [said(1, 11, "first"), said(2, 31, "second")])

    assert ["first", "second"] == [first.log.lines[0].text, second.log.lines[0].text]


def test_an_attempt_that_was_given_back_is_known_by_its_log():
    """It has the number of the next one, and no entry in the history."""
    done = job("completed", attempts=1, started_at=at(30), finished_at=at(35))

    given_back, completed = attempts_of(done, [said(1, 3, "given back"), said(1, 31, "completed")])

    assert (Outcome.GIVEN_BACK, "given back") == (given_back.outcome, given_back.log.lines[0].text)
    assert (Outcome.COMPLETED, "completed") == (completed.outcome, completed.log.lines[0].text)


def test_a_log_between_two_attempts_of_one_number_is_of_neither():
    lost = entry(1, 10, 5, error="WorkerLost", counted=False)
    done = job("completed", history=[lost], attempts=1, started_at=at(300), finished_at=at(305))

    outcomes = [each.outcome for each in attempts_of(done, [said(1, 11), said(1, 100), said(1, 301)])]

    assert [Outcome.LOST, Outcome.GIVEN_BACK, Outcome.COMPLETED] == outcomes


def test_hosts_are_those_of_the_workers_that_there_are():
    worker_id = str(uuid4())
    history = [entry(1, 10, 5, worker_id=worker_id), entry(2, 20, 5, worker_id=str(uuid4()))]
    dead = job("failed", history=history, started_at=at(20), finished_at=at(25))

    assert ["worker-1", None] == [each.host for each in attempts_of(dead, (), {worker_id: "worker-1"})]


def test_a_row_that_a_person_wrote_is_shown():
    strange = job("completed", history=[{"attempt": 1}], attempts=1, started_at=at(1), finished_at=at(2))

    assert [Outcome.FAILED, Outcome.COMPLETED] == [each.outcome for each in attempts_of(strange)]
    assert [(Kind.WAITING, 1), (Kind.COMPLETED, 1)] == kinds(strange)
