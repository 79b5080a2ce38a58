"""The worker: `dramatiq jobs_service.worker.assembly:boot` runs this in each of its processes."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

import dramatiq
from dramatiq.middleware import Middleware, Retries
from structlog.stdlib import get_logger

from jobs_service import events
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.redis import JobBroker
from jobs_service.code_version import code_version
from jobs_service.config import Settings, numbers_by_name
from jobs_service.database.connection import Database, open_database
from jobs_service.ids import new_id
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.job_types import Registry, load
from jobs_service.mail.mailer import SmtpMailer
from jobs_service.maintenance.assembly import build_services
from jobs_service.maintenance.leader import Maintenance
from jobs_service.maintenance.leadership import Leadership
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.service import Service
from jobs_service.metrics import catalogue, log_records
from jobs_service.metrics.clock import DatabaseClock
from jobs_service.metrics.slo import Objectives
from jobs_service.observability import logs, tracing
from jobs_service.orphans import end_with_parent, is_orphan
from jobs_service.outputs.assembly import open_outputs
from jobs_service.outputs.contract import OutputStore
from jobs_service.worker import begun
from jobs_service.worker.actors import declare
from jobs_service.worker.attempt import RunningAttempts
from jobs_service.worker.claims import Claims
from jobs_service.worker.completions import Completions
from jobs_service.worker.database_wait import DatabaseWait
from jobs_service.worker.heartbeat import Heartbeat
from jobs_service.worker.middleware.attempt_metrics import AttemptMetrics
from jobs_service.worker.middleware.lifecycle_sync import LifecycleSync
from jobs_service.worker.middleware.log_context import LogContext
from jobs_service.worker.middleware.time_limit import StrictTimeLimit
from jobs_service.worker.middleware.worker_services import WorkerServices
from jobs_service.worker.note_writer import NoteWriter
from jobs_service.worker.release import Release
from jobs_service.worker.sampler import Sampler
from jobs_service.worker.settler import Settler
from jobs_service.worker.watchdog import Loop, Watchdog

log = get_logger(module=__name__)

#: The lease of the maintenance leader, if `LEASE_SECONDS` is not shorter: how long a killed leader is waited for.
LEADERSHIP_SECONDS = 10.0

#: How long maintenance waits for the store of files at a time, and after a failure until it asks again.
MAINTENANCE_OUTPUT_SECONDS = 3.0
MAINTENANCE_OUTPUT_PAUSE_SECONDS = 60.0


def boot() -> None:
    """Build this process's broker and make it Dramatiq's. The `dramatiq` command calls it."""
    # A worker process must end with its dramatiq command. As long as it holds no jobs, by a signal without a handler:
    # Dramatiq's handler raises SystemExit at the second of the signals that the kernel sends, and on its way out the
    # process would wait for ever to report to its dead parent that it has begun.
    end_with_parent(signal.SIGKILL)
    if is_orphan():
        # Not by sys.exit: Dramatiq would report to the dead parent that its worker has begun, and wait for it.
        os._exit(1)
    settings = Settings.from_env(os.environ)
    logs.configure(form=settings.log_format, level=settings.log_level, service="worker")
    events.subscribe("logs", logs.log_event)
    tracing.start(settings, service="worker")
    registry = load(settings.actor_modules)
    catalogue.zero_worker(registry)
    logs.observe(log_records.count)
    outputs = open_outputs(settings)
    warn_of_long_types(registry, settings)
    warn_of_unknown_types(registry, settings)
    attempts = RunningAttempts(begun.take_over(os.environ.get(begun.PATH_VARIABLE)))
    broker = build_broker(settings, registry, new_id(), attempts, maintained_outputs(settings))
    mailer = SmtpMailer.from_settings(settings)
    declare(broker, registry, settings, attempts=attempts, outputs=outputs, mailer=mailer)
    dramatiq.set_broker(broker)


def maintained_outputs(settings: Settings) -> OutputStore:
    """Return the store of files as maintenance uses it: for a silent one, it does not hold up its other services."""
    return open_outputs(
        settings, timeout_seconds=MAINTENANCE_OUTPUT_SECONDS, pause_seconds=MAINTENANCE_OUTPUT_PAUSE_SECONDS
    )


def warn_of_long_types(registry: Registry, settings: Settings) -> None:
    """Log the types whose jobs a stop may interrupt: such jobs are given back and begin again."""
    for job_type in registry:
        longest = (job_type.time_limit_seconds or 0) + settings.hang_grace_seconds
        if longest >= settings.worker_shutdown_seconds:
            log.warning(
                "A stop does not wait for the longest jobs of this type: raise WORKER_SHUTDOWN_SECONDS",
                type=job_type.name,
                time_limit_seconds=job_type.time_limit_seconds,
            )


def warn_of_unknown_types(registry: Registry, settings: Settings) -> None:
    """Log the types in MAX_RUNNING that do not exist here. A worker of the next version may know them."""
    if unknown := registry.unknown(numbers_by_name(settings.max_running)):
        log.error("MAX_RUNNING names job types that this worker does not know", types=unknown, known=registry.names)


def build_broker(
    settings: Settings, registry: Registry, worker_id: UUID, attempts: RunningAttempts, outputs: OutputStore
) -> JobBroker:
    """Return the broker of a worker process. Nothing connects or starts before Dramatiq's worker boots."""
    database = open_database(settings, service="worker", has_reserve=True)
    broker = JobBroker.from_settings(settings)
    dead_letters = DeadLetterList(broker.client, broker.keys)
    liveness = Liveness.from_settings(settings)
    services = build_services(
        settings, registry, database, broker, dead_letters, outputs=outputs, worker_id=worker_id, liveness=liveness
    )
    for middleware in _middleware(
        settings,
        database,
        broker,
        dead_letters,
        attempts,
        worker_id=worker_id,
        services=services,
        liveness=liveness,
        version=code_version({job_type.function.__module__ for job_type in registry}),
    ):
        broker.add_middleware(middleware)
    return broker


def _middleware(
    settings: Settings,
    database: Database,
    broker: JobBroker,
    dead_letters: DeadLetterList,
    attempts: RunningAttempts,
    *,
    worker_id: UUID,
    services: Sequence[Service],
    liveness: Liveness,
    version: str,
) -> Iterator[Middleware]:
    """Yield the middleware in order: `before_*` hooks run down the list, `after_*` hooks up it."""
    lifecycle_sync = build_lifecycle_sync(
        database,
        broker,
        dead_letters,
        attempts,
        worker_id,
        claiming=open_database(settings, service="worker", connections=1, prepares=True),
        completing=open_database(settings, service="worker", connections=1, prepares=True),
        threads=settings.worker_threads,
        give_back_seconds=settings.give_back_seconds,
        deferral=Deferral.from_settings(settings),
    )
    attempt_metrics = AttemptMetrics(Objectives(settings))
    time_limit = StrictTimeLimit(time_limit=settings.time_limit_seconds * 1000)
    leadership = Leadership(database, worker_id, lease_seconds=min(LEADERSHIP_SECONDS, settings.lease_seconds))
    heartbeat = Heartbeat(
        database,
        worker_id,
        attempts,
        threads=settings.worker_threads,
        version=version,
        heartbeat_interval_seconds=settings.heartbeat_interval_seconds,
        liveness=liveness,
        clock=DatabaseClock(leads=lambda: leadership.is_held),
    )
    maintenance = Maintenance(services, leadership)
    sampler = Sampler(attempts, attempt_metrics)
    loops: dict[str, Loop] = {
        "maintenance": maintenance,
        "sampler": sampler,
        "time limits": time_limit,
        "settler": lifecycle_sync.completions,
    }
    watchdog = _watchdog(settings, broker, attempts, lifecycle_sync.release, heartbeat=heartbeat, loops=loops)
    # Has no hooks on messages. First, so that the process is known before the first claim and until the last verdict.
    yield WorkerServices(broker, heartbeat, maintenance, watchdog, sampler)
    # Around the rest, so that every log line of an attempt has its context.
    yield LogContext(worker_id)
    # Before the others, so its after-hook is the last: it counts down what it counted up, even for a skipped message.
    yield attempt_metrics
    # Before Retries, so its after-hook runs once Retries has decided whether and when there is another attempt.
    yield lifecycle_sync
    yield Retries()
    # Last: its clock starts just before the actor and stops before any other hook runs, so it interrupts no hook.
    yield time_limit


def _watchdog(
    settings: Settings,
    broker: JobBroker,
    attempts: RunningAttempts,
    release: Release,
    *,
    heartbeat: Heartbeat,
    loops: Mapping[str, Loop],
) -> Watchdog:
    return Watchdog(
        broker,
        attempts,
        release,
        heartbeat,
        loops,
        hang_grace_seconds=settings.hang_grace_seconds,
        standstill_seconds=2 * settings.lease_seconds + 10,
    )


def build_lifecycle_sync(
    database: Database,
    broker: JobBroker,
    dead_letters: DeadLetterList,
    attempts: RunningAttempts,
    worker_id: UUID,
    *,
    claiming: Database,
    completing: Database,
    threads: int,
    give_back_seconds: float,
    deferral: Deferral,
) -> LifecycleSync:
    """Return the middleware that claims and settles the attempts of a worker process.

    Consumers claim with a database of their own, and the thread of `Completions` completes with one.
    """
    wait = DatabaseWait(broker)
    claims = Claims(database, wait, broker, attempts, worker_id, claiming=claiming)
    settler = Settler(database, broker, dead_letters, wait, deferral=deferral)
    completions = Completions(completing, wait, attempts, settler, most=threads)
    release = Release(
        database, wait, attempts, claims, settler, worker_id=worker_id, give_back_seconds=give_back_seconds
    )
    return LifecycleSync(
        broker,
        attempts,
        claims,
        settler=settler,
        completions=completions,
        release=release,
        notes=NoteWriter(database),
    )
