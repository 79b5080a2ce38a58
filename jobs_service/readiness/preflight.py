"""Checks the servers before a process starts. What may pass is logged, what will not pass is refused."""

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import redis
from structlog.stdlib import get_logger

from jobs_service.broker.redis import redis_client
from jobs_service.config import Settings
from jobs_service.database import budget, migrations
from jobs_service.database.connection import Database, open_database
from jobs_service.errors import (
    BrokerUnavailable,
    BrokerUnsuitable,
    DatabaseUnavailable,
    DatabaseUnsuitable,
    MigrationError,
    NotReady,
    SettingsError,
    Unavailable,
)
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle
from jobs_service.outputs.assembly import open_outputs
from jobs_service.readiness import advice

log = get_logger(module=__name__)

#: The oldest Redis that has BZMPOP. Every Valkey has it, and gives 7.2.4 as its version of Redis.
REDIS_NEEDED = (7, 0)

#: How long the start of a process waits for the store of files. It goes on without it.
OUTPUT_SECONDS = 3.0


def begin(settings: Settings) -> None:
    """Check the servers before an API or a worker starts, and log what is wrong or down.

    Raises `NotReady` or `SettingsError` where waiting would not help.
    """
    find_actor_modules(settings)
    database, client = open_database(settings, connections=1), redis_client(settings)
    try:
        for sentence in (*_of_postgresql(settings, database), *_of_redis(client), *_of_outputs(settings)):
            log.warning(sentence)
    except (DatabaseUnsuitable, BrokerUnsuitable) as error:
        raise NotReady(str(error)) from error
    finally:
        database.discard()
        client.close()


def check(settings: Settings) -> list[str]:
    """Return warnings. Raises `NotReady`, or another of our errors, where the service could not work."""
    find_actor_modules(settings)
    database, client = open_database(settings, connections=1), redis_client(settings)
    try:
        warnings = list(_of_budget(settings, database))
        if missing := migrations.pending(database):
            raise NotReady(_not_migrated(missing))
        lifecycle.try_submit(database)
        look_at_redis(client)
        _try_outputs(settings)
    finally:
        database.discard()
        client.close()
    return warnings


def find_actor_modules(settings: Settings) -> None:
    """Raises `SettingsError` for a module of ACTOR_MODULES that Python does not find."""
    for name in filter(None, (name.strip() for name in settings.actor_modules.split(","))):
        try:
            is_there = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            is_there = False
        if not is_there:
            raise SettingsError([f"ACTOR_MODULES is wrong: there is no module {name!r} on Python's path"])


def look_at_redis(client: redis.Redis) -> None:
    """Raises `BrokerUnavailable` where Redis does not answer, its `BrokerUnsuitable` for one that is too old."""
    try:
        version = _version(client)
    except redis.RedisError as error:
        raise BrokerUnavailable(advice.on_redis(error)) from error
    if version is not None and tuple(map(int, re.findall(r"\d+", version)[:2])) < REDIS_NEEDED:
        needed = ".".join(map(str, REDIS_NEEDED))
        raise BrokerUnsuitable(f"Redis {version} is too old: {needed} or newer is needed, or Valkey; upgrade it")


def _version(client: redis.Redis) -> str | None:
    """Return the version of Redis, None where the user has no permission to ask. Raises `redis.RedisError`."""
    try:
        # The stubs know the reply of a pipeline only.
        info: Any = client.info("server")
    except redis.exceptions.NoPermissionError:
        client.ping()
        return None
    return str(info["redis_version"])


def _of_postgresql(settings: Settings, database: Database) -> Iterator[str]:
    try:
        yield from _of_budget(settings, database)
        if missing := migrations.pending(database):
            yield _not_migrated(missing)
    except DatabaseUnsuitable:
        raise
    except DatabaseUnavailable as error:
        yield f"{advice.on_postgresql(error)}; waiting for it"
    except MigrationError as error:
        yield str(error)


def _of_budget(settings: Settings, database: Database) -> Iterator[str]:
    (granted,) = database.row(budget.GRANTED) or (0,)
    if not database.sessions.is_pooled and (sentence := budget.warning(settings, granted)):
        yield sentence


def _of_redis(client: redis.Redis) -> Iterator[str]:
    try:
        look_at_redis(client)
    except BrokerUnsuitable:
        raise
    except BrokerUnavailable as error:
        yield f"{error}; waiting for it"


def _of_outputs(settings: Settings) -> Iterator[str]:
    try:
        open_outputs(settings, timeout_seconds=OUTPUT_SECONDS).check()
    except Unavailable as error:
        yield f"{error}; waiting for it"


def _try_outputs(settings: Settings) -> None:
    """Raises `NotReady` where files cannot be read or, in a store elsewhere, not be written and deleted."""
    outputs = open_outputs(settings)
    try:
        outputs.check()
        if settings.output_url:  # a folder is the workers' own, and need not be writable here
            name = f"check-{new_id()}"
            outputs.write(name, b"")
            outputs.remove([name])
    except Unavailable as error:
        raise NotReady(str(error)) from error


def _not_migrated(missing: list[str]) -> str:
    return f"not migrated: {', '.join(missing)}; run: python -m jobs_service migrate"
