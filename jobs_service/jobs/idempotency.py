"""Idempotency keys: a request that is sent again gets the first answer, and what it creates is created once.

The key is written in the transaction that creates something, with the answer (table `idempotency_keys`). Until that
commits, the transaction holds an advisory lock, by which others learn that the request is in flight; PostgreSQL frees
it whatever becomes of the process.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from jobs_service.database.connection import Database
from jobs_service.errors import IdempotencyConflict, IdempotencyKeyInFlight, IdempotencyKeyReused

#: Caller, path and text of a key, which together are unique.
Name = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and the request that it came with."""

    caller: str
    path: str
    text: str
    #: SHA-256 of the request. Another request must not have the same key.
    fingerprint: bytes

    @property
    def name(self) -> Name:
        return self.caller, self.path, self.text

    @property
    def lock_id(self) -> int:
        """The number of the advisory lock. Two keys have the same one less often than hardware fails."""
        digest = hashlib.sha256("\0".join(self.name).encode()).digest()
        return int.from_bytes(digest[:8], signed=True)


class KeptAnswer(NamedTuple):
    """An answer as it is sent."""

    status: int
    location: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Once:
    """What a request writes that is to be carried out once. `token` is its own."""

    key: Key
    token: UUID
    answer: KeptAnswer


@dataclass(frozen=True, slots=True)
class Stored:
    """The row of a key."""

    token: UUID
    fingerprint: bytes
    answer: KeptAnswer

    def replay(self, key: Key) -> KeptAnswer | IdempotencyConflict:
        """Return the answer to a request with this key, or the error if it is another request than the first."""
        if self.fingerprint != key.fingerprint:
            return IdempotencyKeyReused("this Idempotency-Key was sent before with another request")
        return self.answer


_FIND = """
SELECT caller, path, key, token, fingerprint, status, location, body
FROM unnest(%(callers)s::text[], %(paths)s::text[], %(keys)s::text[]) AS asked (caller, path, key)
JOIN idempotency_keys USING (caller, path, key)"""

_INSERT = """
INSERT INTO idempotency_keys (caller, path, key, fingerprint, token, status, location, body)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (caller, path, key) DO NOTHING"""


def find(database: Database, keys: Sequence[Key]) -> dict[Name, Stored]:
    """Return the rows that there are."""
    names = {
        "callers": [key.caller for key in keys],
        "paths": [key.path for key in keys],
        "keys": [key.text for key in keys],
    }
    return {
        (caller, path, text): Stored(token, bytes(fingerprint), KeptAnswer(status, location, bytes(body)))
        for caller, path, text, token, fingerprint, status, location, body in database.rows(_FIND, names)
    }


def begin(database: Database, key: Key, token: UUID) -> KeptAnswer | IdempotencyConflict | None:
    """Begin to carry out a request, as the first statements of the transaction that writes what it creates.

    Return None if it is to be carried out, else its answer, or why not. A request whose reply was lost, and which is
    sent again with the same `token`, is carried out again: what it writes must be the same.
    """
    (is_free,) = database.row("SELECT pg_try_advisory_xact_lock(%s)", (key.lock_id,)) or (False,)
    if not is_free:
        return IdempotencyKeyInFlight("a request with this Idempotency-Key is in flight")
    # A statement of its own, so that it sees what the previous owner of the lock has committed.
    stored = find(database, [key]).get(key.name)
    return stored.replay(key) if stored and stored.token != token else None


def finish(database: Database, once: Once) -> None:
    """Write the key with its answer, as the last statement of the transaction."""
    key, answer = once.key, once.answer
    database.rows(_INSERT, (*key.name, key.fingerprint, once.token, answer.status, answer.location, answer.body))
