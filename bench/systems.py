"""What is compared: this service, variants of it, and other ways to do the same. All get the same resources."""

import contextlib
import http.client
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from bench import packages
from bench.errors import Failed
from bench.servers import Connection, Servers
from devstack.ports import free_port
from devstack.processes import Child, wait_until

ROOT = Path(__file__).parent.parent

PROCESSES, THREADS = "2", "16"
READY_SECONDS = 30
STRAIGHTFORWARD = "straightforward"
OURS = "ours"
BARE = "bare"
CELERY = "celery"
NODE = "node"

_PYTHON_MODULE = (sys.executable, "-m")


@dataclass(frozen=True)
class System:
    """A way to start an API and a worker.

    In their arguments `{port}` is the API's port and `{number}` counts the workers from 1.
    """

    name: str
    api: list[str]
    worker: list[str]
    migrate: list[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    #: What the arguments follow.
    program: tuple[str, ...] = _PYTHON_MODULE
    #: How many workers are started; more than one where a worker is a single process.
    workers: int = 1
    #: What it is made of, where that is not what this service is made of.
    versions: str = ""


def straightforward() -> System:
    return System(
        STRAIGHTFORWARD,
        api=_gunicorn("bench.straightforward.app:application"),
        worker=["dramatiq", "--processes", PROCESSES, "--threads", THREADS, "bench.straightforward.actors"],
    )


def celery() -> System:
    """Return the Celery version. Raises `packages.Missing`."""
    pool = ["--pool", "threads", "--concurrency", THREADS, "--hostname", "worker{number}@%h"]
    return System(
        CELERY,
        api=_gunicorn("bench.celery_app.app:application"),
        worker=["celery", "--app", "bench.celery_app.tasks", "worker", *pool],
        program=(str(packages.celery()), "-m"),
        workers=int(PROCESSES),
        versions=packages.celery_versions(),
    )


def node() -> System:
    """Return the brief's design in Node.js. Raises `packages.Missing`."""
    sizes = {"API_PROCESSES": PROCESSES, "WORKER_THREADS": THREADS}
    return System(
        NODE,
        api=["bench/node/src/app.js"],
        worker=["bench/node/src/worker.js"],
        # Express answers errors with their stack, and is slower, unless it is told that this is production.
        environment=sizes | {"NODE_PATH": str(packages.node()), "NODE_ENV": "production"},
        program=("node",),
        workers=int(PROCESSES),
        versions=packages.node_versions(),
    )


def _gunicorn(application: str) -> list[str]:
    threads = ["--worker-class", "gthread", "--workers", PROCESSES, "--threads", THREADS]
    return ["gunicorn", *threads, "--bind", "127.0.0.1:{port}", application]


def ours(name: str = OURS, **changes: str) -> System:
    sizes = dict.fromkeys(("API_PROCESSES", "WORKER_PROCESSES"), PROCESSES)
    sizes |= dict.fromkeys(("API_THREADS", "WORKER_THREADS"), THREADS)
    return System(
        name,
        api=["jobs_service", "api"],
        worker=["jobs_service", "worker"],
        migrate=["jobs_service", "migrate"],
        # Without canaries, which would be counted as jobs that were not posted.
        environment=sizes | {"CANARY_INTERVAL_SECONDS": "0"} | changes,
    )


def bare() -> System:
    """Return this service without its metrics."""
    return ours(BARE, PYTHONPATH=f"{ROOT / 'bench' / 'bare'}:{ROOT}")


#: name -> how it is made, in the order of the table. All but ours are what it is compared with.
SYSTEMS: Mapping[str, Callable[[], System]] = {
    STRAIGHTFORWARD: straightforward,
    CELERY: celery,
    NODE: node,
    OURS: ours,
}


class Stack:
    """A system's API and worker on a fresh database, with their environment and their logs in `folder`."""

    def __init__(self, system: System, servers: Servers, database: str, folder: Path) -> None:
        self.system = system
        self.port = free_port()
        self.outputs = folder / "output"
        self._servers, self._folder = servers, folder
        self._running = contextlib.ExitStack()
        self._api: Child
        self._workers: list[Child] = []
        self.outputs.mkdir(parents=True)
        self._environment = {
            "DATABASE_URL": servers.url(database),
            "REDIS_URL": servers.valkey.url,
            "API_HOST": "127.0.0.1",
            "API_PORT": str(self.port),
            "WORKER_METRICS_PORT": str(free_port()),
            "OUTPUT_DIR": str(self.outputs),
            **system.environment,
        }

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._running)
            self._make_tables()
            self._api = self._start("api", self.system.api)
            self._wait_for_api()
            self.start_worker()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def groups(self) -> dict[str, list[int]]:
        """The process groups that are measured, as the ids of their first processes."""
        return {
            "API": [self._api.pid],
            "worker": [worker.pid for worker in self._workers],
            "PostgreSQL": [self._servers.postgres.pid],
            "Redis": [self._servers.valkey.pid],
        }

    def start_worker(self) -> None:
        numbers = range(1, self.system.workers + 1)
        self._workers = [self._start(f"worker{number}", self.system.worker, number) for number in numbers]

    def kill_worker(self) -> None:
        """End a worker that has nothing to do; a polite end takes Dramatiq seconds."""
        for worker in self._workers:
            worker.kill()

    def stop_worker(self, seconds: float) -> None:
        """Have the worker end what it began, and give back the rest."""
        for worker in self._workers:
            worker.stop(seconds=seconds)

    def log(self) -> str:
        workers = "\n".join(worker.tail() for worker in self._workers)
        return f"API:\n{self._api.tail()}\nworker:\n{workers}"

    def _start(self, name: str, arguments: list[str], number: int = 1) -> Child:
        metrics = self._folder / f"{name}-metrics"
        metrics.mkdir(exist_ok=True)
        filled = [argument.replace("{port}", str(self.port)).replace("{number}", str(number)) for argument in arguments]
        child = Child(
            [*self.system.program, *filled],
            log=self._folder / f"{name}.log",
            env={**os.environ, **self._environment, "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
            cwd=ROOT,
        )
        # Its database is dropped as well, so it need not stop gracefully.
        self._running.callback(child.kill)
        return child

    def _make_tables(self) -> None:
        if self.system.migrate:
            migrate = self._start("migrate", self.system.migrate)
            if not wait_until(lambda: not migrate.running, READY_SECONDS) or migrate.exit_code():
                raise Failed(f"the migration failed\n{migrate.tail()}")
        else:
            with contextlib.closing(Connection(self._environment["DATABASE_URL"])) as connection:
                connection.run((ROOT / "seeds/001_create_jobs_table.sql").read_text())

    def _wait_for_api(self) -> None:
        if not wait_until(lambda: not self._api.running or self._answers(), READY_SECONDS) or not self._api.running:
            raise Failed(f"the API does not answer\n{self._api.tail()}")

    def _answers(self) -> bool:
        """Tell whether the API answers a request, with any status."""
        with contextlib.suppress(OSError), contextlib.closing(self.connect()) as connection:
            connection.request("GET", "/livez")
            connection.getresponse().read()
            return True
        return False

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_SECONDS)
