"""One slow type does not take every thread, however many of its jobs wait; and a busy queue starves no other."""

import json
from collections import Counter
from uuid import UUID

import pytest
from eventually import eventually
from rows import write_backlog
from samples import new_job
from smtp_server import SILENCE, SmtpServer

#: Longer than any test waits.
LONG = {
    "MAIL_TIMEOUT_SECONDS": "100",
    "TIME_LIMIT_SECONDS": "600",
    "WORKER_SHUTDOWN_SECONDS": "700",
    "STOP_GRACE_SECONDS": "800",
}
MAIL = {"to": "ann@example.com", "subject": "s", "body": "b"}


@pytest.fixture
def slow(service, tmp_path):
    """Jobs of one type that end when they are allowed to."""
    return Slow(service, tmp_path)


class Slow:
    def __init__(self, service, folder):
        self.service = service
        self.started, self.go = folder / "started", folder / "go"
        self.payload = {"started": str(self.started), "go": str(self.go)}

    def post(self, **wishes):
        return self.service.post("test-wait-for-file", self.payload, **wishes)

    @property
    def begun(self):
        return len(self.started.read_text().splitlines()) if self.started.exists() else 0

    def end(self):
        self.go.touch()


def running(database):
    return Counter(job_type for (job_type,) in database.rows("SELECT type FROM jobs WHERE status = 'processing'"))


def write(settings, count, **fields):
    """Write jobs that wait, as a backlog that came in long ago."""
    priorities = fields.pop("priorities", [fields.pop("priority", 5)] * count)
    return write_backlog(settings, [new_job(priority=priority, **fields) for priority in priorities])


def test_a_csv_behind_slow_mails_starts_at_once(service, database):
    with SmtpServer({"CONNECT": SILENCE}) as mail:
        service.start_api()
        worker = service.start_worker(MAIL_HOST="127.0.0.1", MAIL_PORT=str(mail.port), **LONG)
        for _ in range(64):
            service.post("EMAIL_SEND", MAIL)
        eventually(lambda: running(database)["EMAIL_SEND"] == 3, what="as many mails as may run")

        service.when(service.post("csv-generation", {"a": 1}), "completed")

        assert {"EMAIL_SEND": 3} == running(database)
        worker.kill()


@pytest.mark.parametrize("priority", [0, 5])
def test_a_job_behind_a_backlog_far_longer_than_the_window_starts_at_once(service, settings, database, slow, priority):
    """Also one that the API did not ring for."""
    ids = write(settings, 20_000, type="test-wait-for-file", payload=json.dumps(slow.payload))
    service.start_worker(QUEUE_WINDOW="100", **LONG)
    eventually(lambda: slow.begun == 3, what="as many slow jobs as may run")
    [job_id] = write(settings, 1, priority=priority)

    eventually(lambda: database.row("SELECT status FROM jobs WHERE id = %s", (job_id,)) == ("completed",))

    assert {"test-wait-for-file": 3} == running(database)
    oldest = sorted(ids)[:3]
    assert {(id_,) for id_ in oldest} == {*database.rows("SELECT id FROM jobs WHERE status = 'processing'")}


def test_a_type_may_have_a_limit_of_its_own_by_setting(service, database, slow):
    service.start_api()
    service.start_worker(MAX_RUNNING="TEST_WAIT_FOR_FILE=4, EMAIL_SEND=1", **LONG)

    for _ in range(6):
        slow.post()

    eventually(lambda: running(database)["test-wait-for-file"] == 4, what="every thread busy")


def test_a_type_may_have_a_limit_of_its_own_by_code(service, database):
    service.start_api()
    service.start_worker(**LONG)
    for _ in range(6):
        service.post("test-one-at-a-time", {"seconds": 600})
    eventually(lambda: running(database)["test-one-at-a-time"] == 1, what="one of them")

    for _ in range(5):
        service.when(service.post("csv-generation", {"a": 1}), "completed")

    assert {"test-one-at-a-time": 1} == running(database)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_limited_type_goes_on_by_itself(service, slow, threads):
    """What ends makes room for the next of its type, whether or not anything else comes."""
    service.start_api()
    slow.end()
    # Nobody rings twice, and no wait in Redis ends by itself in the time that the test takes.
    service.start_worker(WORKER_THREADS=str(threads), REPUBLISH_SECONDS="3000", dramatiq_worker_timeout="20000")
    ids = [slow.post() for _ in range(40)]

    for job_id in ids:
        service.when(job_id, "completed")


def test_a_busy_queue_starves_no_other_and_each_keeps_its_priorities(service, settings, database):
    write(settings, 2_000, type="test-one-at-a-time", payload='{"seconds": 0.1}')
    service.start_worker(WORKER_THREADS="2", MAX_RUNNING="test-one-at-a-time=2", ACTOR_MODULES="trying,elsewhere")
    eventually(lambda: done(database, "default") > 10, what="a busy queue")

    write(settings, 5, type="test-elsewhere", queue="elsewhere", priorities=[1, 1, 9, 1, 5])

    eventually(lambda: done(database, "elsewhere") == 5, what="the other queue's jobs")
    assert done(database, "default") < 2_000
    begun = database.rows("SELECT priority FROM jobs WHERE queue = 'elsewhere' ORDER BY started_at, priority DESC")
    assert (9,) == begun[0]
    assert (1,) == begun[-1]


def test_a_killed_worker_leaves_nothing_behind_but_messages(service, settings, database, slow):
    """Its jobs and those that it had popped run elsewhere; the limits count in the new process from zero."""
    write(settings, 50, type="test-wait-for-file", payload=json.dumps(slow.payload))
    first = service.start_worker(**LONG)
    eventually(lambda: slow.begun == 3, what="as many slow jobs as may run")

    first.kill()
    slow.end()
    service.start_worker()

    eventually(lambda: done(database, "default") == 50, what="the end of all jobs")


def test_an_orderly_stop_gives_back_what_was_popped(service, settings, database, broker, slow):
    service.start_api()
    write(settings, 50, type="test-wait-for-file", payload=json.dumps(slow.payload))
    worker = service.start_worker(REPUBLISH_SECONDS="3000")
    eventually(lambda: slow.begun == 3, what="as many slow jobs as may run")

    slow.end()
    worker.stop(seconds=60)

    broker.learn(["test-wait-for-file"])
    waiting = database.row("SELECT count(*)::int FROM jobs WHERE status = 'pending'")
    eventually(lambda: waiting == (broker.waiting("default"),), what="a message for each job that waits")


def done(database, queue):
    [(count,)] = database.rows("SELECT count(*)::int FROM jobs WHERE queue = %s AND status = 'completed'", (queue,))
    return count


def test_a_job_that_computes_stops_neither_the_claims_nor_the_heartbeat(service, database, tmp_path):
    """It has the interpreter to itself most of the time; the other threads get their turns all the same."""
    started, go = tmp_path / "started", tmp_path / "go"
    service.start_api()
    service.start_worker()
    computing = service.post("test-compute", {"started": str(started), "go": str(go)})
    eventually(started.exists, what="a job that computes")
    beats = heartbeats(database)

    quick = [service.post("csv-generation", {"a": number}) for number in range(20)]
    for job_id in quick:
        service.when(job_id, "completed")
    eventually(lambda: heartbeats(database) >= beats + 5, what="five heartbeats")

    assert {"test-compute": 1} == running(database)
    go.touch()
    # Its lease was never lost.
    assert 1 == service.when(computing, "completed")["attempts"]


def heartbeats(database):
    [(beats,)] = database.rows("SELECT beats FROM workers")
    return beats


def test_a_claimed_job_never_waits_behind_the_long_jobs_of_another_queue(service, settings, database, slow, tmp_path):
    """Three of four threads are busy with one queue: the other one takes its jobs one by one, the most urgent first."""
    elsewhere = Elsewhere(tmp_path)
    service.start_worker(ACTOR_MODULES="trying,elsewhere", REPUBLISH_SECONDS="3000", **LONG)
    write(settings, 20, type="test-wait-for-file", payload=json.dumps(slow.payload))
    eventually(lambda: slow.begun == 3, what="as many long jobs as may run")
    [first] = elsewhere.write(settings, [0])
    eventually(lambda: elsewhere.begun == [first], what="the first job of the other queue")
    jobs = [first, *elsewhere.write(settings, priorities := [1, 5, 9, 5, 1])]
    eventually(lambda: published(database, "elsewhere") == len(priorities), what="messages of the others")

    for number in range(1, len(jobs) + 1):
        eventually(lambda number=number: len(elsewhere.begun) == number, what="the next job")
        # The one before it has returned, and may not be completed yet. No other is claimed as long as this one runs.
        eventually(lambda: running(database) == {"test-wait-for-file": 3, "test-wait-elsewhere": 1}, what="one claim")
        elsewhere.end(elsewhere.begun[-1])
    eventually(lambda: done(database, "elsewhere") == len(jobs), what="all jobs of the other queue")

    assert elsewhere.begun == [first, *(jobs[1:][place] for place in (2, 1, 3, 0, 4))]
    assert 3 == slow.begun
    slow.end()
    eventually(lambda: done(database, "default") == 20, what="all long jobs")


class Elsewhere:
    """Jobs of another queue, each of which ends when it is allowed to."""

    def __init__(self, folder):
        self.started, self.go = folder / "started elsewhere", folder / "go elsewhere"
        self.go.mkdir()

    def write(self, settings, priorities):
        payload = json.dumps({"started": str(self.started), "go": str(self.go)})
        return write(settings, 0, type="test-wait-elsewhere", queue="elsewhere", payload=payload, priorities=priorities)

    @property
    def begun(self):
        return [UUID(line) for line in self.started.read_text().splitlines()] if self.started.exists() else []

    def end(self, job_id):
        (self.go / str(job_id)).touch()


def published(database, queue):
    """Return how many waiting jobs have a message in Redis."""
    sql = (
        "SELECT count(*) FROM jobs WHERE queue = %s AND status = 'pending' AND publish_at > now() + interval '1 minute'"
    )
    return database.row(sql, (queue,))[0]
