"""No statement reads more as the table grows: the plans of all that the service sends, on a table of 100,000 jobs.

With fresh statistics, and with those of a table that was empty: a burst of jobs is there before the next ANALYZE.
"""

from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID, uuid4

import falcon.testing
import pytest
from plans import FEW_PAGES, Watch, assert_small, fill
from rows import Sweeps, add_worker, claim_one, complete_one
from samples import a_failure, new_job
from time_travel import HOUR, set_dates

from jobs_service.api.app import create_app
from jobs_service.api.operations import parsed
from jobs_service.api.resources import job_pages
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.epoch import Epoch
from jobs_service.errors import QueueFull
from jobs_service.jobs import (
    attention,
    bulk_actions,
    dead_letters as dead_letter_rows,
    lifecycle,
    redrive_outcomes,
    statistics,
    unfinished,
)
from jobs_service.jobs.bulk_actions import Kind
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.job_types import JobType
from jobs_service.jobs.lifecycle import ClaimRequest, EndReason, Status
from jobs_service.jobs.listing import Filters
from jobs_service.maintenance.bulk_actions import BulkActions
from jobs_service.maintenance.canary import Canary
from jobs_service.maintenance.dead_letters import DeadLetters
from jobs_service.maintenance.expirer import Expirer
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.pruner import Pruner
from jobs_service.maintenance.recovery import Recovery
from jobs_service.maintenance.relay import Relay
from jobs_service.maintenance.service import Turn
from jobs_service.maintenance.strays import Strays
from jobs_service.metrics.queue_stats import JobRows
from jobs_service.outputs.local import LocalOutputs
from jobs_service.submission.queue_limits import QueueLimits

FAILURE = a_failure()

_numbers = count(1)


@pytest.fixture(scope="module", params=["fresh statistics", "statistics of an empty table"])
def full_database_url(request, postgres):
    name = f"test_plans_{next(_numbers)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE jobs_template")
    postgres.execute("ALTER TABLE jobs SET (autovacuum_enabled = off)", name)
    if "empty" in request.param:
        postgres.execute("ANALYZE", name)
    fill(postgres, name)
    if "fresh" in request.param:
        postgres.execute("ANALYZE", name)
    yield postgres.url_of(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(full_database_url):
    return full_database_url


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


def due(database, limit):
    return [
        job_id
        for (job_id,) in database.rows(
            "SELECT id FROM jobs WHERE status = 'pending' AND run_at <= now() ORDER BY random() LIMIT %s", (limit,)
        )
    ]


def test_submissions(watch, database):
    jobs = [new_job() for _ in range(8)]
    database.row("SELECT 1")
    # Without what a first connection asks.
    watch.clear()

    lifecycle.submit(database, jobs)
    lifecycle.publish_soon(database, [job.id for job in jobs])
    lifecycle.published(database, [job.id for job in jobs], republish_seconds=20)

    assert 3 == len(watch.plans)
    assert_small(watch)


def test_claims_and_completions(watch, database, worker_id):
    asks = [ClaimRequest(job_id, worker_id) for job_id in due(database, 8)]
    watch.clear()

    claims = lifecycle.claim(database, asks)
    again = lifecycle.claim(database, asks)
    completed = lifecycle.complete(database, [(claim, '"output/x.csv"') for claim in claims])
    twice = lifecycle.complete(database, [(claim, '"output/x.csv"') for claim in claims])

    assert None not in claims
    assert claims == again or [claim.token for claim in claims] == [claim.token for claim in again]
    assert [True] * 16 == completed + twice
    assert_small(watch)


def type_of(database, job_id):
    return database.row("SELECT type FROM jobs WHERE id = %s", (job_id,))[0]


def test_verdicts(watch, database, worker_id):
    *begun, unknown, cancelled = due(database, 6)
    claims = [claim_one(database, job_id, worker_id) for job_id in begun]
    watch.clear()

    assert lifecycle.begin_effect(database, claims[0])

    assert lifecycle.retry(database, claims[0], FAILURE, delay_seconds=60)
    assert lifecycle.fail(database, claims[1], FAILURE, reason=EndReason.REJECTED)
    assert [True] == lifecycle.release(database, [claims[2]])
    assert lifecycle.snooze(database, claims[3], "busy", delay_seconds=1)
    assert lifecycle.fail_unknown(database, [unknown], job_type=type_of(database, unknown), grace_seconds=-3600)
    assert not complete_one(database, claims[0], "null")
    assert lifecycle.cancel(database, cancelled)
    assert lifecycle.redrive(database, cancelled)
    lifecycle.move(database, begun, queue="default")
    assert_small(watch)


def test_what_is_away(watch, database, worker_id):
    """Among as many other waiting jobs: some wait for servers."""
    database.rows(
        """UPDATE jobs SET waits_for = 'https://' || substr(id::text, 36) || '.example', deferrals = 1,
        deferred_since = now(), run_at = now() + interval '1 hour'
        WHERE id IN (SELECT id FROM jobs WHERE status = 'pending' ORDER BY id DESC LIMIT 2000)"""
    )
    job_ids = due(database, 3)
    recovery = Recovery(database, interval_seconds=1)
    watch.clear()

    for job_id in job_ids:
        claim = claim_one(database, job_id, worker_id)
        assert lifecycle.defer(database, claim, FAILURE, deferral=Deferral(), server="https://a.example")
    assert lifecycle.probe(database, "https://a.example")
    assert_small(watch)
    assert 3 == lifecycle.bring_forward(database, "https://b.example", limit=3)
    # Each leaves its place in several indexes.
    assert_small(watch, pages=2 * FEW_PAGES)
    recovery.run_once(Turn())
    # A few for each of the sixteen servers.
    assert_small(watch, rows=2_000, pages=1_000)
    list(JobRows(database, queues=["default"], lease_seconds=15).breakers())
    # It counts the jobs that wait, and looks at no others.
    assert_small(watch, rows=5_000, pages=5_000, sorted_rows=2_010)


def test_a_worker_that_ends(watch, database, worker_id):
    for job_id in due(database, 3):
        claim_one(database, job_id, worker_id)
    watch.clear()

    assert 3 == len(lifecycle.release_worker(database, worker_id))
    assert_small(watch)


def test_one_job(watch, client, database):
    [job_id] = due(database, 1)
    watch.clear()

    assert 200 == client.simulate_get(f"/jobs/{job_id}").status_code
    assert_small(watch)


#: Where a list may begin: at the newest job, and behind the waiting, the completed and the waiting ones.
CURSORS = [None, 85_000, 35_000, 30_000]


@pytest.mark.parametrize("job_type", [None, "csv-generation", "EMAIL_SEND"])
@pytest.mark.parametrize("status", [None, *Status])
def test_lists(watch, client, database, status, job_type):
    for place in CURSORS:
        params = {name: value for name, value in (("status", status), ("type", job_type)) if value}
        if place:
            params["cursor"] = cursor_at(database, place, params)
        watch.clear()

        reply = client.simulate_get("/jobs", params=params)

        assert 200 == reply.status_code
        # Up to 51 of each status.
        assert_small(watch, rows=5 * 51 + 51, pages=5 * FEW_PAGES)


def cursor_at(database, place, params):
    """Return the cursor that a page of this list would have that ends with the job of this number."""
    (job_id,) = database.row("SELECT id FROM jobs WHERE id > %s ORDER BY id LIMIT 1", (number_as_id(place),))
    return job_pages._cursor(parsed(params, job_pages.JobsQuery), job_id)


def number_as_id(place):
    return UUID(f"01890000-{place // 4096:04x}-7{place % 4096:03x}-8000-000000000000")


def test_the_relay(watch, database, broker):
    """A long line and, behind it, a short one that is to be found at once."""
    relay = full_relay(database, broker)
    [(mails,)] = database.rows(
        "SELECT count(*) FROM jobs WHERE type = 'EMAIL_SEND' AND status = 'pending' AND run_at <= now()"
    )
    assert 0 < mails < 20
    watch.clear()

    assert {"published": 700 + mails} == relay.run_once(Turn())

    # A batch of each of ten priorities, and what is published already, at most a window of each: here less than 2,000.
    assert_small(watch, rows=10 * 500 + 2_000, pages=12_000)
    assert {"published": 0} == relay.run_once(Turn())
    assert_small(watch, rows=10 * 500 + 2_000, pages=12_000)
    assert len(relay._lines()) == 2
    relay._due(("default", "EMAIL_SEND"))
    assert_small(watch)


def full_relay(database, broker):
    epoch = Epoch(broker.client, broker.keys)
    epoch.set()
    broker.window = 700
    broker.learn(["csv-generation", "EMAIL_SEND"])
    return Relay(database, broker, epoch, interval_seconds=1, republish_seconds=20)


def test_the_relay_with_a_full_window(watch, database, broker):
    """It looks for what is older than the last in line, which is a window of rows and not the backlog."""
    relay = full_relay(database, broker)
    relay.run_once(Turn())
    watch.clear()

    assert {"published": 0} == relay.run_once(Turn())

    # At most a window of each priority; each row may need its index page and two of the table, its old version's too.
    assert_small(watch, rows=2_000, pages=3 * 1_400)


def test_the_relay_after_redis_lost_its_data(watch, database, broker):
    """Once in a while this looks at every waiting job; never at the whole table."""
    waiting = database.row("SELECT count(*) FROM jobs WHERE status = 'pending' AND run_at <= now()")[0]
    watch.clear()

    epoch = Epoch(broker.client, broker.keys)
    Relay(database, broker, epoch, interval_seconds=1, republish_seconds=20)._start_over(Turn())

    assert_small(watch, rows=2 * waiting, pages=3 * waiting, sorted_rows=0)


def test_the_rescuer(watch, database, broker):
    lost = uuid4()
    add_worker(database, lost)
    for job_id in due(database, 3):
        claim_one(database, job_id, lost)
    watch.clear()

    assert Sweeps(database, DeadLetterList(broker.client, broker.keys)).sweep_until_silent()
    # Each lost job is compared with the workers, of which there are few.
    assert_small(watch, rows=500, pages=1_000)


def test_the_expirer(watch, database, broker):
    late = [new_job() for _ in range(20)]
    lifecycle.submit(database, late)
    ids = [job.id for job in late]
    set_dates(database.rows, "jobs", ids, expires_at=-1)
    watch.clear()

    assert {"expired": 20} == Expirer(
        database, DeadLetterList(broker.client, broker.keys), interval_seconds=5
    ).run_once(Turn())
    assert_small(watch, pages=1_000)


@pytest.mark.usefixtures("worker_id")
def test_the_strays(watch, database, broker):
    """A queue without a worker, beside the long one that has one; and the long one when it has none."""
    gone = [new_job(type="gone", queue="gone") for _ in range(20)]
    lifecycle.submit(database, gone)
    set_dates(database.rows, "jobs", [job.id for job in gone], run_at=-HOUR)
    liveness = Liveness(lease_seconds=15, heartbeat_interval_seconds=5)
    strays = Strays(
        database, broker, DeadLetterList(broker.client, broker.keys), interval_seconds=60, liveness=liveness
    )
    watch.clear()

    assert {"moved": 0, "failed": 20} == strays.run_once(Turn())
    assert_small(watch, pages=1_000)
    assert strays._strays("default")
    assert_small(watch, rows=500, pages=2_000)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_the_pruner(watch, database, tmp_path, status):
    """From the oldest on, a batch at a time."""
    outputs = LocalOutputs(tmp_path)
    pruner = Pruner(database, outputs, interval_seconds=60, retention_seconds={status: 86_400})

    pruner._walk(status)
    pruner._walk(status)

    assert_small(watch, rows=1_000, pages=2_000)


def test_the_dead_letters(watch, database, broker):
    """Counting and listing them reads the failed jobs, and no others."""
    dead_letters = DeadLetterList(broker.client, broker.keys)
    for job_id in due(database, 300):
        lifecycle.fail_unknown(database, [job_id], job_type=type_of(database, job_id), grace_seconds=-3600)
    watch.clear()

    assert DeadLetters(database, dead_letters, interval_seconds=10).run_once(Turn())["rebuilt"] >= 300
    assert_small(watch, rows=1_000, pages=1_000)


def test_the_canary(watch, database):
    """Whether one of a type is on its way, one rare and one dense."""
    canaries = [JobType("EMAIL_SEND", dict, len), JobType("csv-generation", dict, len)]
    watch.clear()

    assert Canary(database, None, canaries, interval_seconds=60, api_url="")._on_their_way()
    list(JobRows(database, queues=["default"], lease_seconds=15).canaries())

    assert_small(watch)


def test_the_count_for_a_limit(watch, database):
    """However many jobs wait, no more are read than the limit has, for each type and priority."""
    limits = QueueLimits(20)

    limits.count(database)

    assert_small(watch, rows=20 * 20, pages=20 * FEW_PAGES)
    with pytest.raises(QueueFull, match="jobs wait in the queue default, 20 may"):
        limits.check("default")


@pytest.fixture
def dead(database):
    """Make 3,000 of the completed jobs dead letters, in 26 groups of errors."""
    rows = database.rows(
        """WITH chosen AS (
          SELECT id, row_number() OVER (ORDER BY id)::int AS i FROM jobs WHERE status = 'completed' LIMIT 3000
        )
        UPDATE jobs
        SET status = 'failed', end_reason = 'rejected', error = 'no answer from ' || chr(97 + mod(i, 26))
        FROM chosen WHERE chosen.id = jobs.id RETURNING 1"""
    )
    yield len(rows)
    database.rows(
        """UPDATE jobs SET status = 'completed', end_reason = NULL, error = NULL
        WHERE status = 'failed' AND starts_with(error, 'no answer')"""
    )


@pytest.mark.usefixtures("dead")
def test_the_list_of_dead_letters(watch, database):
    group = dead_letter_rows.groups(database, limit=1)[0].id
    before = (datetime.now(UTC) + timedelta(days=1), UUID(int=2**128 - 1))
    watch.clear()

    for chosen in ({}, {"group": group}):
        for place in (None, before):
            assert len(dead_letter_rows.newest(database, chosen, limit=20, before=place)[0]) == 20
        assert_small(watch, pages=500)


@pytest.mark.usefixtures("dead")
def test_groups_of_dead_letters(watch, database):
    """The entries of the index that are counted are those of the page's groups."""
    [group, *_] = groups = dead_letter_rows.groups(database, limit=5, most=200, hours=12)

    assert 5 == len(groups)
    # Up to 200 of each group, and in each of twelve hours up to a hundred.
    assert_small(watch, rows=5 * 12 * 100, pages=5_000)
    dead_letter_rows.workers_of_group(database, group.id)
    assert_small(watch, pages=500)


def test_what_became_of_a_redrive(watch, database):
    """Among jobs of other redrives."""
    redrive_id, other = uuid4(), uuid4()
    database.rows(
        """UPDATE jobs SET redrive_id = CASE WHEN status = 'failed' OR id::text LIKE '%%1' THEN %s ELSE %s END::uuid
        WHERE id IN (SELECT id FROM jobs WHERE status <> 'pending' ORDER BY id LIMIT 2000)""",
        (redrive_id, other),
    )
    watch.clear()

    outcomes = redrive_outcomes.read(database, redrive_id)

    assert 0 < outcomes.jobs[Status.COMPLETED] < 500
    assert outcomes.last_failed
    assert_small(watch, rows=500, pages=1_000)


@pytest.mark.usefixtures("dead")
def test_what_needs_a_person(watch, database, monkeypatch):
    """What is read has the limits of the module, here smaller ones, however many dead letters and groups there are."""
    for name, limit in {"HELD_AMONG": 50, "GROUPS": 5, "NEWEST": 5, "TOLD_GROUPS": 5, "MOST_COUNTED": 20}.items():
        monkeypatch.setattr(attention, name, limit)
    database.rows("INSERT INTO servers (name, error, probe_at) VALUES ('mail', 'away', now())")
    database.rows(
        """UPDATE jobs SET waits_for = 'mail'
        WHERE id IN (SELECT id FROM jobs WHERE status = 'pending' ORDER BY id DESC LIMIT 100)"""
    )
    watch.clear()

    seen = attention.read(database)

    counted = [group.jobs for group in seen.failing]
    assert (5, 20, [20]) == (len(counted), max(counted), [away.jobs for away in seen.away if away.name == "mail"])
    assert_small(watch, rows=150, pages=1_000)
    database.rows("UPDATE jobs SET waits_for = NULL WHERE waits_for = 'mail'")
    database.rows("DELETE FROM servers WHERE name = 'mail'")


def test_the_members_of_a_cancellation_are_few_rows_of_an_index(watch, database, monkeypatch):
    """By an index of the type, or of the unfinished jobs; of these so many as an action may look at."""
    count, is_capped, sample = unfinished.preview(database, Filters(type="EMAIL_SEND"))
    assert 0 < count <= 40
    assert (False, 10) == (is_capped, len(sample))
    assert_small(watch)

    monkeypatch.setattr(unfinished, "MOST_COUNTED", 500)
    _, is_capped, sample = unfinished.preview(database, Filters(queue="default"))
    assert (True, 10) == (is_capped, len(sample))
    assert_small(watch, rows=1_100, pages=FEW_PAGES + 8 * 1_100)


@pytest.mark.parametrize(
    ("kind", "selection"),
    [
        (Kind.REDRIVE, dead_letter_rows.selection({"end_reason": "rejected"})),
        (Kind.DISCARD, dead_letter_rows.selection({"end_reason": "rejected"})),
        (Kind.CANCELLATION, unfinished.selection(Filters(type="EMAIL_SEND"))),
    ],
)
def test_actions_on_many(watch, database, broker, kind, selection):
    service = BulkActions(database, DeadLetterList(broker.client, broker.keys), interval_seconds=1)
    bulk_actions.begin(database, uuid4(), kind, selection, text="{}", rate_per_second=1_000, by="b")
    watch.clear()

    service.run_once(Turn())
    bulk_actions.newest(database, kind, limit=20)

    # Each job that is changed has its entries in the indexes.
    assert_small(watch, pages=2_500)
    database.rows("TRUNCATE bulk_actions, bulk_action_jobs")


def test_the_scrape(watch, database):
    """Counting reads what waits, runs or has failed; never what is completed, nearly all of a grown table."""
    unfinished = database.row("SELECT count(*) FROM jobs WHERE status <> 'completed'")[0]
    watch.clear()

    rows = JobRows(database, queues=["default"], lease_seconds=15)
    for look in (rows.jobs, rows.overdue, rows.dead_letters, rows.workers, rows.pauses, rows.bulk_actions):
        list(look())

    # Sorted, by queue, are only the running and the dead: at most 500 here.
    assert_small(watch, rows=2 * unfinished, pages=unfinished, sorted_rows=500)


def test_depths_are_counted_to_their_limits(watch, database):
    database.row("SELECT 1")
    watch.clear()

    assert {"csv-generation"} <= {kind for _, kind in statistics.depths(database)}
    assert statistics.ended_or_running(database)
    statistics.workers(database, lease_seconds=1)
    statistics.running(database)

    # Of 17,000 waiting jobs.
    assert_small(watch, rows=20_000, pages=20_000)


def test_jobs_submitted_lately_are_found_by_their_ids(watch, database):
    """Among those of long ago, and no more of them than are read."""
    lifecycle.submit(database, [new_job() for _ in range(200)])
    watch.clear()

    assert ("default", "csv-generation") in statistics.submitted(database)

    assert_small(watch, rows=300, pages=300)
