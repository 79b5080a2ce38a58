"""The worker: `dramatiq jobs_service.worker:boot` runs this in each of its processes."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import dramatiq
from dramatiq.middleware import Middleware, Retries

from jobs_service import events, logs
from jobs_service.binding import declare
from jobs_service.broker import JobBroker, redis_client
from jobs_service.config import Settings
from jobs_service.database import Database, open_database
from jobs_service.dead_letters import DeadLetterList
from jobs_service.ids import new_id
from jobs_service.mailer import SmtpMailer
from jobs_service.maintenance.dead_letters import DeadLetters
from jobs_service.maintenance.leader import Maintenance
from jobs_service.maintenance.relay import Relay
from jobs_service.maintenance.rescuer import Rescuer
from jobs_service.maintenance.service import Service
from jobs_service.metrics import definitions
from jobs_service.middleware.attempt_metrics import AttemptMetrics
from jobs_service.middleware.lifecycle_sync import LifecycleSync
from jobs_service.middleware.time_limit import StrictTimeLimit
from jobs_service.middleware.worker_services import WorkerServices
from jobs_service.presence import Presence
from jobs_service.registry import load
from jobs_service.storage import LocalOutputs
from jobs_service.supervisor import end_with_parent
from jobs_service.watchdog import Watchdog

#: Seconds between two comparisons of `job_dlq` with the failed rows.
DEAD_LETTERS_SECONDS = 10.0


def boot() -> None:
    """Build this process's broker and make it Dramatiq's. The `dramatiq` command calls it."""
    # A worker process whose dramatiq command was killed must not stay behind as one too many.
    end_with_parent()
    settings = Settings.from_env(os.environ)
    logs.configure(form=settings.log_format, level=settings.log_level, service="worker")
    events.subscribe(logs.log_event)
    registry = load(settings.actor_modules)
    definitions.zero(registry)
    broker = build_broker(settings, new_id())
    declare(broker, registry, settings, LocalOutputs(Path(settings.output_dir)), SmtpMailer.from_settings(settings))
    dramatiq.set_broker(broker)


def build_broker(settings: Settings, worker_id: UUID) -> JobBroker:
    """Return the broker of a worker process. Nothing is connected or started before Dramatiq's worker boots."""
    database = open_database(settings)
    broker = JobBroker(client=redis_client(settings), middleware=[], window=settings.queue_window)
    dead_letters = DeadLetterList(broker.client)
    for middleware in _middleware(settings, database, broker, dead_letters, worker_id):
        broker.add_middleware(middleware)
    return broker


def _middleware(
    settings: Settings, database: Database, broker: JobBroker, dead_letters: DeadLetterList, worker_id: UUID
) -> Iterator[Middleware]:
    """Yield the middleware in order: `before_*` hooks run down the list, `after_*` hooks up it."""
    lifecycle_sync = LifecycleSync(database, broker, dead_letters, worker_id)
    # Has no hooks on messages. First, so that the process is known before the first claim and until the last verdict.
    yield WorkerServices(
        broker,
        Presence(database, worker_id, threads=settings.worker_threads, heartbeat_seconds=settings.heartbeat_seconds),
        Maintenance(
            database,
            list(_services(settings, database, broker, dead_letters)),
            # Of all the services the relay speaks most often.
            silence_seconds=settings.lease_seconds + settings.relay_seconds,
        ),
        Watchdog(lifecycle_sync),
    )
    # Before the others, so its after-hook is the last: what it counts up it counts down, whoever skips the message.
    yield AttemptMetrics()
    # Before Retries, so its after-hook runs once Retries has decided whether and when there is another attempt.
    yield lifecycle_sync
    yield Retries()
    # Last: its clock starts just before the actor and stops before any other hook runs, so it interrupts no hook.
    yield StrictTimeLimit(time_limit=settings.time_limit_seconds * 1000)


def _services(
    settings: Settings, database: Database, broker: JobBroker, dead_letters: DeadLetterList
) -> Iterator[Service]:
    yield Relay(
        database,
        broker,
        dead_letters,
        interval_seconds=settings.relay_seconds,
        republish_seconds=settings.republish_seconds,
    )
    yield Rescuer(
        database,
        dead_letters,
        interval_seconds=settings.sweep_seconds,
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
    )
    yield DeadLetters(database, dead_letters, interval_seconds=min(DEAD_LETTERS_SECONDS, settings.sweep_seconds * 2))
