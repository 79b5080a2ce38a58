"""What a job costs: statements, commits, write-ahead log, Redis commands and round trips, switches between threads.

The counts are exact: the leader of maintenance is elsewhere, no heartbeat falls into the time, and nothing times out.
Jobs that are to meet in one statement are held by a lock until all of them wait.
"""

import contextlib
import http.client
import json
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest
from databases import opened, postgres_with_template
from eventually import eventually

from jobs_service.maintenance.leadership import Leadership

#: A page that is changed for the first time after a checkpoint goes into the log as a whole: not a cost of the job.
COUNTED = (
    "shared_preload_libraries=pg_stat_statements",
    "autovacuum=off",
    "fsync=off",
    "full_page_writes=off",
    "max_connections=200",
)

#: Nothing happens by itself for as long as a test takes.
QUIET = {
    "HEARTBEAT_INTERVAL_SECONDS": "300",
    "LEASE_SECONDS": "3600",
    "SWEEP_INTERVAL_SECONDS": "300",
    "RELAY_INTERVAL_SECONDS": "60",
    "REPUBLISH_SECONDS": "3600",
    "DATABASE_IDLE_SECONDS": "3600",
    "DATABASE_STATEMENT_TIMEOUT_SECONDS": "100",
    "TIME_LIMIT_SECONDS": "600",
    "WORKER_SHUTDOWN_SECONDS": "700",
    "STOP_GRACE_SECONDS": "800",
    "dramatiq_worker_timeout": "600000",
}

BURST = 64
ALICE = {"name": "Alice", "score": 95}

#: The statements of a job, by a part of their text that no other statement has.
SUBMIT, CLAIM, COMPLETE = "INSERT INTO jobs", "attempts = attempts +", "result = done.result"

#: DEALLOCATE goes in one message with the statement that is prepared anew. Leadership, heartbeats and the API's regular
#: look at the keys are no job's; `test_guarded_processes.py` counts the looks.
_STATEMENTS = """
SELECT query, sum(calls)::int FROM pg_stat_statements
JOIN pg_roles ON userid = pg_roles.oid JOIN pg_database ON dbid = pg_database.oid
WHERE rolname <> current_user AND datname = current_database()
  AND query NOT LIKE 'DEALLOCATE%%' AND query !~ '(INTO|FROM|UPDATE) (leases|workers|api_keys)'
GROUP BY query"""

# Only one database of the server is written to, so all transactions but the leader's and the heartbeat's are of jobs.
_LOGGED = """
WITH transactions AS (
  SELECT count(*) FILTER (WHERE record_type LIKE 'COMMIT%%') AS commits, sum(record_length) AS bytes,
         bool_or(block_ref ~ (
           SELECT '/(' || string_agg(pg_relation_filenode(oid)::text, '|') || ') ' FROM pg_class
           WHERE relname IN ('leases', 'workers')
         )) IS TRUE AS is_other
  FROM pg_get_wal_records_info(%s, %s) WHERE xid::text <> '0' GROUP BY xid::text
)
SELECT COALESCE(sum(commits), 0)::int, COALESCE(sum(bytes), 0)::int FROM transactions WHERE NOT is_other"""


@dataclass(frozen=True)
class Cost:
    """What was done between two looks. Statements by their text, Redis commands by their names."""

    statements: Counter
    commits: int
    log_bytes: int
    commands: Counter
    round_trips: int

    def sent(self):
        """Return how often each statement of a job was sent, and how often any other."""
        known = [
            sum(calls for sql, calls in self.statements.items() if part in sql) for part in (SUBMIT, CLAIM, COMPLETE)
        ]
        return (*known, self.statements.total() - sum(known))


class Observer:
    """Looks at the servers with a role of its own, whose statements are not counted."""

    def __init__(self, url, redis):
        self._url, self._redis = url, redis
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        #: How often it has asked Redis.
        self._asked = 0
        self._begin = self._totals()

    def close(self):
        self._connection.close()

    def begin(self):
        """Count from now on."""
        self._wait_for_the_consumer()
        self._begin = self._totals()

    def cost(self):
        """Return what was done since `begin`."""
        self._wait_for_the_consumer()
        statements, position, commands, round_trips = (
            now - begin if isinstance(now, int | Counter) else (begin, now)
            for begin, now in zip(self._begin, self._totals(), strict=True)
        )
        [(commits, log_bytes)] = self._rows(_LOGGED, *position)
        return Cost(statements, commits, log_bytes, commands, round_trips)

    def completed(self):
        return self._value("SELECT count(*) FROM jobs WHERE status = 'completed'")

    @contextlib.contextmanager
    def writes_wait(self):
        """Have every statement wait that would change a job, until the end of the block."""
        with contextlib.closing(psycopg2.connect(self._url)) as locking, locking.cursor() as cursor:
            cursor.execute("LOCK TABLE jobs IN SHARE MODE")
            yield

    def waiting_writes(self):
        return self._value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")

    def _wait_for_the_consumer(self):
        """Wait until the only queue's consumer waits for messages: its request is counted when it is sent."""
        eventually(lambda: self._info("clients")["blocked_clients"] == 1, what="a consumer that waits")

    def _totals(self):
        found = {
            name.removeprefix("cmdstat_"): command["calls"] for name, command in self._info("commandstats").items()
        }
        calls = Counter(found)
        del calls["info"]
        round_trips = self._info("stats")["total_reads_processed"] - self._asked
        position = self._value("SELECT pg_current_wal_flush_lsn()")
        return Counter(dict(self._rows(_STATEMENTS))), position, calls, round_trips

    def _info(self, section):
        self._asked += 1
        return self._redis.info(section)

    def _value(self, sql):
        return self._rows(sql)[0][0]

    def _rows(self, sql, *parameters):
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    with postgres_with_template(tmp_path_factory.mktemp("postgres"), *COUNTED) as server:
        server.execute("CREATE ROLE observer SUPERUSER LOGIN PASSWORD 'observer'")
        for extension in ("pg_stat_statements", "pg_walinspect"):
            server.execute(f"CREATE EXTENSION {extension}", "jobs_template")
        yield server


@pytest.fixture
def observer(postgres, valkey, database_url):
    name = database_url.rpartition("/")[2]
    with valkey.client() as redis:
        observer = Observer(f"postgresql://observer:observer@127.0.0.1:{postgres.port}/{name}", redis)
        yield observer
        observer.close()


@pytest.fixture
def quiet(service, database_url):
    """The service, without a leader of maintenance in its worker."""
    service.environ |= QUIET
    with opened(database_url) as database, _leading(Leadership(database, uuid4(), lease_seconds=10)):
        yield service
        service.end()


@contextlib.contextmanager
def _leading(leadership):
    assert leadership.ensure()
    end = threading.Event()

    def lead():
        while not end.wait(0.5):
            leadership.ensure()

    thread = threading.Thread(target=lead)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def start(service, observer, **environ):
    """Start API and worker, and let a job open all connections. Return both."""
    api, worker = service.start_api(), service.start_worker(**environ)
    run_one(service, observer)
    return api, worker


def run_one(service, observer):
    before = observer.completed()
    service.post("csv-generation", ALICE)
    eventually(lambda: observer.completed() == before + 1, what="a completed job")


def send(service, count, job_type, payload):
    """Send so many jobs, each over a connection of its own, and return the connections: no answer is read yet."""
    body = json.dumps({"type": job_type, "payload": payload})
    connections = [http.client.HTTPConnection("127.0.0.1", service.api_port, timeout=100) for _ in range(count)]
    for connection in connections:
        connection.request("POST", "/jobs", body, {"Content-Type": "application/json"})
    return connections


def statuses(connections):
    found = []
    for connection in connections:
        with contextlib.closing(connection):
            found.append(connection.getresponse().status)
    return found


def thread_switches(child):
    """Return how often the kernel has taken a processor from any thread of a child's processes."""
    files = [path for pid in child.pids() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    lines = [line for path in files for line in path.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches:" in line)


def test_a_job_alone(quiet, observer):
    start(quiet, observer, ACTOR_MODULES="")

    for _ in range(5):
        observer.begin()
        run_one(quiet, observer)

        cost = observer.cost()
        assert (1, 1, 1, 0) == cost.sent()
        assert 3 == cost.commits
        # Published, taken by the consumer. At most four times a second the API asks how long the line is, for each of
        # the ten priorities in one message.
        lengths = {"zcount": 10} if cost.commands["zcount"] else {}
        assert {"zadd": 1, "bzmpop": 1, **lengths} == cost.commands
        assert 2 + bool(lengths) == cost.round_trips
        # Three versions of the row, and three events, with their entries in the indexes. Measured: 2,760.
        assert cost.log_bytes < 3_300


@pytest.mark.parametrize(
    ("max_running", "claims"),
    [
        ("test-one-at-a-time=64", 2),
        # A consumer that waits for all lines may not take two from any, and takes the rest with its next request.
        ("test-one-at-a-time=1", 3),
    ],
)
def test_jobs_that_come_together_share_statements(quiet, observer, tmp_path, max_running, claims):
    """The first has each statement to itself; while that waits for the lock, the others gather for the second one."""
    started, go = tmp_path / "started", tmp_path / "go"
    payload = {"started": str(started), "go": str(go)}
    start(quiet, observer, WORKER_THREADS=str(BURST + 1), MAX_RUNNING=max_running)
    observer.begin()

    with observer.writes_wait():
        first = send(quiet, 1, "test-wait-for-file", payload)
        eventually(lambda: observer.waiting_writes() == 1, what="the first job's INSERT")
        others = send(quiet, BURST - 1, "test-wait-for-file", payload)
        # The answer counts itself.
        eventually(
            lambda: f"http_server_active_requests {BURST + 1}.0\n" in quiet.get("/metrics")[1], what="all requests"
        )
    assert [201] * BURST == statuses([*first, *others])
    eventually(lambda: len(started.read_text().splitlines()) == BURST, what="all jobs running")
    eventually(lambda: quiet.metrics()["jobs_worker_threads_busy"] == BURST, what="all threads busy")
    with observer.writes_wait():
        go.touch()
        eventually(lambda: quiet.metrics()["jobs_worker_threads_busy"] == 0, what="all jobs returned")
    eventually(lambda: observer.completed() == BURST + 1, what="all jobs completed")

    cost = observer.cost()
    # The others are those of the looks at the metrics.
    submitted, claimed, completed, _ = cost.sent()
    assert 2 == submitted
    assert 2 <= claimed <= claims
    # One, if all of them had returned before the thread that completes them looked.
    assert 1 <= completed <= 2
    assert submitted + claimed + completed == cost.commits
    # Published twice, and once the consumer was told that there is room again for their type, which had its limit.
    assert 3 == cost.commands["zadd"]
    assert 2 <= cost.commands["bzmpop"] <= claims + 1
    # Shared statements save no rows and index entries. Measured: 2,950 for a job, of which the payload has several 100.
    assert cost.log_bytes < BURST * 4_000


def test_a_job_takes_few_switches_between_threads(quiet, observer):
    """Of the API fewer than one for a request: a thread for each would wait for the statement, and would be woken."""
    api, worker = start(quiet, observer, WORKER_THREADS="16")
    before = thread_switches(api), thread_switches(worker)
    api.pause()
    requests = send(quiet, BURST, "csv-generation", ALICE)

    worker.pause()
    api.resume()
    assert [201] * BURST == statuses(requests)
    in_api = thread_switches(api) - before[0]
    worker.resume()
    eventually(lambda: observer.completed() == BURST + 1, what="all jobs completed")
    in_worker = thread_switches(worker) - before[1]

    # Measured: 20 to 60, and 1,200 to 1,800 of which most are waits for the interpreter's lock.
    assert in_api < 2 * BURST
    assert in_worker < 60 * BURST
