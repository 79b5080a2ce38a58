"""Submitting from an event loop, on real servers: one statement for what arrives together, and each job on its own."""

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psycopg2
import pytest
from eventually import eventually
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from proxy import Proxy
from samples import new_job

from jobs_service import events
from jobs_service.broker import publisher as publisher_module
from jobs_service.broker.publisher import Publisher
from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.errors import DatabaseUnavailable, InvalidRequest, ValueRefused
from jobs_service.events import JobSubmitted, MessageNotPublished
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.job_types import JobType, Registry
from jobs_service.observability import logs, otel, tracing
from jobs_service.submission import writer as writer_module
from jobs_service.submission.submit import Submission, Submitter

ROOT = Path(__file__).parents[2]

#: What a process does that submits five jobs at once.
SUBMITTING = """
import asyncio, os
import msgspec
from jobs_service.broker.publisher import Publisher
from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.job_types import load
from jobs_service.submission.submit import Submission, Submitter

async def submit():
    settings, registry = Settings.from_env(os.environ), load()
    broker, database = JobBroker.from_settings(settings), open_database(settings, connections=1)
    broker.learn(job_type.name for job_type in registry)
    submitter = Submitter(database, Publisher(broker), registry, settings)
    submission = Submission(type="csv-generation", payload=msgspec.Raw(b'{"name": "Alice"}'))
    await asyncio.gather(*(submitter.submit(submission, Origin()) for _ in range(5)))

asyncio.run(submit())
"""

ORIGIN = Origin("request", None)


@pytest.fixture
def registry():
    registry = Registry()
    registry.add(JobType("csv-generation", dict, len))
    registry.add(JobType("mail", dict, len, queue="mails"))
    return registry


@pytest.fixture
def build(environ, registry):
    """Return a submitter with a database of its own, as an API process has it. Settings may be replaced."""
    built = []

    def build(**settings):
        settings = Settings.from_env(environ | settings)
        broker = JobBroker.from_settings(settings)
        broker.learn(job_type.name for job_type in registry)
        database = open_database(settings, service="test", connections=1)
        built.append((broker, database))
        return Submitter(database, Publisher(broker), registry, settings)

    yield build
    for broker, database in built:
        database.discard()
        broker.close()


@pytest.fixture
def submitter(build):
    return build()


@pytest.fixture
def sent(monkeypatch):
    """Record the statements of a submitter from now on."""

    def sent(submitter):
        statements, database = [], submitter.writer.database
        run = database._run
        monkeypatch.setattr(database, "_run", lambda sql, *rest: statements.append(sql) or run(sql, *rest))
        return statements

    return sent


def a_submission(job_type="csv-generation", **fields):
    return Submission(type=job_type, payload=msgspec.Raw(b"{}"), **fields)


async def submit(submitter, submissions, origin=ORIGIN):
    return await asyncio.gather(
        *(submitter.submit(submission, origin) for submission in submissions), return_exceptions=True
    )


def run(submitter, submissions):
    return asyncio.run(submit(submitter, submissions))


def errors(reason):
    return REGISTRY.get_sample_value("jobs_submission_errors_total", {"reason": reason}) or 0


def test_jobs_that_arrive_together_are_one_statement_and_one_command_for_each_line(submitter, sent, database, valkey):
    run(submitter, [a_submission(), a_submission("mail")])  # the connection, the time, and the windows
    statements = sent(submitter)
    with valkey.client() as client:
        client.config_resetstat()
        before = commits(database)

        jobs = run(submitter, [a_submission()] * 20 + [a_submission("mail")] * 5)

        assert 2 == client.info("commandstats")["cmdstat_zadd"]["calls"]
    assert 1 == len(statements)
    assert "INSERT INTO jobs" in statements[0]
    # One of them is this test's own look.
    assert 1 + 1 == eventually(lambda: commits(database) - before, what="PostgreSQL's count")
    found = dict(
        database.rows("SELECT id, publish_at > now() FROM jobs WHERE id = ANY(%s)", ([job.id for job in jobs],))
    )
    assert found == {job.id: True for job in jobs}
    assert [21, 6] == [submitter.writer.publisher.broker.waiting(queue) for queue in ("default", "mails")]


def commits(database):
    """Return how many transactions were committed, this look not included."""
    database.rows("SELECT pg_stat_force_next_flush()")
    [(count,)] = database.rows("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    return count


def test_ids_are_in_the_order_of_the_calls(submitter, database):
    jobs = run(submitter, [a_submission()] * 30)

    assert [job.id for job in jobs] == sorted(job.id for job in jobs)
    assert 30 == database.row("SELECT count(*) FROM jobs")[0]


def test_what_postgresql_refuses_fails_alone(submitter, sent, database):
    writer = submitter.writer
    jobs = [new_job() for _ in range(63)]
    jobs.insert(40, new_job(payload='{"name": "\\u0000"}'))
    statements = sent(submitter)

    outcomes = writer.write(jobs)

    assert [40] == [place for place, outcome in enumerate(outcomes) if isinstance(outcome, ValueRefused)]
    assert 63 == database.row("SELECT count(*) FROM jobs")[0]
    # The whole, and two halves for each of six halvings.
    assert 1 + 2 * 6 == len(statements)


def test_a_job_that_expires_too_early_fails_alone_and_is_not_announced(submitter, announced, database):
    expired = a_submission(expires_at=datetime.now(UTC) - timedelta(hours=1))

    outcomes = run(submitter, [a_submission(), expired, a_submission()])

    assert isinstance(outcomes[1], InvalidRequest)
    assert "/expires_at" == outcomes[1].pointer
    assert [str(outcomes[0].id), str(outcomes[2].id)] == submitted(announced)
    assert 2 == database.row("SELECT count(*) FROM jobs")[0]
    assert 2 == submitter.writer.publisher.broker.waiting("default")


def submitted(announced):
    return [event.job_id for event in announced if isinstance(event, JobSubmitted)]


def test_without_a_database_all_are_refused_and_counted(build, free_port, announced):
    submitter = build(DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/none")
    before = errors("database_unavailable")

    outcomes = run(submitter, [a_submission()] * 5)

    assert [DatabaseUnavailable] * 5 == [type(outcome) for outcome in outcomes]
    assert 5 == errors("database_unavailable") - before
    assert [DatabaseUnavailable] * 3 == [type(each) for each in submitter.writer.write([new_job() for _ in range(3)])]
    assert [] == announced


def test_too_many_at_once_are_refused_and_counted(submitter, monkeypatch):
    monkeypatch.setattr("jobs_service.submission.intake.MOST_JOBS", 3)
    run(submitter, [a_submission()])
    before = errors("too_busy")

    outcomes = run(submitter, [a_submission()] * 5)

    assert 2 == errors("too_busy") - before == len([each for each in outcomes if isinstance(each, Exception)])


def test_while_one_statement_has_no_answer_the_loop_goes_on(submitter, database_url, database):
    """A lock on the table stands for a slow database."""

    async def go_on():
        submitting = asyncio.create_task(submit(submitter, [a_submission()] * 3))
        await asyncio.to_thread(eventually, lambda: is_blocked(database), what="a statement that waits")
        # Nothing but this loop ends the lock.
        await asyncio.sleep(0)
        assert not submitting.done()
        lock.rollback()
        return await submitting

    run(submitter, [a_submission()])
    lock = psycopg2.connect(database_url)
    try:
        lock.cursor().execute("LOCK TABLE jobs IN SHARE MODE")
        jobs = asyncio.run(go_on())
    finally:
        lock.close()

    assert 3 == len({job.id for job in jobs})


def is_blocked(database):
    return database.row(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%WITH new AS%%'"
    )


def test_while_postgresql_is_known_to_be_silent_no_call_waits(submitter, sent):
    run(submitter, [a_submission()])
    breaker, statements = submitter.writer.database._answering, sent(submitter)
    breaker.open_seconds = 60
    breaker.open("PostgreSQL gave no answer in 6 s")

    [outcome] = run(submitter, [a_submission()])

    assert "PostgreSQL gave no answer in 6 s" == str(outcome)
    assert [] == statements


@pytest.fixture
def redis_proxy(valkey, environ):
    with Proxy(int(valkey.port)) as proxy:
        environ["REDIS_URL"] = environ["REDIS_URL"].replace(f":{valkey.port}/", f":{proxy.port}/")
        yield proxy


@pytest.fixture
def no_further_count(monkeypatch):
    """Have the next batch find out about Redis when it publishes, not when it counts what waits."""
    monkeypatch.setattr(publisher_module, "COUNT_SECONDS", 3_600)


@pytest.fixture
def written_lines(log_lines, monkeypatch):
    """The log lines, those of events among them."""
    monkeypatch.setattr(events, "_subscribers", [*events._subscribers, ("logs", logs.log_event)])
    return log_lines


@pytest.fixture
def postgres_proxy(postgres, environ):
    with Proxy(int(postgres.port)) as proxy:
        environ["DATABASE_URL"] = environ["DATABASE_URL"].replace(f":{postgres.port}/", f":{proxy.port}/")
        yield proxy


def test_a_reply_that_is_lost_once_is_not_noticed(postgres_proxy, build, database, announced):
    submitter = build()
    run(submitter, [a_submission()])
    postgres_proxy.lose_reply(b"INSERT INTO jobs")

    jobs = run(submitter, [a_submission()] * 8)

    assert 1 == postgres_proxy.lost
    assert {job.id for job in jobs} < {job_id for (job_id,) in database.rows("SELECT id FROM jobs")}
    assert 9 == database.row("SELECT count(*) FROM jobs")[0] == len(submitted(announced))


def test_where_it_is_lost_twice_all_are_refused_and_written_once(postgres_proxy, build, database, announced):
    submitter = build()
    run(submitter, [a_submission()])
    postgres_proxy.lose_reply(b"INSERT INTO jobs", times=2)

    outcomes = run(submitter, [a_submission()] * 8)

    assert 2 == postgres_proxy.lost
    assert all(isinstance(outcome, DatabaseUnavailable) for outcome in outcomes)
    assert 9 == database.row("SELECT count(*) FROM jobs")[0]
    assert 1 == len(submitted(announced))


@pytest.mark.usefixtures("no_further_count")
def test_without_redis_all_are_submitted_and_the_relay_publishes_them_at_once(
    redis_proxy, submitter, sent, database, announced
):
    run(submitter, [a_submission()])
    statements = sent(submitter)
    redis_proxy.down()

    jobs = run(submitter, [a_submission()] * 5)

    assert 2 == len(statements)
    assert "INSERT INTO jobs" in statements[0]
    assert "UPDATE jobs SET publish_at" in statements[1]
    ids = [job.id for job in jobs]
    assert (5,) == database.row("SELECT count(*) FROM jobs WHERE id = ANY(%s) AND publish_at <= now()", (ids,))
    assert 5 == len([event for event in announced if isinstance(event, MessageNotPublished)])
    assert 1 + 5 == len(submitted(announced))


@pytest.mark.usefixtures("no_further_count")
def test_each_job_is_logged_with_the_fields_of_its_own_request(redis_proxy, submitter, written_lines):
    async def request(number):
        logs.bind_anew(request_id=f"r{number}")
        return await submitter.submit(a_submission(), Origin(f"r{number}", None))

    async def all_requests():
        return await asyncio.gather(*(request(number) for number in range(5)))

    run(submitter, [a_submission()])
    redis_proxy.down()

    jobs = asyncio.run(all_requests())

    requests = {str(job.id): f"r{number}" for number, job in enumerate(jobs)}
    lines = [line for line in written_lines() if line.get("request_id")]
    assert requests == {line["job_id"]: line["request_id"] for line in lines if line["event"] == JobSubmitted.text}
    unsent = [line["request_id"] for line in lines if line["event"] == MessageNotPublished.text]
    assert list(requests.values()) == unsent


@pytest.mark.parametrize(
    ("place", "left"),
    [("api.before_commit", (0, 0)), ("api.after_commit", (5, 0)), ("api.after_publish", (5, 5))],
)
def test_a_process_that_is_killed_leaves_all_of_a_batch_or_none(submitter, environ, database, place, left):
    """Rows without messages are due within REPUBLISH_SECONDS, and the relay publishes them."""
    killed = subprocess.run(
        [sys.executable, "-c", SUBMITTING],
        cwd=ROOT,
        env={**os.environ, **environ, "FAILPOINTS": f"{place}=kill"},
        check=False,
    )

    assert -signal.SIGKILL == killed.returncode
    [(rows,)] = database.rows("SELECT count(*) FROM jobs WHERE status = 'pending'")
    assert left == (rows, submitter.writer.publisher.broker.waiting("default"))


@pytest.mark.parametrize("place", ["api.before_commit", "api.after_commit", "api.after_publish"])
def test_a_batch_that_is_written_again_has_each_job_once(submitter, database, announced, monkeypatch, place):
    failing = [place]

    def fail_once(name):
        if name in failing:
            failing.remove(name)
            raise OSError(name)

    monkeypatch.setattr(writer_module, "failpoint", fail_once)

    jobs = run(submitter, [a_submission()] * 5)

    assert 5 == database.row("SELECT count(*) FROM jobs")[0]
    assert 5 == submitter.writer.publisher.broker.waiting("default")
    assert [str(job.id) for job in jobs] == submitted(announced)


def test_behind_a_full_window_jobs_are_left_to_the_relay(build, database):
    submitter = build(QUEUE_WINDOW="10")
    broker = submitter.writer.publisher.broker
    run(submitter, [a_submission()] * 10)
    submitter.writer.publisher._counted_at.clear()

    jobs = run(submitter, [a_submission(), a_submission("mail")])

    assert [10, 1] == [broker.waiting(queue) for queue in ("default", "mails")]
    ids = [job.id for job in jobs]
    due = dict(database.rows("SELECT id, publish_at <= now() FROM jobs WHERE id = ANY(%s)", (ids,)))
    assert [True, False] == [due[job_id] for job_id in ids]


def test_a_client_that_has_gone_away_has_submitted_its_job(submitter, database, announced):
    async def leave():
        await submit(submitter, [a_submission()])
        task = asyncio.create_task(submit(submitter, [a_submission()] * 2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await submitter.intake.close(seconds=60)

    asyncio.run(leave())

    assert 3 == database.row("SELECT count(*) FROM jobs")[0] == len(set(submitted(announced)))
    assert 3 == submitter.writer.publisher.broker.waiting("default")


def test_each_job_has_a_span_of_its_own_and_the_statement_is_in_the_first(submitter, database, monkeypatch):
    monkeypatch.setattr(events, "_subscribers", [])
    exporter, provider = InMemorySpanExporter(), otel.new_provider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    run_statement = submitter.writer.database._run
    current = []
    monkeypatch.setattr(
        submitter.writer.database, "_run", lambda *args: current.append(tracing.current()) or run_statement(*args)
    )
    tracing.use(provider)
    try:
        jobs = run(submitter, [a_submission()] * 3)
    finally:
        tracing.use(None)

    spans = {
        f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01": span
        for span in exporter.get_finished_spans()
    }
    stored = dict(database.rows("SELECT id, traceparent FROM jobs"))
    assert [stored[job.id] for job in jobs] == [job.traceparent for job in jobs]
    assert {str(job.id): job.traceparent for job in jobs} == {
        span.attributes[tracing.MESSAGE_ID]: traceparent for traceparent, span in spans.items()
    }
    assert [None, jobs[0].traceparent] == current


def test_a_thread_submits_without_a_loop(submitter, database, announced):
    job = submitter.submit_blocking(a_submission(), ORIGIN)

    assert [str(job.id)] == submitted(announced)
    assert 1 == database.row("SELECT count(*) FROM jobs")[0]
    assert not submitter.intake._thread.is_alive()
    with pytest.raises(InvalidRequest):
        submitter.submit_blocking(a_submission(expires_at=datetime(2020, 1, 1, tzinfo=UTC)), ORIGIN)
