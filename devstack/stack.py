"""`make run`: servers, API and workers on this machine, one log, one Ctrl-C."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

from devstack.ports import free_port, is_free
from devstack.processes import Child
from devstack.servers import MailCatcher, Postgres, Prometheus, Server, ServerError, Valkey
from jobs_service.config import Settings

ROOT = Path(__file__).resolve().parents[1]

READY_SECONDS = 60.0
LOOK_SECONDS = 0.1
PROMETHEUS_PORT = 9090
MAIL_WEB_PORT = 8025

#: Seconds an idle API or worker may take to end, beyond what running jobs are given.
STOP_MARGIN_SECONDS = 10.0

COLOURS = {"app": 36, "worker": 35, "stack": 33}


class StackError(Exception):
    """The stack cannot start or continue. The text is one line that says why, and what to do."""


class Stack:
    """Everything that `make run` starts. It is stopped in the reverse order."""

    def __init__(self, environ: Mapping[str, str], folder: Path, output: IO[str]) -> None:
        self.environ = dict(environ)
        self.folder = folder
        self.output = output
        self.servers: list[Server] = []
        self.children: dict[str, Child] = {}
        self._followed: dict[str, IO[str]] = {}
        self._signals = 0

    def run(self) -> int:
        """Run until Ctrl-C, and return 0, or until a process ends by itself, and return 1."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._on_signal)
        try:
            with _only_one(self.folder):
                return self._run_locked()
        except (StackError, ServerError) as error:
            self._say(str(error))
            return 1

    def _run_locked(self) -> int:
        try:
            self._start()
            self._say(self._welcome())
            self._follow()
        finally:
            self._stop()
        return 0

    def _start(self) -> None:
        own = self._own_servers()
        settings = self._settings()
        _check_ports(self._ports_needed(settings, own))
        for server in own:
            self._say(f"starting {server.name}")
            self.servers.append(server.start())
            self._unless_stopped()
        self._migrate()
        self._start_child("app", "api")
        self._start_child("worker", "worker")
        self._start_prometheus(settings)
        self._wait_until_ready(settings)

    def _own_servers(self) -> list[Server]:
        """Return the servers that the environment has no address for, and add their addresses to it."""
        ports = _Ports(self.folder / "ports.json")
        own: list[Server] = []
        if not self.environ.get("DATABASE_URL"):
            postgres = Postgres(self.folder / "postgres", ports["postgres"])
            self.environ["DATABASE_URL"] = postgres.url
            own.append(postgres)
        if not self.environ.get("REDIS_URL"):
            valkey = Valkey(self.folder / "valkey", ports["valkey"])
            self.environ["REDIS_URL"] = valkey.url
            own.append(valkey)
        if not self.environ.get("MAIL_HOST"):
            port = int(self.environ.get("MAIL_PORT") or 1025)
            own.append(MailCatcher(self.folder / "mail", port, web_port=self._mail_web_port))
            self.environ["MAIL_HOST"] = "127.0.0.1"
        return own

    @property
    def _mail_web_port(self) -> int:
        return int(self.environ.get("MAIL_WEB_PORT") or MAIL_WEB_PORT)

    def _settings(self) -> Settings:
        self.environ.setdefault("LOG_FORMAT", "console")
        # Canaries are submitted through the API, as the jobs of clients are.
        self.environ.setdefault("CANARY_URL", f"http://127.0.0.1:{self.environ.get('API_PORT') or 3000}")
        self.environ.setdefault("CONSOLE_URL", f"http://localhost:{self.environ.get('API_PORT') or 3000}/console")
        return Settings.from_env(self.environ)

    def _ports_needed(self, settings: Settings, own: list[Server]) -> dict[str, int]:
        needed = {"API_PORT": settings.api_port, "WORKER_METRICS_PORT": settings.worker_metrics_port}
        if any(isinstance(server, MailCatcher) for server in own):
            needed |= {"MAIL_PORT": settings.mail_port, "MAIL_WEB_PORT": self._mail_web_port}
        return needed

    def _migrate(self) -> None:
        command = [sys.executable, "-m", "jobs_service", "migrate"]
        done = subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StackError(f"the migrations could not be applied: {done.stderr.strip()}")
        # Only the last line, which says what was applied. The steps before it matter for large databases.
        self._say(done.stdout.strip().rpartition("\n")[2])

    def _start_child(self, name: str, command: str) -> None:
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        environ = self.environ | {"PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics" / name)}
        argv = [sys.executable, "-m", "jobs_service", command]
        child = self.children[name] = Child(argv, log=logs / f"{name}.log", env=environ, cwd=ROOT)
        followed = self._followed[name] = child.log.open(errors="replace")
        followed.seek(child.log_start)

    def _start_prometheus(self, settings: Settings) -> None:
        if Prometheus.binary() is None:
            return
        if not is_free(PROMETHEUS_PORT):
            self._say(f"Prometheus is not started: port {PROMETHEUS_PORT} is in use")
            return
        targets = {"jobs-api": settings.api_port, "jobs-worker": settings.worker_metrics_port}
        rules = ROOT / "monitoring" / "prometheus" / "rules"
        self.servers.append(
            Prometheus(self.folder / "prometheus", PROMETHEUS_PORT, targets=targets, rules=rules).start()
        )

    def _wait_until_ready(self, settings: Settings) -> None:
        urls = [
            f"http://127.0.0.1:{settings.api_port}/readyz",
            f"http://127.0.0.1:{settings.worker_metrics_port}/metrics",
        ]
        deadline = time.monotonic() + READY_SECONDS
        while not all(_answers(url) for url in urls):
            self._check_children()
            self._unless_stopped()
            if time.monotonic() > deadline:
                raise StackError(f"the API is not ready after {READY_SECONDS:.0f} s; see {self.folder / 'logs'}")
            time.sleep(LOOK_SECONDS)

    def _follow(self) -> None:
        """Print what the children log until a signal comes. Raises `StackError` when one of them ends by itself."""
        while not self._signals:
            self._print_logs()
            self._check_children()
            time.sleep(LOOK_SECONDS)

    def _check_children(self) -> None:
        for name, child in self.children.items():
            if not child.running:
                self._print_logs()
                code = child.exit_code()
                raise StackError(f"{name} ended by itself with code {code}; its log is {child.log}. Stopping the rest.")
        for server in self.servers:
            if not (server.child and server.child.running):
                raise StackError(f"{server.name} ended by itself; its log is {server.log}. Stopping the rest.")

    def _print_logs(self) -> None:
        for name, log in self._followed.items():
            for line in log:
                self._print(name, line.rstrip("\n"))

    def _stop(self) -> None:
        if self.children or self.servers:
            self._say("stopping; Ctrl-C again ends everything at once")
        for child in self.children.values():
            if child.running:
                child.send(signal.SIGTERM)
        for child in self.children.values():
            # They have had SIGTERM already. After a second one they would abort their running jobs.
            child.stop(with_signal=signal.SIGCONT, seconds=self._stop_seconds, tick=self._while_stopping)
        self._print_logs()
        for server in reversed(self.servers):
            server.stop()
        if self.children or self.servers:
            self._say("stopped")

    @property
    def _stop_seconds(self) -> float:
        return float(self.environ.get("WORKER_SHUTDOWN_SECONDS") or 75) + STOP_MARGIN_SECONDS

    def _while_stopping(self) -> None:
        self._print_logs()
        if self._signals > 1:
            for child in self.children.values():
                child.kill()

    def _unless_stopped(self) -> None:
        if self._signals:
            raise StackError("stopped while starting")

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signals += 1

    def _welcome(self) -> str:
        settings = self._settings()
        api = f"http://localhost:{settings.api_port}"
        places = {"console": f"{api}/console", "API": f"{api}/jobs", "API, described": f"{api}/docs"}
        places["API metrics"] = f"{api}/metrics"
        places["worker metrics"] = f"http://localhost:{settings.worker_metrics_port}/metrics"
        for server in self.servers:
            if isinstance(server, MailCatcher):
                places["mail"] = f"http://localhost:{server.web_port}"
            elif isinstance(server, Prometheus):
                places["Prometheus"] = f"http://localhost:{server.port}"
            else:
                places[server.name] = getattr(server, "url", "")
        places["data and logs"] = str(self.folder)
        table = "\n".join(f"  {name:<15} {place}" for name, place in places.items())
        example = '{"type":"csv-generation","payload":{"name":"Alice","score":95}}'
        curl = f"curl -X POST {api}/jobs -H 'Content-Type: application/json' -d '{example}'"
        note = "Ctrl-C stops everything and keeps the data. (.env is not read here: only Compose reads it)"
        return f"ready\n{table}\n\n  {curl}\n\n  {note}\n"

    def _say(self, text: str) -> None:
        for line in text.splitlines():
            self._print("stack", line)

    def _print(self, name: str, line: str) -> None:
        prefix = f"{name:<7}│ "
        if self.output.isatty():
            prefix = f"\033[{COLOURS.get(name, 37)}m{prefix}\033[0m"
        print(prefix + line, file=self.output, flush=True)


class _Ports:
    """The ports of servers without a configured port: any free one, and the same one at the next start if possible."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}

    def __getitem__(self, name: str) -> int:
        port = self.known.get(name)
        if port is None or not is_free(port):
            port = self.known[name] = free_port()
            self.path.write_text(json.dumps(self.known))
        return port


def _check_ports(needed: dict[str, int]) -> None:
    for variable, port in needed.items():
        if not is_free(port):
            raise StackError(
                f"port {port} is in use: stop the program that listens there, or set {variable} to another port, "
                f"for example: {variable}={free_port()} make run"
            )


class _only_one:  # noqa: N801 - reads as what it says: with _only_one(folder)
    """Holds the folder's lock. Raises `StackError` when another run holds it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "lock"

    def __enter__(self) -> None:
        self.file = self.path.open("a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.seek(0)
            raise StackError(
                f"the stack of this folder is already running, as process {self.file.read().strip()}: "
                "stop it first (Ctrl-C in its terminal), or run another one from a copy of the folder"
            ) from None
        self.file.truncate(0)
        self.file.write(f"{os.getpid()}\n")
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _answers(url: str) -> bool:
    with suppress(OSError):
        urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 - our own API
        return True
    return False


def main() -> int:
    """Run the stack of this checkout in `.local/`, or in the folder named by LOCAL_DIR."""
    folder = Path(os.environ.get("LOCAL_DIR") or ROOT / ".local").resolve()
    return Stack(os.environ, folder, sys.stdout).run()
