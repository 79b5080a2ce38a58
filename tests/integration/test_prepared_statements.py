"""The statements of every job, prepared: each once, with a good plan, and with the results that they have otherwise."""

import dataclasses
import math
from datetime import UTC, datetime
from itertools import count
from uuid import uuid4

import pytest
from pgbouncer import PgBouncer, needs_pgbouncer
from plans import Watch, assert_small, fill
from proxy import Proxy
from rows import claim_one
from samples import new_job

from jobs_service.config import Settings
from jobs_service.database import prepared, sessions
from jobs_service.database.connection import open_database
from jobs_service.errors import SchemaUnavailable, ValueRefused
from jobs_service.jobs import lifecycle
from jobs_service.jobs.lifecycle import ClaimRequest

#: What `pass_jobs` sends: submit, claim, complete, and what they look up after a lost reply.
HOT = (
    "WITH new",
    "UPDATE jobs SET status = 'processing'",
    "SELECT lease_token::text",
    "UPDATE jobs SET status = 'comp",
)
LOOK = "SELECT id FROM jobs"

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

_numbers = count(1)


def pass_jobs(database, number=4):
    """Send each of the statements of every job, for so many jobs."""
    jobs = [new_job() for _ in range(number)]
    # Whether such a job was written already is looked up in the table.
    late = [new_job(expires_at=LONG_AGO) for _ in range(number)]
    submitted = lifecycle.submit(database, [*jobs, *late])
    assert [False] * number + [True] * number == [job.is_expired for job in submitted]
    asks = [ClaimRequest(job.id, uuid4()) for job in jobs]
    claims = lifecycle.claim(database, asks)
    assert [ask.token for ask in asks] == [claim.token for claim in claims]
    assert [1] * number == [claim.attempts for claim in lifecycle.claim(database, asks)]
    assert [True] * number == lifecycle.complete(database, [(claim, "1") for claim in claims])
    assert [True] * number == lifecycle.complete(database, [(claim, "1") for claim in claims])


@pytest.fixture
def opened(settings):
    """Return a function that opens a database which prepares, with further settings."""
    databases = []

    def opened(**changes):
        changed = dataclasses.replace(settings, **changes)
        databases.append(open_database(changed, service="test", connections=1, prepares=True))
        return databases[-1]

    yield opened
    for database in databases:
        database.discard()


@pytest.fixture
def hot(opened, monkeypatch):
    """A database that prepares, and whose plans do not age."""
    monkeypatch.setattr(prepared, "PLAN_SECONDS", math.inf)
    return opened()


@pytest.fixture
def sent(monkeypatch):
    """The messages that connections send."""
    sent = []
    execute = sessions._Cursor.execute

    def noting(cursor, sql, parameters=None):
        sent.append(sql)
        return execute(cursor, sql, parameters)

    monkeypatch.setattr(sessions._Cursor, "execute", noting)
    return sent


def prepares(sent):
    return [message for message in sent if "PREPARE " in message.replace("DEALLOCATE", "")]


def test_each_statement_is_prepared_once_on_a_connection_and_costs_no_message_of_its_own(hot, sent):
    hot.rows("SELECT 1")
    sent.clear()

    for _ in range(3):
        pass_jobs(hot)

    # Of the seven statements two are looks: for both claims and both completions.
    assert 3 * 7 == len(sent)
    assert len({*HOT, LOOK}) == len(prepares(sent))
    executed = [message for message in sent if message.startswith("EXECUTE")]
    assert 3 * 7 - 5 == len(executed)
    for beginning in (*HOT, LOOK):
        assert any(beginning in message for message in executed)
    assert [(5,)] == hot.rows("SELECT count(*) FROM pg_prepared_statements")
    assert [(0,)] == hot.rows("SELECT sum(custom_plans)::int FROM pg_prepared_statements")


def test_a_plan_that_is_old_is_made_anew(hot, sent, monkeypatch):
    pass_jobs(hot)
    monkeypatch.setattr(prepared, "PLAN_SECONDS", 0.0)
    sent.clear()

    pass_jobs(hot)

    assert sent == prepares(sent)
    assert 7 == len(sent)
    assert [(1,)] == hot.rows("SELECT count(*) FROM pg_prepared_statements")


STATES = ("never analyzed", "analyzed while empty", "analyzed when full")


@pytest.fixture(params=STATES)
def state(request):
    return request.param


@pytest.fixture
def database_url(request, postgres):
    """A database without autovacuum, if the test has a `state`."""
    name = f"test_prepared_{next(_numbers)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE jobs_template")
    if "state" in request.fixturenames:
        postgres.execute("ALTER TABLE jobs SET (autovacuum_enabled = off)", name)
    yield postgres.url_of(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_plans_are_good_once_the_table_has_grown(hot, state, postgres, database_url, monkeypatch):
    """Those of an empty table are not, or this test would show nothing."""
    name = database_url.rpartition("/")[2]
    watch = Watch(monkeypatch)
    if state == "analyzed while empty":
        postgres.execute("ANALYZE", name)
    send_on_an_empty_table(hot)
    fill(postgres, name)
    if state == "analyzed when full":
        postgres.execute("ANALYZE", name)
    else:
        watch.clear()
        pass_jobs(hot)
        assert any(plan.blocks > 1_000 for plan in watch.plans)

    [(connection, _)] = hot._pool._idle
    connection.prepared._since = -math.inf
    pass_jobs(hot)
    watch.clear()
    pass_jobs(hot)

    assert 7 == sum(plan.sql.startswith("EXECUTE") for plan in watch.plans)
    assert_small(watch)


def send_on_an_empty_table(database):
    """Prepare all statements, and plan them while the table has not one page."""
    late = lifecycle.submit(database, [new_job(expires_at=LONG_AGO)])
    assert late[0].is_expired
    assert [None] == lifecycle.claim(database, [ClaimRequest(uuid4(), uuid4())])
    assert [(0,)] == database.rows("SELECT pg_relation_size('jobs')::int")


def test_plans_of_ordinary_connections_are_good_too(opened, state, postgres, database_url, monkeypatch):
    name = database_url.rpartition("/")[2]
    database = opened(database_prepared_statements="off")
    if state == "analyzed while empty":
        postgres.execute("ANALYZE", name)
    fill(postgres, name)
    if state == "analyzed when full":
        postgres.execute("ANALYZE", name)
    database.rows("SELECT 1")
    watch = Watch(monkeypatch)

    pass_jobs(database)

    assert 7 == len(watch.plans)
    assert_small(watch)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE jobs ALTER COLUMN attempts TYPE bigint",
        "CREATE INDEX another ON jobs (worker_id)",
        "ALTER TABLE jobs ADD COLUMN another text",
        "ANALYZE jobs",
    ],
)
def test_a_schema_that_changes_is_survived_and_each_transition_made_once(hot, sent, submit, row, change):
    pass_jobs(hot)
    hot.rows(change)
    job_id = submit()
    sent.clear()

    claim = claim_one(hot, job_id, uuid4())
    assert [True] == lifecycle.complete(hot, [(claim, "1")])

    assert 1 == claim.attempts
    assert ("completed", 1) == row(job_id, "status", "attempts")
    # Only where the rows of the answer have changed PostgreSQL refuses what it has.
    assert ("ALTER COLUMN" in change) == bool(prepares(sent))
    sent.clear()
    pass_jobs(hot)
    pass_jobs(hot)
    assert len(prepares(sent)) <= 5


def test_a_session_that_has_lost_its_statements_gets_them_again(hot, sent):
    pass_jobs(hot)
    before = hot.row("SELECT pg_backend_pid()")
    hot.rows("DEALLOCATE ALL")
    sent.clear()

    pass_jobs(hot)

    # One was refused.
    assert 7 + 1 == len(sent)
    assert 5 == len(prepares(sent))
    assert before == hot.row("SELECT pg_backend_pid()")


def test_a_session_that_has_a_statement_already_keeps_the_answers_right(hot):
    hot.row("SELECT %s::int", (1,))
    [(connection, _)] = hot._pool._idle
    connection.prepared._executes = {"another": "EXECUTE another"}

    assert (2,) == hot.row("SELECT %s::int", (2,))


def test_a_refused_value_is_refused_as_ever_and_harms_no_later_statement(hot, submit, row):
    pass_jobs(hot)
    before = hot.row("SELECT pg_backend_pid()")
    claim = claim_one(hot, submit(), uuid4())

    for _ in range(2):
        with pytest.raises(ValueRefused, match="Unicode escape"):
            lifecycle.complete(hot, [(claim, r'"\u0000"')])

    assert row(claim.job_id, "status") == "processing"
    assert [True] == lifecycle.complete(hot, [(claim, "1")])
    assert before == hot.row("SELECT pg_backend_pid()")


def test_a_missing_table_is_told_as_ever(hot, postgres, database_url):
    pass_jobs(hot)
    name = database_url.rpartition("/")[2]
    postgres.execute("ALTER TABLE jobs RENAME TO gone", name)

    with pytest.raises(SchemaUnavailable, match="jobs"):
        pass_jobs(hot)

    postgres.execute("ALTER TABLE gone RENAME TO jobs", name)
    pass_jobs(hot)


def submits(far, near):
    job = new_job()
    yield b"WITH new AS"
    [submitted] = lifecycle.submit(far, [job])
    assert (job.id, True) == (submitted.id, submitted.is_due)
    assert [("pending", 0)] == near.rows("SELECT status, attempts FROM jobs WHERE id = %s", (job.id,))


def claims(far, near):
    job = new_job()
    lifecycle.submit(near, [job])
    yield b"UPDATE jobs"
    assert 1 == claim_one(far, job.id, uuid4()).attempts
    assert [("processing", 1)] == near.rows("SELECT status, attempts FROM jobs WHERE id = %s", (job.id,))


def completes(far, near):
    job = new_job()
    lifecycle.submit(near, [job])
    claim = claim_one(near, job.id, uuid4())
    yield b"UPDATE jobs"
    assert [True] == lifecycle.complete(far, [(claim, "1")])
    assert [("completed", 1)] == near.rows("SELECT status, attempts FROM jobs WHERE id = %s", (job.id,))


@pytest.fixture
def far_url_and_proxy(settings, postgres):
    with Proxy(postgres.port) as proxy:
        yield settings.database_url.replace(f":{proxy.target_port}/", f":{proxy.port}/"), proxy


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("verb", [submits, claims, completes])
def test_a_statement_whose_reply_is_lost_is_sent_again_and_carried_out_once(
    opened, database, far_url_and_proxy, verb, is_known
):
    """Where the lost message was EXECUTE alone, and where it had PREPARE in it."""
    url, proxy = far_url_and_proxy
    far = opened(database_url=url)
    far.rows("SELECT 1")
    if is_known:
        pass_jobs(far)
    steps = verb(far, database)
    proxy.lose_reply(next(steps))

    assert next(steps, None) is None

    assert 1 == proxy.lost


#: How a connection through a pooler takes the settings: it refuses them, or ignores them.
WAYS = ["refused", "ignored"]


@pytest.fixture(params=WAYS)
def pooled_url(request, settings, postgres, tmp_path):
    further = "ignore_startup_parameters = options" if request.param == "ignored" else ""
    with PgBouncer(tmp_path / "pooler", postgres, further) as pooler:
        yield pooler.before(settings.database_url)


@needs_pgbouncer
def test_nothing_is_prepared_behind_a_pooler(opened, sent, pooled_url):
    database = opened(database_url=pooled_url)
    database.rows("SELECT 1")
    sent.clear()

    for _ in range(5):
        pass_jobs(database)

    assert 5 * 7 == len(sent)
    assert [] == prepares(sent)


@needs_pgbouncer
@pytest.mark.parametrize("pooled_url", ["ignored"], indirect=True)
def test_a_pooler_that_is_taken_for_a_server_costs_messages_and_no_answer(opened, pooled_url):
    """Each statement may be in a session that has it, has it not, or has it from another connection."""
    databases = [opened(database_url=pooled_url) for _ in range(2)]
    for database in databases:
        database.sessions.is_pooled = False

    for _ in range(5):
        for database in databases:
            pass_jobs(database)


def test_nothing_is_prepared_where_that_is_switched_off(opened, sent):
    database = opened(database_prepared_statements="off")

    pass_jobs(database)

    assert [] == prepares(sent)
    assert [("auto",)] == database.rows("SELECT current_setting('plan_cache_mode')")


def test_the_connections_of_threads_prepare_nothing(database, sent):
    pass_jobs(database)

    assert [] == prepares(sent)


def test_the_setting_is_on_or_off(environ):
    assert Settings.from_env(environ).database_prepared_statements == "auto"
    with pytest.raises(Exception, match="DATABASE_PREPARED_STATEMENTS is wrong"):
        Settings.from_env(environ | {"DATABASE_PREPARED_STATEMENTS": "yes"})


@pytest.mark.parametrize(
    ("sql", "parameters", "answer"),
    [
        ("SELECT %s::int - %s::int, %s::text", (5, 2, "%s %(x)s $1 %"), (3, "%s %(x)s $1 %")),
        ("SELECT %(x)s::int + %(y)s::int + %(x)s::int", {"y": 1, "x": 2, "more": 3}, (5,)),
        ("SELECT '%%s' || %s::text || '%%'", ("x",), ("%sx%",)),
        ("SELECT %s::text[], %s::uuid[]", ([None], []), ([None], [])),
        ("SELECT %s::timestamptz = %s::timestamptz, '\"'::text", (LONG_AGO, LONG_AGO), (True, '"')),
    ],
)
def test_a_prepared_statement_answers_as_one_that_is_not(hot, database, sql, parameters, answer):
    for _ in range(2):
        assert answer == database.row(sql, parameters) == hot.row(sql, parameters)

    assert [(1,)] == hot.rows("SELECT count(*) FROM pg_prepared_statements")


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [("SELECT 1", ()), ("SET application_name = 'x'", ()), ("SELECT %s, %s::int", ("x", 1)), ("SELECT '%%s::int'", ())],
)
def test_a_statement_without_parameters_or_casts_is_sent_as_it_is(hot, sent, sql, parameters):
    hot.rows(sql, parameters)

    assert sql == sent[-1]


def test_a_connection_has_a_bounded_number_of_statements(hot):
    for number in range(3 * prepared.MAX_STATEMENTS):
        assert (number, 7) == hot.row(f"SELECT {number}, %s::int", (7,))

    [(kept,)] = hot.rows("SELECT count(*) FROM pg_prepared_statements")
    assert 0 < kept <= prepared.MAX_STATEMENTS


def test_a_statement_in_a_transaction_is_sent_as_it_is(hot, sent):
    hot.row("SELECT %s::int", (1,))

    with hot.atomic():
        assert (1,) == hot.row("SELECT %s::int", (1,))

    assert "SELECT %s::int" in sent
