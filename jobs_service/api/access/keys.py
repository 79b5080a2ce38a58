"""API keys: how they are made, and the table that has their names, their scopes and the hashes of their secrets.

A key is `prefix.secret`. The prefix tells keys apart and may be seen; the secret is shown once and stored nowhere.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from jobs_service.api.callers import ANONYMOUS, Scope
from jobs_service.database.connection import Database
from jobs_service.errors import KeyNotChanged

#: The name is logged, and shown to other callers.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

#: Every API process reads all keys every few seconds.
MAX_KEYS = 2_000

# Sent again if its answer was lost: the prefix is then taken, by this very key.
_CREATE = """
INSERT INTO api_keys (prefix, secret_hash, name, scopes, expires_at, rate_limit)
SELECT %(prefix)s, %(hash)s, %(name)s, %(scopes)s, now() + %(seconds)s * interval '1 second', %(rate_limit)s
WHERE (SELECT count(*) FROM api_keys) < %(most)s
ON CONFLICT (prefix) DO NOTHING"""

_REVOKE = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, now()) WHERE prefix = %s RETURNING name"

_LIST = """
SELECT prefix, name, scopes, rate_limit, created_at, expires_at, last_used_at,
       CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'valid' END
FROM api_keys ORDER BY created_at, prefix"""

# Seconds instead of dates, so that the clocks of this machine and of PostgreSQL need not agree.
_READ = """
SELECT prefix, secret_hash, name, scopes, rate_limit,
       extract(epoch FROM expires_at - now())::float8, revoked_at IS NOT NULL,
       COALESCE(last_used_at < now() - interval '1 hour', true)
FROM api_keys"""

_USED = """
UPDATE api_keys SET last_used_at = now()
WHERE prefix = ANY(%s) AND COALESCE(last_used_at < now() - interval '1 hour', true)"""


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key as the command line lists it."""

    prefix: str
    name: str
    scopes: list[str]
    rate_limit: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    state: str


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as the API reads it."""

    prefix: str
    secret_hash: bytes
    name: str
    scopes: frozenset[Scope]
    rate_limit: int | None
    #: Seconds until it expires, by PostgreSQL's clock when it was read. None: never.
    remaining_seconds: float | None
    is_revoked: bool
    #: Whether its use was not written down lately.
    is_use_due: bool


def create(
    database: Database,
    name: str,
    scopes: Iterable[Scope],
    *,
    expires_seconds: float | None = None,
    rate_limit: int | None = None,
) -> str:
    """Write a key, and return it with its secret. Raises `KeyNotChanged`."""
    if not _NAME.fullmatch(name) or name == ANONYMOUS.name:
        raise KeyNotChanged(
            "a name has 1 to 64 letters, digits or characters of . _ @ - and begins with a letter or digit; "
            f"{ANONYMOUS.name!r} is taken"
        )
    prefix = "ajs_" + base64.b32encode(secrets.token_bytes(8)).decode().rstrip("=").lower()
    secret = secrets.token_urlsafe(32)
    values = {
        "prefix": prefix,
        "hash": digest(secret),
        "name": name,
        "scopes": [*map(str, scopes)],
        "seconds": expires_seconds,
        "rate_limit": rate_limit,
        "most": MAX_KEYS,
    }
    database.rows(_CREATE, values)
    if database.row("SELECT FROM api_keys WHERE prefix = %s", (prefix,)) is None:
        raise KeyNotChanged(f"there are {MAX_KEYS} keys already: delete rows of api_keys that were revoked")
    return f"{prefix}.{secret}"


def listing(database: Database) -> list[ListedKey]:
    """Return all keys, oldest first."""
    return [ListedKey(*row) for row in database.rows(_LIST)]


def revoke(database: Database, prefix: str) -> str:
    """Revoke a key and return its name. Raises `KeyNotChanged` if there is no such key."""
    found = database.row(_REVOKE, (prefix,))
    if found is None:
        raise KeyNotChanged("there is no key with this prefix; `keys list` shows those that there are")
    return str(found[0])


def stored(database: Database) -> list[StoredKey]:
    """Return all keys, revoked and expired ones too. Scopes that this version does not know are left out."""
    known = frozenset(map(str, Scope))
    return [
        StoredKey(prefix, bytes(hash_), name, frozenset(Scope(scope) for scope in known.intersection(scopes)), *rest)
        for prefix, hash_, name, scopes, *rest in database.rows(_READ)
    ]


def are_there(database: Database) -> bool:
    """Tell whether there is any key. A revoked one counts: it means that the API is not open."""
    return database.row("SELECT FROM api_keys LIMIT 1") is not None


def write_uses(database: Database, prefixes: Iterable[str]) -> None:
    """Write down that these keys are in use now, where that was not written lately."""
    database.rows(_USED, (sorted(prefixes),))


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
