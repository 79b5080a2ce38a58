"""The API keys that a process knows: all of them, read again every few seconds, so that no request asks PostgreSQL."""

import asyncio
import hmac
import math
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from structlog.stdlib import get_logger

from jobs_service.api.access import keys
from jobs_service.api.access.rate_limits import tag_of
from jobs_service.api.background import Refresher
from jobs_service.api.callers import Caller
from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable, PostgresError

log = get_logger(module=__name__)

#: Seconds between two reads. A new or revoked key is known after these and the time that the read takes.
READ_SECONDS = 2.0

#: Keys that were read longer ago are read again before a request is answered: this process did not run for a while.
FRESH_SECONDS = 4.0

#: How long a request waits for that. A PostgreSQL whose connections are all busy must not hold up new jobs.
WAIT_SECONDS = 1.0

#: How long known keys are still accepted while PostgreSQL does not answer.
KEPT_SECONDS = 60.0

#: A longer text is no key.
MAX_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key as requests are compared with it."""

    prefix: str
    secret_hash: bytes
    caller: Caller
    #: Requests per second. None: RATE_LIMIT_PER_SECOND.
    rate_limit: int | None
    #: By which its requests are counted.
    tag: bytes
    #: By the monotonic clock.
    expires_at: float
    is_revoked: bool
    is_use_due: bool


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys at a moment."""

    keys: Mapping[str, KnownKey]
    #: By the monotonic clock: when the read began.
    read_at: float

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.read_at

    def find(self, text: str) -> KnownKey | None:
        """Return the key that a client sent, which may be revoked or expired; None if there is no such key."""
        if len(text) > MAX_CHARACTERS:
            return None
        prefix, _, secret = text.partition(".")
        key = self.keys.get(prefix, _NO_KEY)
        # In the same time for all secrets, and for prefixes that do not exist: then with a hash that no secret has.
        is_right = hmac.compare_digest(keys.digest(secret), key.secret_hash)
        return key if is_right and key is not _NO_KEY else None


_NO_KEY = KnownKey("", secrets.token_bytes(32), Caller("", frozenset()), None, b"", -math.inf, True, False)


class KnownKeys:
    """The keys of this process. A request takes `current`; a thread calls `refresh`."""

    def __init__(self, database: Database) -> None:
        self.refresher = Refresher(self.refresh, interval_seconds=READ_SECONDS)
        self._database = database
        self._keyring = Keyring({}, -math.inf)
        #: Why the last read failed.
        self._failure: DatabaseUnavailable | None = None
        #: Prefixes of keys whose use is to be written down.
        self._used: set[str] = set()

    @property
    def fresh(self) -> Keyring | None:
        """The keys, if they were read a moment ago."""
        return self._keyring if self._keyring.age_seconds <= FRESH_SECONDS else None

    @property
    def last(self) -> Keyring:
        """The keys as they were read last, however long ago."""
        return self._keyring

    async def current(self) -> Keyring:
        """Return the keys. Raises `DatabaseUnavailable` where they are unknown, or were read too long ago."""
        age = self._keyring.age_seconds
        if age > KEPT_SECONDS:
            await self._read_again()
        elif self._failure is None:
            await self._read_again_soon()
        if self._keyring.age_seconds > KEPT_SECONDS:
            raise self.failure
        return self._keyring

    @property
    def failure(self) -> DatabaseUnavailable:
        """Why the keys were not read lately."""
        known = self._failure
        return type(known)(str(known)) if known else DatabaseUnavailable("the API keys were not read lately")

    def note_use(self, key: KnownKey) -> None:
        """Have it written down, with the next read, that the key is in use. Once an hour for each key."""
        if key.is_use_due:
            self._used.add(key.prefix)

    def refresh(self) -> None:
        """Read all keys again. Blocks."""
        began_at = time.monotonic()
        try:
            self._keyring = Keyring(_by_prefix(keys.stored(self._database), began_at), began_at)
            if self._used:
                used, self._used = self._used, set()
                keys.write_uses(self._database, used)
        except PostgresError as error:
            if self._failure is None:
                log.warning("API keys not read; those known are accepted for a while", seconds=KEPT_SECONDS)
            self._failure = error if isinstance(error, DatabaseUnavailable) else DatabaseUnavailable(str(error))
        else:
            self._failure = None

    async def _read_again_soon(self) -> None:
        """Wait for the keys for a moment. If they do not come, no other request waits until they do."""
        try:
            await asyncio.wait_for(self._read_again(), WAIT_SECONDS)
        except TimeoutError:
            self._failure = DatabaseUnavailable("PostgreSQL takes long to return the API keys")

    async def _read_again(self) -> None:
        if reason := self._database.refusal():
            self._failure = self._failure or DatabaseUnavailable(reason)
        else:
            await self.refresher.finished()


def _by_prefix(stored: Iterable[keys.StoredKey], read_at: float) -> Mapping[str, KnownKey]:
    return {key.prefix: _known(key, read_at) for key in stored}


def _known(key: keys.StoredKey, read_at: float) -> KnownKey:
    remaining = math.inf if key.remaining_seconds is None else key.remaining_seconds
    return KnownKey(
        key.prefix,
        key.secret_hash,
        Caller(key.name, key.scopes),
        key.rate_limit,
        tag_of(key.prefix),
        # From before the read: rather too early than too late.
        read_at + remaining,
        key.is_revoked,
        key.is_use_due,
    )
