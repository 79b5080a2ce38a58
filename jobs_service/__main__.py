"""The command line: `python -m jobs_service api | worker | migrate | check | keys`."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from jobs_service.api.access import command as key_command, exposure
from jobs_service.broker.neighbours import conflicts
from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings, numbers_by_name
from jobs_service.database import migrations
from jobs_service.database.connection import open_database
from jobs_service.errors import BrokerUnavailable, JobsError, NameTaken, PostgresError, SettingsError
from jobs_service.jobs.job_types import load
from jobs_service.metrics import multiprocess
from jobs_service.observability import logs
from jobs_service.readiness import advice, preflight
from jobs_service.worker import begun
from jobs_service.worker.supervisor import Plan, ProgramPlan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. An error of ours is printed as one line, without a traceback."""
    parsed = _parser().parse_args(arguments)
    command: str = parsed.command
    try:
        settings = Settings.from_env(os.environ)
        return key_command.run(settings, parsed) if command == "keys" else COMMANDS[command](settings)
    except PostgresError as error:
        what, reason = advice.on_postgresql(error), str(error)
        print(f"{command}: {what}" if reason == what else f"{command}: {what} ({reason})", file=sys.stderr)
        return 1
    except BrokerUnavailable as error:
        print(f"{command}: Redis cannot be used as it is: {error}", file=sys.stderr)
        return 1
    except JobsError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1


def api(settings: Settings) -> int:
    """Serve the API with gunicorn."""
    logs.configure(form=settings.log_format, level=settings.log_level, service="app")
    preflight.begin(settings)
    exposure.check(settings)
    _prepare_metrics(settings, "api")
    return _become("gunicorn", "--config", "python:jobs_service.api.gunicorn_config", "jobs_service.asgi:application")


def worker(settings: Settings) -> int:
    """Run jobs: WORKER_PROCESSES times the dramatiq command, and the process that serves their metrics."""
    logs.configure(form=settings.log_format, level=settings.log_level, service="worker")
    preflight.begin(settings)
    _prepare_metrics(settings, "worker")
    folder = tempfile.mkdtemp(prefix="jobs-worker-")
    plan = Plan(
        list(_worker_programs(settings, Path(folder))),
        settings.kill_after_seconds,
        log_format=settings.log_format,
        log_level=settings.log_level,
        folder=folder,
    )
    return _become("jobs_service.worker.supervisor", msgspec.json.encode(plan).decode())


def migrate(settings: Settings) -> int:
    """Apply the files of seeds/ that the database lacks."""
    # Ctrl-C ends it at once, as a kill would, without waiting for PostgreSQL. It is safe to end it at any point.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    applied = migrations.migrate(open_database(settings), report=lambda line: print(f"migrate: {line}", flush=True))
    print(f"migrate: applied {', '.join(applied)}" if applied else "migrate: nothing to do")
    return 0


def check(settings: Settings) -> int:
    """Check the settings, and the servers that they name."""
    for warning in preflight.check(settings):
        print(f"check: {warning}", file=sys.stderr)
    _check_types(settings)
    _check_names(settings)
    print("check: the settings are valid, the servers can be used, and the database is migrated")
    return 0


def _check_names(settings: Settings) -> None:
    """Raises `NameTaken` where another installation or program uses our names in Redis, or `BrokerUnavailable`."""
    broker = JobBroker.from_settings(settings)
    if found := conflicts(broker.client, broker.keys, load(settings.actor_modules).queues):
        raise NameTaken("; ".join(found))


COMMANDS: dict[str, Callable[[Settings], int]] = {
    command.__name__: command for command in (api, worker, migrate, check)
}


def _check_types(settings: Settings) -> None:
    """Raises `SettingsError` for a limit of an unknown job type: most likely its name is misspelt."""
    registry = load(settings.actor_modules)
    if unknown := registry.unknown(numbers_by_name(settings.max_running)):
        known = ", ".join(registry.names)
        raise SettingsError([f"MAX_RUNNING names {', '.join(unknown)}, but the job types are {known}"])


def _worker_programs(settings: Settings, folder: Path) -> Iterator[ProgramPlan]:
    """Yield the programs. In the `folder` each worker process notes what the next one has to know if it is lost."""
    defaults = {
        # Claim no more jobs than there are threads: one that waits behind a long job here could run elsewhere.
        "dramatiq_queue_prefetch": str(settings.worker_threads),
        # How long a consumer waits in Redis at a time. A message ends the wait, and so does a stop.
        "dramatiq_worker_timeout": "3000",
    }
    environ = {name: os.environ.get(name, value) for name, value in defaults.items()}
    environ[multiprocess.SERVED_VARIABLE] = "1"
    dramatiq = [
        sys.executable,
        "-m",
        "dramatiq",
        "jobs_service.worker.assembly:boot",
        "--processes=1",
        f"--threads={settings.worker_threads}",
        f"--worker-shutdown-timeout={int(settings.worker_shutdown_seconds * 1000)}",
        # The command waits for its process to report that it started, which matters only for forks (there are none).
        # A process that is killed while it reports would leave the command waiting for ever.
        "--worker-fork-timeout=10",
        "--skip-logging",
    ]
    for number in range(1, settings.worker_processes + 1):
        name = f"dramatiq-{number}"
        yield ProgramPlan(name, dramatiq, {**environ, begun.PATH_VARIABLE: str(folder / name)})
    yield ProgramPlan("metrics", [sys.executable, "-m", "jobs_service.metrics.exposition"], environ)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs_service", description="The Async Job System.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        subparsers.add_parser(name, help=command.__doc__, description=command.__doc__)
    about = key_command.run.__doc__
    key_command.add_arguments(subparsers.add_parser("keys", help=about, description=about))
    return parser


def _prepare_metrics(settings: Settings, name: str) -> None:
    """Prepare an empty directory for the counters of the processes to start, which share it."""
    try:
        directory = settings.prometheus_multiproc_dir or tempfile.mkdtemp(prefix=f"jobs-metrics-{name}-")
        os.environ[multiprocess.VARIABLE] = directory
        multiprocess.clear(Path(directory))
    except OSError as error:
        raise SettingsError([f"PROMETHEUS_MULTIPROC_DIR cannot be used: {error}"]) from error


def _become(module: str, *arguments: str) -> int:
    """Replace this process by another with the same environment, so that signals reach it directly."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - nothing comes from outside


if __name__ == "__main__":
    sys.exit(main())
