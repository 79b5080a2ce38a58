"""Observes the servers from outside: the status of the jobs, and what a job costs each server."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from bench.errors import Failed
from bench.servers import ROLE, Connection, Servers, count_statements

#: The round is given up after this time without a finished job.
STALLED_SECONDS = 60
#: Each check costs PostgreSQL something too: the more jobs are left, the longer the pause until the next check.
LOOK_AGAIN_SECONDS = 0.005
LOOK_AGAIN_SECONDS_A_JOB = 0.0003
LOOK_AGAIN_SECONDS_AT_MOST = 0.3
#: Pools keep their connections, so this need not be often.
COUNT_CONNECTIONS_AGAIN_SECONDS = 0.05

_STATES = "SELECT json_object_agg(status, jobs)::text FROM (SELECT status, count(*) AS jobs FROM jobs GROUP BY 1) AS s"


@dataclass(frozen=True)
class Counts:
    """The servers' running totals."""

    statements: int
    log_position: str
    redis_commands: int
    redis_reads: int


@dataclass
class ConnectionWatch:
    """The most connections that the measured programs were seen to hold at a time."""

    connection: Connection
    database: str
    most: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while True:
            self.look()
            if self._ended.wait(COUNT_CONNECTIONS_AGAIN_SECONDS):
                return

    def look(self) -> None:
        now = self.connection.run(
            f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}' AND datname = %s", self.database
        )
        self.most = max(self.most, now)

    def end(self) -> None:
        self._ended.set()


class Observer:
    """Observes one database. Each round creates a new observer with a new database."""

    def __init__(self, servers: Servers, database: str) -> None:
        self._servers, self._database = servers, database
        self._redis = servers.redis()
        self._admin = servers.connect()

    def __enter__(self) -> Self:
        """Create the database and empty Redis."""
        self._redis.flushall()
        self._redis.config_resetstat()
        self._admin.run(f"CREATE DATABASE {self._database} OWNER {ROLE}")
        self._jobs = self._servers.connect(self._database)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.closing(self._admin), contextlib.closing(self._redis):
            if hasattr(self, "_jobs"):
                self._jobs.close()
                self._admin.run(f"DROP DATABASE {self._database} WITH (FORCE)")

    def count_statements(self, *, on: bool) -> None:
        count_statements(self._admin, on=on)

    def checkpoint(self) -> None:
        """Write the pages that earlier rounds changed to disk now, so that this round does not pay for it."""
        self._admin.run("CHECKPOINT")

    def counts(self) -> Counts:
        statements = self._admin.run(
            "SELECT COALESCE(sum(calls), 0)::bigint FROM pg_stat_statements JOIN pg_roles ON userid = pg_roles.oid"
            f" WHERE rolname = '{ROLE}'"
        )
        calls = sum(command["calls"] for command in self._redis.info("commandstats").values())
        return Counts(
            statements=statements,
            log_position=self._admin.run("SELECT pg_current_wal_insert_lsn()::text"),
            redis_commands=calls,
            redis_reads=self._redis.info("stats")["total_reads_processed"],
        )

    @contextlib.contextmanager
    def watching_connections(self) -> Iterator[ConnectionWatch]:
        """Count, again and again, the connections that the measured programs hold."""
        with contextlib.closing(self._servers.connect()) as connection:
            watch = ConnectionWatch(connection, self._database)
            thread = threading.Thread(target=watch.run)
            thread.start()
            try:
                yield watch
            finally:
                watch.end()
                thread.join()

    def commits_between(self, start: Counts, end: Counts) -> int:
        """Count the commit records in the write-ahead log: transactions that changed something."""
        return self._admin.run(
            f"SELECT COALESCE(sum(count), 0)::bigint FROM pg_get_wal_stats('{start.log_position}',"
            f" '{end.log_position}', per_record => true) WHERE \"resource_manager/record_type\" = 'Transaction/COMMIT'"
        )

    def status(self, job_id: str) -> str:
        return self._jobs.run("SELECT status FROM jobs WHERE id = %s", job_id)

    def jobs(self) -> int:
        return self._jobs.run("SELECT count(*) FROM jobs")

    def wait_until_started(self, jobs: int) -> float:
        """Return the time at which this many jobs were first seen to be no longer pending."""
        return self._wait("SELECT count(*) FROM jobs WHERE status <> 'pending'", jobs)

    def wait_until_completed(self, jobs: int) -> float:
        """Return the time at which this many jobs were first seen completed. Raises `Failed` if that never happens."""
        return self._wait("SELECT count(*) FROM jobs WHERE status = 'completed'", jobs)

    def _wait(self, sql: str, wanted: int) -> float:
        count, progress_at = 0, time.monotonic()
        while time.monotonic() - progress_at < STALLED_SECONDS:
            now = self._jobs.run(sql)
            if now >= wanted:
                return time.monotonic()
            if now > count:
                count, progress_at = now, time.monotonic()
            pause = (wanted - now) * LOOK_AGAIN_SECONDS_A_JOB
            time.sleep(min(max(pause, LOOK_AGAIN_SECONDS), LOOK_AGAIN_SECONDS_AT_MOST))
        states = self._jobs.run(_STATES)
        raise Failed(f"no job made progress in {STALLED_SECONDS} s; jobs by status: {states}")
