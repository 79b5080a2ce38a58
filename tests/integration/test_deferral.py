"""Jobs that wait for what is away: how long, what the row says, one probe at a time, and how they come forward."""

from datetime import UTC, datetime, timedelta

import pytest
from rows import claim_one, complete_one, rescue
from samples import a_failure
from time_travel import DAY, HOUR, MINUTE, set_dates

from jobs_service.events import BreakerClosed, BreakerOpened
from jobs_service.jobs import lifecycle
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.maintenance.recovery import MOST, PROBER_SECONDS, Recovery
from jobs_service.maintenance.service import Turn
from jobs_service.metrics.queue_stats import JobRows

MAIL, STORE = "smtp://mail.example:25", "https://store.example"

FAILURE = a_failure(error="Unavailable", message="421 closing", traceback="")

#: Long enough that nothing is due by itself during a test.
SLOW = Deferral(first_seconds=600, max_seconds=3_600, limit_seconds=432_000, probe_seconds=300)


@pytest.fixture
def recovery(database):
    return Recovery(database, interval_seconds=1)


@pytest.fixture
def away(database, submit, worker_id):
    """Return a function that has new jobs find a server away, and returns their ids."""

    def away(jobs=1, server=MAIL, **fields):
        job_ids = [submit(**fields) for _ in range(jobs)]
        for claim in [claim_one(database, job_id, worker_id) for job_id in job_ids]:
            defer(database, claim, server=server)
        return job_ids

    return away


def defer(database, claim, *, deferral=SLOW, **how):
    return lifecycle.defer(database, claim, FAILURE, deferral=deferral, **how)


def the_probe_is_due(database):
    set_dates(database.rows, "servers", probe_at=0)


def probers(database):
    return [prober for (prober,) in database.rows("SELECT prober FROM servers WHERE prober IS NOT NULL")]


def due(database, server=MAIL):
    sql = "SELECT id FROM jobs WHERE status = 'pending' AND run_at <= now() AND waits_for = %s ORDER BY run_at, id"
    return [job_id for (job_id,) in database.rows(sql, (server,))]


def test_a_deferred_attempt_does_not_count_and_the_row_says_why_and_for_whom(database, submit, worker_id, row):
    job_id = submit()
    claim = claim_one(database, job_id, worker_id)

    deferred = defer(database, claim, server=MAIL)

    assert not deferred.is_over
    assert ("pending", 0, "421 closing", MAIL, 1) == row(
        job_id, "status", "attempts", "error", "waits_for", "deferrals"
    )
    assert [(False, 1, "421 closing")] == database.rows(
        """SELECT (e->>'counted')::boolean, (e->>'attempt')::int, e->>'message'
        FROM jobs, jsonb_array_elements(history) e"""
    )
    assert [(True,)] == database.rows("SELECT run_at = publish_at AND run_at > now() FROM jobs")
    assert [(MAIL, "421 closing")] == database.rows("SELECT name, error FROM servers")


def test_the_waits_grow_up_to_an_hour_and_start_again_after_an_ordinary_failure(database, submit, worker_id, row):
    job_id = submit(max_attempts=9)
    deferral = Deferral(first_seconds=4, max_seconds=3_600)
    waits = []
    for _ in range(14):
        set_dates(database.rows, "jobs", run_at=0)
        waits.append(defer(database, claim_one(database, job_id, worker_id), deferral=deferral).delay_seconds)

    for place, seconds in enumerate(waits):
        assert min(4 * 2**place, 3_600) * 0.79 < seconds < min(4 * 2**place, 3_600) * 1.21
    set_dates(database.rows, "jobs", run_at=0)
    lifecycle.retry(database, claim_one(database, job_id, worker_id), FAILURE, delay_seconds=0)
    assert 0 == row(job_id, "deferrals")
    assert 1 == row(job_id, "attempts")
    assert defer(database, claim_one(database, job_id, worker_id), deferral=deferral).delay_seconds < 5


def test_a_wait_that_the_server_asks_for_is_kept_to(database, submit, worker_id):
    claim = claim_one(database, submit(), worker_id)

    assert 7_190 < defer(database, claim, retry_after_seconds=7_200).delay_seconds <= 7_200


def test_a_job_waits_until_its_limit_and_is_then_a_dead_letter_of_its_own_kind(database, submit, worker_id, row):
    job_id = submit()
    deferral = Deferral(first_seconds=10, limit_seconds=100)
    assert not defer(database, claim_one(database, job_id, worker_id), deferral=deferral, server=MAIL).is_over
    set_dates(database.rows, "jobs", run_at=0, deferred_since=-95)

    assert defer(database, claim_one(database, job_id, worker_id), deferral=deferral, server=MAIL).is_over

    assert ("failed", EndReason.UNAVAILABLE, "421 closing", MAIL, 0) == row(
        job_id, "status", "end_reason", "error", "waits_for", "attempts"
    )


def test_no_wait_is_longer_than_half_of_what_is_left(database, submit, worker_id):
    job_id = submit(expires_at=datetime.now(UTC) + timedelta(seconds=1_000))
    waits = []
    for _ in range(12):
        set_dates(database.rows, "jobs", run_at=0)
        waits.append(defer(database, claim_one(database, job_id, worker_id), deferral=Deferral()).delay_seconds)

    assert 480 < max(waits) <= 500


def test_a_deferred_job_that_expires_keeps_what_it_waited_for(database, away, row):
    [job_id] = away(expires_at=datetime.now(UTC) + timedelta(hours=9))
    set_dates(database.rows, "jobs", expires_at=0)

    [expired] = lifecycle.expire(database)

    assert EndReason.UNAVAILABLE is expired.end_reason
    assert ("failed", "unavailable", "421 closing", MAIL) == row(job_id, "status", "end_reason", "error", "waits_for")


def test_a_job_that_was_never_begun_expires_as_before(database, submit):
    submit(expires_at=datetime.now(UTC) + timedelta(hours=1))
    set_dates(database.rows, "jobs", expires_at=0)

    [expired] = lifecycle.expire(database)

    assert EndReason.EXPIRED is expired.end_reason


def test_a_redrive_begins_to_wait_anew(database, away, row):
    [job_id] = away()
    lifecycle.cancel(database, job_id)

    lifecycle.redrive(database, job_id)

    assert (None, 0, None) == row(job_id, "waits_for", "deferrals", "deferred_since")


def test_every_claim_says_which_servers_are_away(database, away, submit, worker_id):
    assert [] == claim_one(database, submit(), worker_id).away
    away(server=MAIL)
    away(server=STORE)

    job_id = submit()
    claim = claim_one(database, job_id, worker_id)

    assert {MAIL, STORE} == {*claim.away}
    assert {*claim.away} == {*claim_one(database, job_id, worker_id, token=claim.token).away}


def test_an_attempt_that_did_not_ask_leaves_no_history_and_waits_as_long_as_the_server_has_been_away(
    database, away, submit, worker_id, row
):
    away()
    set_dates(database.rows, "servers", away_since=-30 * MINUTE)
    job_id = submit()
    failure = a_failure(error="KnownUnavailable", message=f"{MAIL} is away", traceback="", seconds=0)

    deferred = lifecycle.defer(
        database, claim_one(database, job_id, worker_id), failure, deferral=Deferral(), server=MAIL, is_tried=False
    )

    assert 1_790 < deferred.delay_seconds < 1_810
    assert (f"{MAIL} is away: 421 closing", MAIL, "[]") == row(job_id, "error", "waits_for", "history::text")


def test_one_job_is_the_prober_and_each_failure_makes_the_pause_longer(database, away, recovery, worker_id):
    jobs = away(3)
    recovery.run_once(Turn())
    assert [] == due(database)  # it has been away for a moment only

    the_probe_is_due(database)
    for _ in range(3):
        recovery.run_once(Turn())

    [prober] = probers(database)
    assert [prober] == due(database)
    assert prober in jobs
    claim = claim_one(database, prober, worker_id)
    assert [] == claim.away
    set_dates(database.rows, "servers", away_since=-1_000)
    defer(database, claim, server=MAIL)
    assert [] == probers(database)
    [(pause,)] = database.rows("SELECT extract(epoch FROM probe_at - now())::float8 FROM servers")
    assert 249 < pause <= 250
    the_probe_is_due(database)
    recovery.run_once(Turn())
    assert {prober} != {*probers(database)}  # another one: it may have been this one's fault


def test_a_pause_has_a_limit(database, away, recovery, worker_id):
    away()
    set_dates(database.rows, "servers", away_since=-2 * DAY, probe_at=0)
    recovery.run_once(Turn())

    defer(database, claim_one(database, probers(database)[0], worker_id), server=MAIL)

    assert [(300,)] == database.rows("SELECT round(extract(epoch FROM probe_at - now()))::int FROM servers")


def ended_well(database, claim):
    return complete_one(database, claim, "1")


def failed_otherwise(database, claim):
    return lifecycle.retry(database, claim, FAILURE, delay_seconds=600)


def rejected(database, claim):
    return lifecycle.fail(database, claim, FAILURE, reason=EndReason.REJECTED)


def delayed_alone(database, claim):
    return defer(database, claim)


@pytest.mark.parametrize("outcome", [ended_well, failed_otherwise, rejected, delayed_alone])
def test_a_server_that_answered_its_prober_is_back(database, away, recovery, worker_id, outcome):
    away(2)
    the_probe_is_due(database)
    recovery.run_once(Turn())

    assert outcome(database, claim_one(database, probers(database)[0], worker_id))
    recovery.run_once(Turn())
    recovery.run_once(Turn())

    assert [] == database.rows("SELECT name FROM servers")
    assert 1 == len(due(database))


def test_a_server_that_goes_away_and_comes_back_is_announced_once(database, away, recovery, worker_id, announced):
    away()
    for _ in range(2):
        the_probe_is_due(database)
        recovery.run_once(Turn())
    complete_one(database, claim_one(database, probers(database)[0], worker_id), "1")
    for _ in range(3):
        recovery.run_once(Turn())

    assert [BreakerOpened(breaker=MAIL), BreakerClosed(breaker=MAIL)] == announced


def lost(database, claim):
    """Its worker is killed, and it runs again."""
    assert rescue(database, claim.worker_id)


def released(database, claim):
    assert [True] == lifecycle.release(database, [claim])


@pytest.mark.parametrize("outcome", [lost, released])
def test_a_prober_that_goes_back_in_line_stays_the_prober(database, away, recovery, worker_id, outcome):
    away(2)
    the_probe_is_due(database)
    recovery.run_once(Turn())
    [prober] = probers(database)

    outcome(database, claim_one(database, prober, worker_id))
    recovery.run_once(Turn())

    assert [prober] == probers(database)
    assert [] == claim_one(database, prober, worker_id).away


def cancelled(database, prober):
    lifecycle.cancel(database, prober)


def stuck(database, _):
    """No thread takes it, as where its queue has no worker."""
    set_dates(database.rows, "jobs", due(database), returned_at=-PROBER_SECONDS - 1)


def not_told(database, prober):
    """It was claimed just before it was chosen, so that it did not ask."""
    set_dates(database.rows, "jobs", [prober], run_at=HOUR)


@pytest.mark.parametrize("fate", [cancelled, stuck, not_told])
def test_a_prober_that_does_not_ask_is_replaced(database, away, recovery, fate):
    away(2)
    the_probe_is_due(database)
    recovery.run_once(Turn())
    [prober] = probers(database)

    fate(database, prober)
    recovery.run_once(Turn())

    [other] = probers(database)
    assert other != prober
    assert other in due(database)


def test_a_server_for_which_nobody_waits_is_forgotten(database, away, recovery):
    [job_id] = away()
    lifecycle.cancel(database, job_id)
    the_probe_is_due(database)

    recovery.run_once(Turn())

    assert [] == database.rows("SELECT name FROM servers")


def test_waiting_jobs_come_forward_in_growing_numbers_and_only_as_they_are_taken(database, away, recovery, worker_id):
    jobs = away(40)
    database.rows("DELETE FROM servers")
    numbers = []
    while brought := recovery.run_once(Turn())["brought_forward"]:
        numbers.append(brought)
        assert 0 == recovery.run_once(Turn())["brought_forward"]
        for job_id in due(database):
            complete_one(database, claim_one(database, job_id, worker_id), "1")

    assert 40 == sum(numbers)
    assert [2, 4, 8, 16] == numbers[:4]
    assert [(len(jobs),)] == database.rows("SELECT count(*) FROM jobs WHERE status = 'completed'")


def test_no_more_come_forward_than_wait_in_line_at_most(database, away, recovery):
    away(2)
    database.rows("DELETE FROM servers")
    database.rows(
        """INSERT INTO jobs (id, type, payload, run_at, waits_for, deferrals, deferred_since)
        SELECT gen_random_uuid(), 'test', '{}', now() + interval '1 hour', %s, 1, now()
        FROM generate_series(1, 1000)""",
        (MAIL,),
    )
    recovery._windows = {MAIL: MOST}

    for _ in range(3):
        recovery.run_once(Turn())

    assert MOST == len(due(database))


def test_a_failure_while_they_come_forward_stops_the_rest(database, away, recovery, worker_id):
    away(40)
    database.rows("DELETE FROM servers")
    recovery.run_once(Turn())
    first, second = due(database)

    defer(database, claim_one(database, first, worker_id), server=MAIL)

    assert 0 == recovery.run_once(Turn())["brought_forward"]
    assert [MAIL] == claim_one(database, second, worker_id).away


def test_who_waited_goes_before_what_was_posted_meanwhile(database, away, submit, recovery):
    [job_id] = away()
    younger = submit()
    database.rows("DELETE FROM servers")

    recovery.run_once(Turn())

    assert [job_id, younger] == [
        found for (found,) in database.rows("SELECT id FROM jobs WHERE run_at <= now() ORDER BY run_at, id")
    ]


def test_who_comes_forward_is_not_taken_for_one_who_has_stood_in_line_all_the_time(database, away, submit, recovery):
    """How long the first in line has been able to run is measured, and alerted."""
    away()
    set_dates(database.rows, "jobs", deferred_since=-2 * DAY)
    database.rows("DELETE FROM servers")
    submit()

    recovery.run_once(Turn())

    assert 2 == len(database.rows("SELECT id FROM jobs WHERE run_at <= now()"))
    assert [] == database.rows("SELECT id FROM jobs WHERE run_at < now() - interval '1 day'")


def until_its_own_date(database, claim):
    return lifecycle.snooze(database, claim, "not now", delay_seconds=600)


def until_the_end_of_its_backoff(database, claim):
    return lifecycle.crash(database, claim, "SIGKILL", delay_seconds=600)


@pytest.mark.parametrize("waits", [until_its_own_date, until_the_end_of_its_backoff])
def test_a_job_that_waits_for_something_else_by_now_does_not_come_forward(database, away, recovery, worker_id, waits):
    [job_id] = away()
    database.rows("DELETE FROM servers")
    recovery.run_once(Turn())

    assert waits(database, claim_one(database, job_id, worker_id))
    recovery.run_once(Turn())

    assert [(True,)] == database.rows("SELECT run_at > now() FROM jobs")


def test_one_server_does_not_hold_up_the_jobs_of_another(database, away, recovery, worker_id):
    away(server=MAIL)
    away(server=STORE)
    database.rows("DELETE FROM servers WHERE name = %s", (STORE,))

    recovery.run_once(Turn())

    assert [] == due(database, MAIL)
    [job_id] = due(database, STORE)
    assert [MAIL] == claim_one(database, job_id, worker_id).away


def test_what_is_known_of_servers_may_be_lost_at_any_time(database, away, recovery, worker_id):
    """The jobs that wait come forward a few at a time, and the first that fails tells the others."""
    away(40)
    the_probe_is_due(database)
    recovery.run_once(Turn())
    database.rows("TRUNCATE servers")

    recovery.run_once(Turn())
    defer(database, claim_one(database, due(database)[0], worker_id), server=MAIL)
    recovery.run_once(Turn())

    assert 3 >= len(due(database))
    assert [(MAIL,)] == database.rows("SELECT name FROM servers")


def test_servers_without_end_are_not_all_remembered(database, away, recovery, row):
    """Those beyond the bound keep their jobs' own dates."""
    for number in range(lifecycle.MAX_SERVERS_AWAY):
        away(server=f"https://{number}.example")
    [beyond] = away(server="https://beyond.example")

    recovery.run_once(Turn())

    assert [(lifecycle.MAX_SERVERS_AWAY,)] == database.rows("SELECT count(*) FROM servers")
    assert (None, "pending") == row(beyond, "waits_for", "status")
    assert [] == due(database, "https://beyond.example")


def test_a_leader_that_leads_no_more_changes_nothing(database, away, recovery):
    away(2)
    the_probe_is_due(database)

    recovery.run_once(Turn(fence=1))

    assert [] == due(database)
    assert [(MAIL, None)] == database.rows("SELECT name, prober FROM servers")


def test_what_is_away_and_who_waits_for_it_is_measured(database, away):
    away(2, server=MAIL)
    away(1, server=STORE)
    database.rows("DELETE FROM servers WHERE name = %s", (STORE,))
    rows = JobRows(database, queues=["default"], lease_seconds=15, servers=["smtp://well"])

    samples = {(s.name, s.labels["breaker"]): s.value for family in rows.breakers() for s in family.samples}
    states = {s.labels["state"]: s.value for family in rows.jobs() for s in family.samples if "state" in s.labels}

    assert {
        ("jobs_breaker_open", MAIL): 1,
        ("jobs_breaker_open", STORE): 0,
        ("jobs_breaker_open", "smtp://well"): 0,
        ("jobs_breaker_waiting", "smtp://well"): 0,
        ("jobs_breaker_waiting", MAIL): 2,
        ("jobs_breaker_waiting", STORE): 1,
    } == samples
    assert (3, 0, 0) == (states["deferred"], states["scheduled"], states["retrying"])
