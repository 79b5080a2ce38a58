"""The service under a fault: its processes, and a client that remembers which jobs the API accepted."""

import http.client
import uuid
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path

import psycopg2
import psycopg2.extras
import redis
from databases import opened
from eventually import eventually
from proxy import Proxy

from devstack.processes import descendants, is_alive
from devstack.servers import Postgres, Valkey
from jobs_service.database.migrations import migrate

#: Unlike the server of the other tests, it keeps committed transactions when it is killed. A power cut may lose them.
DURABLE = ("fsync=off", "full_page_writes=off", "max_connections=200")

TERMINAL = ("completed", "failed", "cancelled")

#: A mixed load: (type, payload, wishes). Most succeed at once, some later, some never.
LOAD = (
    ("test-effect", {}, {}),
    ("test-effect", {"seconds": 0.2}, {}),
    ("csv-generation", {"name": "Alice", "score": 95}, {}),
    ("test-effect", {"fail_times": 1}, {}),
    ("test-effect", {"seconds": 0.1}, {"on_ambiguous": "hold"}),
    ("test-effect", {}, {"delay_seconds": 0.5}),
    ("test-effect", {"fail_times": 9}, {"max_attempts": 2}),
    ("test-effect", {"rejected": True}, {}),
)

UNLIMITED = ("test-effect", "test-wait-for-file", "test-hang", "test-hold-the-lock", "test-leak", "test-die")

#: Set in the environment of every process of a stack, so that orphans are found too.
MARK = "CHAOS_STACK"

CSV = "key,value\nname,Alice\nscore,95\n"


class Stack:
    """`database_url` and `redis_url` lead to the servers directly, even where the service goes through a proxy."""

    def __init__(self, service, folder):
        self.service = service
        self.folder = folder
        self.effects_file = folder / "effects"
        self.outputs = Path(service.environ["OUTPUT_DIR"])
        self.database_url = service.environ["DATABASE_URL"]
        self.redis_url = service.environ["REDIS_URL"]
        self.mark = f"{MARK}={uuid.uuid4()}"
        service.environ |= {
            MARK: self.mark.partition("=")[2],
            "ACTOR_MODULES": "trying,effects",
            "EFFECTS_FILE": str(self.effects_file),
            "FAILPOINTS_DIR": str(folder),
            "API_THREADS": "8",
            # A fault is to meet a job on every thread, whatever its type.
            "MAX_RUNNING": ",".join(f"{job_type}=64" for job_type in UNLIMITED),
        }
        #: The test's own servers. They stop after all checks are done.
        self.servers = ExitStack()
        #: id -> type of each job that the API answered with 201.
        self.accepted = {}
        #: Jobs that were not finished when the fault began, and when it began by PostgreSQL's clock.
        self.in_flight = []
        self.struck_at = None

    def start(self, *, workers=1, api=None, **environ):
        """Start an API with the environment `api`, and a worker with this many processes."""
        self.service.start_api(**(api or {}))
        return self.service.start_worker(WORKER_PROCESSES=str(workers), **environ)

    def start_own_valkey(self):
        """Start a Redis of the test's own. Call it before the service starts."""
        server = self.servers.enter_context(Valkey(self.folder / "own-valkey", save=False))
        self.redis_url = self.service.environ["REDIS_URL"] = f"{server.url}/0"
        return server

    def start_own_postgres(self, *options, kind=Postgres):
        """Start and migrate a PostgreSQL of the test's own with further options. Call it before the service starts."""
        server = self.servers.enter_context(kind(self.folder / "own-postgres", options=(*DURABLE, *options)))
        self.database_url = self.service.environ["DATABASE_URL"] = server.url
        with opened(server.url) as database:
            migrate(database)
        return server

    def submit(self, job_type="test-effect", payload=None, **wishes):
        """Return the id of the job, or None where the client did not see the API accept it."""
        body = {"type": job_type, "payload": payload or {}, **wishes}
        try:
            status, answer = self.service.request("POST", "/jobs", body)
        except (OSError, http.client.HTTPException):
            return None
        if status != 201:
            assert status == 503, answer
            return None
        self.accepted[answer["job_id"]] = job_type
        return answer["job_id"]

    def submit_load(self, count):
        """Submit a mixed load, and return the ids that were accepted."""
        ids = [self.submit(*work[:2], **work[2]) for work in islice(cycle(LOAD), count)]
        return [job_id for job_id in ids if job_id]

    def strike(self):
        """Note that the fault begins now. The recovery of unfinished jobs is measured from here."""
        self.struck_at = self.sql("SELECT clock_timestamp()")[0][0]
        self.in_flight = [row[0] for row in self.sql("SELECT id::text FROM jobs WHERE finished_at IS NULL")]

    def settle(self, seconds=120):
        """Wait until every accepted job is in a terminal state."""
        self.until_ended(list(self.accepted), seconds=seconds)

    def settle_unconfirmed(self):
        """Wait for jobs like the accepted ones whose clients got no answer, and which were committed all the same."""
        waits = "status = 'processing' OR status = 'pending' AND run_at <= now()"
        ask = f"SELECT id FROM jobs WHERE type = ANY(%s) AND ({waits})"
        types = list(set(self.accepted.values()))
        eventually(lambda: not self.sql(ask, (types,)), seconds=120, what="the end of jobs that were not confirmed")

    def until_ended(self, job_ids, seconds=120):
        eventually(lambda: self._have_ended(job_ids), seconds=seconds, what="the end of these jobs")

    def job(self, job_id):
        """Return a job's row, read from PostgreSQL itself."""
        with (
            self._connection() as connection,
            connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor,
        ):
            cursor.execute("SELECT * FROM jobs WHERE id = %s", (job_id,))
            return cursor.fetchone()

    def row(self, job_id, *columns):
        """Return these columns of a job, as a tuple."""
        [found] = self.sql(f"SELECT {', '.join(columns)} FROM jobs WHERE id = %s", (job_id,))
        return found

    def values(self, job_ids, *columns):
        """Return the different values that jobs have in a column, or as tuples in several."""
        names = ", ".join(columns)
        rows = self.sql(f"SELECT {names} FROM jobs WHERE id = ANY(%s::uuid[])", (list(job_ids),))
        assert len(rows) == len({*job_ids}), "a job is missing"
        return {found[0] if len(columns) == 1 else found for found in rows}

    def errors(self, job_id):
        """Return the class of each error in a job's history."""
        return [entry["error"] for entry in self.job(job_id)["history"]]

    def sql(self, statement, parameters=()):
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    def redis(self):
        return redis.Redis.from_url(self.redis_url)

    def effects(self):
        """Return how often each job had its effect."""
        lines = self.effects_file.read_text().splitlines() if self.effects_file.exists() else []
        return Counter(line.split()[0] for line in lines)

    def worker_pids(self, worker):
        """Return the processes below a worker's supervisor that run jobs, not those that serve metrics."""
        return [pid for pid in descendants(worker.pid) if is_alive(pid) and "dramatiq" in command_of(pid)]

    def pid_of(self, job_id):
        """Return the process that a job runs in. A worker's first claim may come before its first heartbeat."""
        sql = "SELECT pid FROM workers JOIN jobs ON jobs.worker_id = workers.id WHERE jobs.id = %s"
        [(pid,)] = eventually(lambda: self.sql(sql, (job_id,)), what="the row of a job's worker")
        return pid

    @contextmanager
    def no_process_ends(self):
        """Check that no process of the service ends within the block."""
        eventually(lambda: self.sql("SELECT FROM workers"), what="a worker at work")
        commands = {pid: command_of(pid) for pid in self.pids()}
        yield
        ended = {pid: command for pid, command in commands.items() if not is_alive(pid)}
        assert not ended, "\n".join([*ended.values(), *map(self.service.log, self.service.children)])

    def through(self, setting, port):
        """Put a proxy in front of the server of DATABASE_URL or REDIS_URL. Call it before the service starts."""
        proxy = self.servers.enter_context(Proxy(port))
        self.service.environ[setting] = self.service.environ[setting].replace(f":{port}/", f":{proxy.port}/")
        return proxy

    def serving_pids(self, worker):
        """Wait until the worker has run a job, and return its processes that run jobs."""
        self.until_ended([self.submit()])
        return self.worker_pids(worker)

    def recoveries(self):
        """Return the seconds from the fault to the end of each job that was in flight."""
        rows = self.sql(
            "SELECT extract(epoch FROM finished_at - %s)::float8 FROM jobs WHERE id = ANY(%s::uuid[])",
            (self.struck_at, self.in_flight),
        )
        return sorted(seconds for (seconds,) in rows if seconds is not None)

    def pids(self):
        """Return the running processes of the service, including orphans."""
        return [pid for pid in map(int, _numbers()) if self.mark in environment_of(pid) and is_alive(pid)]

    def _have_ended(self, job_ids):
        found = dict(self.sql("SELECT id::text, status FROM jobs WHERE id = ANY(%s::uuid[])", (job_ids,)))
        open_jobs = {job_id: found.get(job_id) for job_id in job_ids if found.get(job_id) not in TERMINAL}
        assert not open_jobs, open_jobs
        return True

    def _connection(self):
        connection = psycopg2.connect(self.database_url.replace("postgres://", "postgresql://"), connect_timeout=5)
        connection.autocommit = True
        return _Closing(connection)


class _Closing:
    def __init__(self, connection):
        self.connection = connection

    def __enter__(self):
        return self.connection

    def __exit__(self, *_):
        self.connection.close()


def _numbers():
    return [folder.name for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def environment_of(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return []


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
