"""The services of maintenance, put together from the settings."""

import socket
from collections.abc import Iterator
from uuid import UUID

from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.epoch import Epoch
from jobs_service.broker.neighbours import Neighbours
from jobs_service.broker.publisher import Publisher
from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings
from jobs_service.database.connection import Database
from jobs_service.dsn import parameters_of
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.lifecycle import Status
from jobs_service.maintenance.bulk_actions import BulkActions
from jobs_service.maintenance.canary import Canary
from jobs_service.maintenance.dead_letters import DeadLetters
from jobs_service.maintenance.event_pruner import EventPruner
from jobs_service.maintenance.expirer import Expirer
from jobs_service.maintenance.history import History
from jobs_service.maintenance.idempotency_keys import IdempotencyKeys
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.neighbours import NeighbourWatch
from jobs_service.maintenance.pruner import Pruner
from jobs_service.maintenance.recovery import Recovery
from jobs_service.maintenance.relay import Relay
from jobs_service.maintenance.rescuer import Rescuer
from jobs_service.maintenance.search_index import SearchIndex
from jobs_service.maintenance.service import Service
from jobs_service.maintenance.strays import Strays
from jobs_service.outputs.contract import OutputStore
from jobs_service.submission.submit import Submitter

#: Seconds between two looks for jobs on queues that no worker serves.
STRAYS_SECONDS = 30.0

#: Seconds between two looks for jobs that the text search has no words of.
SEARCH_INDEX_SECONDS = 10.0

#: Seconds between two looks for minutes whose figures are not written.
HISTORY_SECONDS = 15.0

#: Seconds between two comparisons of `job_dlq` with the failed rows.
DEAD_LETTERS_SECONDS = 10.0

#: Seconds between two looks for another installation with the same keys in Redis. The same in every installation.
NEIGHBOURS_SECONDS = 5.0


def build_services(
    settings: Settings,
    registry: Registry,
    database: Database,
    broker: JobBroker,
    dead_letters: DeadLetterList,
    *,
    outputs: OutputStore,
    worker_id: UUID,
    liveness: Liveness,
) -> list[Service]:
    """Return the services that the leader runs. `liveness` is that of the process's heartbeat."""
    return [
        *_services(settings, database, broker, dead_letters, outputs, liveness=liveness),
        *_canaries(settings, registry, database, broker),
        _neighbour_watch(settings, broker, worker_id),
    ]


def _services(
    settings: Settings,
    database: Database,
    broker: JobBroker,
    dead_letters: DeadLetterList,
    outputs: OutputStore,
    *,
    liveness: Liveness,
) -> Iterator[Service]:
    yield Relay(
        database,
        broker,
        Epoch(broker.client, broker.keys),
        interval_seconds=settings.relay_interval_seconds,
        republish_seconds=settings.republish_seconds,
    )
    yield Rescuer(
        database,
        dead_letters,
        interval_seconds=settings.sweep_interval_seconds,
        liveness=liveness,
        rowless=Liveness.from_settings(settings),
    )
    yield DeadLetters(
        database, dead_letters, interval_seconds=min(DEAD_LETTERS_SECONDS, settings.sweep_interval_seconds * 2)
    )
    yield Expirer(database, dead_letters, interval_seconds=settings.sweep_interval_seconds)
    yield Recovery(database, interval_seconds=settings.relay_interval_seconds)
    yield Strays(database, broker, dead_letters, interval_seconds=STRAYS_SECONDS, liveness=liveness)
    yield BulkActions(database, dead_letters, interval_seconds=settings.sweep_interval_seconds)
    yield Pruner(
        database,
        outputs,
        interval_seconds=settings.prune_interval_seconds,
        retention_seconds={
            Status.COMPLETED: settings.retention_completed_seconds,
            Status.FAILED: settings.retention_failed_seconds,
            Status.CANCELLED: settings.retention_cancelled_seconds,
        },
    )
    yield SearchIndex(database, interval_seconds=SEARCH_INDEX_SECONDS, is_on=settings.search == "on")
    yield History(database, interval_seconds=HISTORY_SECONDS)
    yield IdempotencyKeys(
        database, interval_seconds=settings.prune_interval_seconds, kept_seconds=settings.idempotency_key_seconds
    )
    yield EventPruner(
        database,
        interval_seconds=settings.prune_interval_seconds,
        retention_seconds=settings.events_retention_seconds,
    )


def _canaries(settings: Settings, registry: Registry, database: Database, broker: JobBroker) -> Iterator[Service]:
    if settings.canary_interval_seconds:
        yield Canary(
            database,
            Submitter(database, Publisher(broker), registry, settings),
            registry.canaries,
            interval_seconds=settings.canary_interval_seconds,
            api_url=settings.canary_url,
            api_key=settings.canary_key,
        )


def _neighbour_watch(settings: Settings, broker: JobBroker, worker_id: UUID) -> Service:
    # Only the database's name: the URL has a password, and this text goes to Redis.
    database = parameters_of(settings.database_url).get("dbname", "")
    me = f"{worker_id} on {socket.gethostname()}, database {database}"
    # Tests sweep more often.
    seconds = min(NEIGHBOURS_SECONDS, settings.sweep_interval_seconds)
    return NeighbourWatch(Neighbours(broker.client, broker.keys, me), interval_seconds=seconds)
