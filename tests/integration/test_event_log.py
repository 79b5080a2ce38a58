"""Transitions write their events in the statement that they are, and readers read each of them exactly once."""

import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from uuid import uuid4

import psycopg2
import pytest
from databases import opened
from rows import claim_one, complete_one, release_one, rescue
from samples import a_failure, new_job

from jobs_service.jobs import bulk_actions, dead_letters, event_log, lifecycle, unfinished
from jobs_service.jobs.bulk_actions import Kind
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.event_log import Gap, Position, Snapshot
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.jobs.listing import Filters
from jobs_service.maintenance.event_pruner import EventPruner
from jobs_service.maintenance.service import Turn


class Reader:
    """Reads all pages after the moment in which it was made."""

    def __init__(self, database, *, position=None, limit=event_log.PAGE_ROWS):
        self.database, self.limit = database, limit
        self.position = position or event_log.read(database, None).position
        self.tokens = []

    def read(self):
        found = []
        while True:
            page = event_log.read(self.database, self.position, limit=self.limit)
            assert page.gap is None
            found += page.events
            self.tokens += [page.tokens.at(event.place) for event in page.events]
            self.position = page.position
            if not page.is_full:
                return found


def told(events):
    return [(event.name, event.status, event.attempt) for event in events]


@pytest.fixture
def reader(database):
    return Reader(database)


def _claimed(database, submit, worker_id, **fields):
    return claim_one(database, submit(**fields), worker_id)


def _fail_unknown(database, submit, worker_id):  # noqa: ARG001 - all have the same arguments
    job_id = submit(type="nobody-knows-it")
    lifecycle.fail_unknown(database, [job_id], job_type="nobody-knows-it", grace_seconds=-1)


def _expire(database, submit, worker_id):  # noqa: ARG001 - as above
    job_id = submit()
    database.rows("UPDATE jobs SET expires_at = now() WHERE id = %s", (job_id,))
    lifecycle.expire(database)


def _cancel(database, submit, worker_id):  # noqa: ARG001 - as above
    lifecycle.cancel(database, submit())


def _redrive(database, submit, worker_id):  # noqa: ARG001 - as above
    job_id = submit()
    lifecycle.cancel(database, job_id)
    lifecycle.redrive(database, job_id)


def _redrive_some(database, submit, worker_id):
    _fail_unknown(database, submit, worker_id)
    lifecycle.redrive_some(database, _begun(database, Kind.REDRIVE, dead_letters.selection({})), limit=1)


def _discard_some(database, submit, worker_id):
    _fail_unknown(database, submit, worker_id)
    action_id = _begun(database, Kind.DISCARD, dead_letters.selection({}))
    lifecycle.discard_some(database, action_id, by="someone", limit=1)


def _cancel_some(database, submit, worker_id):  # noqa: ARG001 - as above
    submit()
    action_id = _begun(database, Kind.CANCELLATION, unfinished.selection(Filters()))
    lifecycle.cancel_some(database, action_id, statuses=unfinished.UNFINISHED, reason="twice", by="someone", limit=1)


def _begun(database, kind, selection):
    action_id = uuid4()
    bulk_actions.begin(database, action_id, kind, selection, text="{}", rate_per_second=1, by="someone")
    return action_id


def _discard(database, submit, worker_id):
    _fail_unknown(database, submit, worker_id)
    [(job_id,)] = database.rows("SELECT id FROM jobs")
    lifecycle.discard(database, job_id, by="someone")


def _defer(database, submit, worker_id, **limits):
    claim = _claimed(database, submit, worker_id)
    lifecycle.defer(database, claim, a_failure(), deferral=Deferral(**limits), server="mail")


#: Transition -> what makes it, and the last event that is told then.
EXAMPLES = {
    "claim": [(_claimed, ("processing", "processing", 1))],
    "complete": [(lambda d, s, w: complete_one(d, _claimed(d, s, w), "1"), ("completed", "completed", 1))],
    "retry": [
        (
            lambda d, s, w: lifecycle.retry(d, _claimed(d, s, w), a_failure(), delay_seconds=1),
            ("retried", "pending", 1),
        )
    ],
    "fail": [
        (
            lambda d, s, w: lifecycle.fail(d, _claimed(d, s, w), a_failure(), reason=EndReason.REJECTED),
            ("failed", "failed", 1),
        )
    ],
    "release": [(lambda d, s, w: release_one(d, _claimed(d, s, w)), ("released", "pending", 1))],
    "snooze": [
        (lambda d, s, w: lifecycle.snooze(d, _claimed(d, s, w), "later", delay_seconds=1), ("snoozed", "pending", 1))
    ],
    "defer": [
        (_defer, ("deferred", "pending", 1)),
        (lambda d, s, w: _defer(d, s, w, limit_seconds=-1), ("failed", "failed", 1)),
    ],
    "rescue": [
        (lambda d, s, w: _claimed(d, s, w) and rescue(d, w), ("rescued", "pending", 1)),
    ],
    "crash": [
        (lambda d, s, w: lifecycle.crash(d, _claimed(d, s, w), "killed", delay_seconds=0), ("retried", "pending", 1)),
        (
            lambda d, s, w: lifecycle.crash(d, _claimed(d, s, w, max_attempts=1), "killed", delay_seconds=0),
            ("failed", "failed", 1),
        ),
    ],
    "abandon": [(lambda d, s, w: lifecycle.abandon(d, _claimed(d, s, w), "broken"), ("retried", "pending", 1))],
    "fail_unknown": [(_fail_unknown, ("failed", "failed", 0))],
    "expire": [(_expire, ("failed", "failed", 0))],
    "cancel": [(_cancel, ("cancelled", "cancelled", 0)), (_cancel_some, ("cancelled", "cancelled", 0))],
    "redrive": [(_redrive, ("redriven", "pending", 0)), (_redrive_some, ("redriven", "pending", 0))],
    "discard": [(_discard, ("discarded", "failed", 0)), (_discard_some, ("discarded", "failed", 0))],
}


def test_there_is_an_example_of_each_transition_that_is_told():
    untold = {"complete_canary"}

    assert set(lifecycle.TRANSITIONS) - untold == set(EXAMPLES) == set(event_log.EVENT_NAMES) - {"submit"}


@pytest.mark.parametrize(
    "example", [pytest.param(example, id=verb) for verb, examples in EXAMPLES.items() for example in examples]
)
def test_a_transition_writes_its_event_in_its_own_transaction(database, submit, worker_id, reader, example):
    act, last = example
    act(database, submit, worker_id)

    events = reader.read()
    assert ("submitted", "pending", 0) == told(events)[0]
    assert last == told(events)[-1]
    # It became visible with the row's change.
    ((xact, job_xact),) = database.rows(
        """SELECT (SELECT xact::xid::text FROM job_events ORDER BY id DESC LIMIT 1),
                  COALESCE((SELECT xmin::text FROM jobs), (SELECT xmin::text FROM discards))"""
    )
    assert xact == job_xact


def test_jobs_of_one_statement_share_a_row(database, worker_id, reader):
    jobs = [new_job() for _ in range(50)]
    lifecycle.submit(database, jobs)
    claims = lifecycle.claim(database, [lifecycle.ClaimRequest(job.id, worker_id) for job in jobs])
    lifecycle.complete(database, [(claim, "1") for claim in claims])

    assert {"submitted": 50, "processing": 50, "completed": 50} == Counter(event.name for event in reader.read())
    assert database.row("SELECT count(*)::int FROM job_events") == (3,)


def test_a_statement_that_changes_nothing_writes_nothing(database, submit, worker_id, reader):
    claim = _claimed(database, submit, worker_id)
    complete_one(database, claim, "1")
    reader.read()

    # It finds its own effect again, as after a lost reply.
    assert complete_one(database, claim, "1")
    lifecycle.cancel(database, claim.job_id)
    claim_one(database, claim.job_id, worker_id)
    lifecycle.submit(database, [new_job(id=claim.job_id)])
    assert reader.read() == []


def test_an_event_says_why(database, submit, worker_id, reader):
    lifecycle.fail(
        database, _claimed(database, submit, worker_id), a_failure(message="x" * 900), reason=EndReason.REJECTED
    )

    *_, failed = reader.read()
    data = json.loads(failed.data())
    assert {"reason": "rejected", "error": "x" * 500} == {name: data[name] for name in ("reason", "error")}
    assert (str(failed.job_id), "failed", 1) == (data["job_id"], data["status"], data["attempt"])
    assert b"\n" not in failed.data()


def test_each_event_is_read_once_and_in_order_however_transactions_commit(database, database_url):
    """Transactions that began early commit late, and a foreign one stays open all the time."""
    reader = Reader(database)
    seed = random.Random(7)
    jobs = [new_job() for _ in range(120)]
    over = threading.Event()
    with closing(psycopg2.connect(database_url)) as foreign, closing(psycopg2.connect(database_url)) as rolled_back:
        foreign.cursor().execute("SELECT pg_current_xact_id()")
        rolled_back.cursor().execute(
            "INSERT INTO job_events (name, type, queue, status, job_ids, attempts) "
            "VALUES ('completed', 't', 'q', 'completed', ARRAY[gen_random_uuid()], '{1}')"
        )
        found = []

        def read():
            with opened(database_url) as own:
                reader.database = own
                while not over.is_set():
                    found.extend(reader.read())
                found.extend(reader.read())

        reading = threading.Thread(target=read)
        reading.start()
        with ThreadPoolExecutor(12) as writers:
            for batch in range(0, 120, 10):
                writers.submit(_work, database_url, jobs[batch : batch + 10], seed.random() / 10).add_done_callback(
                    lambda done: done.result()
                )
        rolled_back.rollback()
        over.set()
        reading.join()

    assert {str(job.id): ["submitted", "processing", "completed"] for job in jobs} == _by_job(found)
    assert len(set(reader.tokens)) == len(reader.tokens) == 360


def _work(url, jobs, pause):
    """Submit, claim and complete jobs, each step in a transaction that stays open after its statement."""
    worker_id = uuid4()
    with opened(url) as database:

        def slowly(call):
            with database.atomic():
                answer = call()
                database.rows("SELECT pg_sleep(%s)", (pause,))
            return answer

        slowly(lambda: lifecycle.submit(database, jobs))
        claims = slowly(lambda: lifecycle.claim(database, [lifecycle.ClaimRequest(job.id, worker_id) for job in jobs]))
        slowly(lambda: lifecycle.complete(database, [(claim, "1") for claim in claims]))


def _by_job(events):
    found = {}
    for event in events:
        found.setdefault(event.job_id, []).append(event.name)
    return found


def test_a_reader_resumes_behind_any_event(database, worker_id):
    first = Reader(database, limit=2)
    for _ in range(4):
        jobs = [new_job() for _ in range(3)]
        lifecycle.submit(database, jobs)
        lifecycle.claim(database, [lifecycle.ClaimRequest(job.id, worker_id) for job in jobs])
    every = first.read()
    lifecycle.submit(database, [late := new_job()])

    for count, token in enumerate(first.tokens, 1):
        resumed = Reader(database, position=Position.of_token(token), limit=2).read()
        assert [event.place for event in every[count:]] == [event.place for event in resumed[:-1]]
        assert str(late.id) == resumed[-1].job_id


def test_a_page_leaves_out_what_was_not_committed_when_the_reading_of_it_began(database, database_url):
    """Between two pages, a row with a smaller number is committed: it comes later, not never."""
    reader = Reader(database, limit=1)
    with closing(psycopg2.connect(database_url)) as early:
        early.cursor().execute(
            "INSERT INTO job_events (name, type, queue, status, job_ids, attempts) "
            "VALUES ('completed', 't', 'q', 'completed', ARRAY[gen_random_uuid()], '{9}')"
        )
        for _ in range(3):
            lifecycle.submit(database, [new_job()])
        page = event_log.read(database, reader.position, limit=1)
        assert page.is_full
        early.commit()
    reader.position = page.position

    assert [0, 0, 9] == [event.attempt for event in reader.read()]


def test_only_the_events_of_one_job(database, submit, worker_id):
    begin = event_log.read(database, None).position
    submit()
    claim = _claimed(database, submit, worker_id)
    others = [lifecycle.ClaimRequest(submit(), worker_id) for _ in range(3)]
    claims = [claim, *lifecycle.claim(database, others)]
    lifecycle.complete(database, [(each, "1") for each in claims])

    page = event_log.read(database, begin, job_id=claim.job_id, wanted=[str(claim.job_id), str(uuid4())])

    assert [(str(claim.job_id), name) for name in ("submitted", "processing", "completed")] == [
        (event.job_id, event.name) for event in page.events
    ]
    assert {str(claim.job_id): "completed"} == {state.job_id: state.status for state in page.states.values()}


def test_an_event_in_a_subtransaction_is_read_once(database, submit, reader):
    with database.atomic(), database.atomic():
        submit()

    assert ["submitted"] == [event.name for event in reader.read()]
    assert reader.read() == []


def test_what_was_deleted_is_a_gap_for_who_has_not_read_it(database, submit):
    old, current = Reader(database), Reader(database)
    submit()
    current.read()
    assert 1 == event_log.prune(database, retention_seconds=-1, limit=10, fence=lifecycle.FENCE, token=None)
    submit()

    assert Gap.EXPIRED is event_log.read(database, old.position).gap
    assert ["submitted"] == [event.name for event in current.read()]


def test_a_position_of_another_server_is_a_gap(database, submit, reader):
    submit()
    mark, seen = reader.position.mark, reader.position.seen

    for other in (
        Position("0", seen),
        Position(mark, Snapshot(seen.end + 1_000_000, frozenset())),
        Position(mark, seen, Snapshot(seen.end + 1_000_000, frozenset())),
    ):
        page = event_log.read(database, other)
        assert (Gap.UNKNOWN, []) == (page.gap, list(page.events))
        assert event_log.read(database, page.position).gap is None


def test_rows_of_another_server_are_not_read_and_deleted(database, submit):
    database.rows(
        "INSERT INTO job_events (xact, name, type, queue, status, job_ids, attempts) "
        "VALUES ('9000000000', 'completed', 't', 'q', 'completed', ARRAY[gen_random_uuid()], '{1}')"
    )
    database.rows("UPDATE job_events_horizon SET xact = '9000000000'")

    assert 1 == event_log.disown(database, fence=lifecycle.FENCE, token=None)
    fresh = Reader(database)
    submit()
    assert ["submitted"] == [event.name for event in fresh.read()]


def test_nothing_is_deleted_before_its_time(database, submit):
    submit()

    assert 0 == event_log.prune(database, retention_seconds=3_600, limit=10, fence=lifecycle.FENCE, token=None)
    assert 0 == event_log.prune(database, retention_seconds=-1, limit=10, fence="FALSE", token=None)
    assert (1,) == database.row("SELECT count(*)::int FROM job_events")


@pytest.mark.parametrize("token", ["", "x", "1_2_3", "ab_10_12_1", "ab_1.5", "ab_" + "f" * 40, "ab_1_1_1.1\n"])
def test_what_is_no_token(token):
    with pytest.raises(ValueError, match=r"id of an event|invalid literal"):
        Position.of_token(token)


def test_a_token_is_the_position():
    seen, target = Snapshot(1_000, frozenset({990, 7})), Snapshot(1_100, frozenset({1_050}))

    for position in (Position("ab", seen), Position("ab", seen, target, (77, 3))):
        assert position == Position.of_token(position.token())
    assert "7:1000:7,990" == seen.text
    assert seen == Snapshot.of_text(seen.text)


def test_a_user_without_privileges_can_read(postgres, database_url, submit):
    name = database_url.rpartition("/")[2]
    role = f"reader_of_{name}"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    postgres.execute(f"GRANT SELECT ON jobs, job_events, job_events_horizon TO {role}", name)
    try:
        with opened(database_url.replace(f"{postgres.USER}:{postgres.PASSWORD}", f"{role}:secret")) as own:
            reader = Reader(own)
            submit()
            assert ["submitted"] == [event.name for event in reader.read()]
    finally:
        postgres.execute(f"DROP OWNED BY {role}", name)
        postgres.execute(f"DROP ROLE {role}")


def test_maintenance_deletes_events_after_their_retention(database, submit):
    for _ in range(3):
        submit()
    database.rows("UPDATE job_events SET at = now() - interval '2 hours' WHERE id < (SELECT max(id) FROM job_events)")
    pruner = EventPruner(database, interval_seconds=10, retention_seconds=3_600)

    assert {"events": 2} == pruner.run_once(Turn())
    assert {"events": 0} == pruner.run_once(Turn())
    # Not by a leader that has lost its lease.
    database.rows("UPDATE job_events SET at = now() - interval '2 hours'")
    assert {"events": 0} == pruner.run_once(Turn(fence=7))
    assert (1,) == database.row("SELECT count(*)::int FROM job_events")


def test_a_look_takes_the_index_however_large_the_table_and_old_a_transaction_is(database, database_url):
    """Without statistics too, as in the first minutes of a new table."""
    with closing(psycopg2.connect(database_url)) as foreign:
        foreign.cursor().execute("SELECT pg_current_xact_id()")
        database.rows(
            """INSERT INTO job_events (name, type, queue, status, job_ids, attempts)
            SELECT 'completed', 't', 'q', 'completed', ARRAY[gen_random_uuid()], '{1}' FROM generate_series(1, 50000)"""
        )
        position = event_log.read(database, None).position
        assert position.seen.in_flight
        for _ in range(2):
            before = _rows_read(database)
            event_log.read(database, position)
            assert _rows_read(database) - before < 10
            database.rows("ANALYZE job_events")


def _rows_read(database):
    """Return how many rows of the table and entries of its index were read so far."""
    database.rows("SELECT pg_stat_force_next_flush()")
    [(rows,)] = database.rows(
        "SELECT (seq_tup_read + idx_tup_fetch)::int FROM pg_stat_user_tables WHERE relname = 'job_events'"
    )
    return rows
