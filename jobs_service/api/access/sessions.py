"""The sessions of the console: rows that name an API key, found by the token in a browser's cookie."""

import hmac
import secrets
import time
from collections import OrderedDict
from typing import NamedTuple

from jobs_service.api.access.keys import digest
from jobs_service.api.access.known_keys import KEPT_SECONDS, KnownKey
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable

COOKIE = "console_session"

#: How long somebody stays signed in.
VALID_SECONDS = 12 * 3_600

#: How long a session that was found is not looked for again: the requests of one page. Another process may end it.
FRESH_SECONDS = 2.0

#: The sessions that a process remembers.
MAX_REMEMBERED = 1_000

#: The sessions of one key. With one more the oldest ends.
MAX_OF_A_KEY = 100

_BEGIN = """
WITH expired AS (DELETE FROM console_sessions WHERE expires_at <= now()), superfluous AS (
  DELETE FROM console_sessions WHERE token_hash IN (
    SELECT token_hash FROM console_sessions WHERE key_prefix = %(prefix)s ORDER BY created_at DESC OFFSET %(others)s))
INSERT INTO console_sessions (token_hash, key_prefix, expires_at)
VALUES (%(hash)s, %(prefix)s, now() + make_interval(secs => %(seconds)s))
ON CONFLICT (token_hash) DO NOTHING"""

_FIND = "SELECT true FROM console_sessions WHERE token_hash = %s AND key_prefix = %s AND expires_at > now()"

_END = "DELETE FROM console_sessions WHERE token_hash = %s"


class _Found(NamedTuple):
    is_open: bool
    #: By the monotonic clock.
    at: float


class Sessions:
    """Begins, finds and ends sessions.

    A token is `prefix.random.seal`: the prefix of a key, and what the key's hash makes of both. So PostgreSQL is asked
    about no token that was never given.
    """

    def __init__(self, database: Database, threads: Threads) -> None:
        self._database = database
        self._threads = threads
        #: By the hash of the token; the one that was found last is the last one.
        self._found: OrderedDict[bytes, _Found] = OrderedDict()

    async def begin(self, key: KnownKey) -> str:
        """Begin a session with a key and return its token. Raises `DatabaseUnavailable`."""
        token = _sealed(key, f"{key.prefix}.{secrets.token_urlsafe(32)}")
        values = {
            "prefix": key.prefix,
            "hash": digest(token),
            "seconds": VALID_SECONDS,
            "others": MAX_OF_A_KEY - 1,
        }
        await self._threads.run(self._database.rows, _BEGIN, values)
        return token

    async def is_open(self, token: str, key: KnownKey) -> bool:
        """Tell whether there is a session of this key with this token. Raises `DatabaseUnavailable`.

        While PostgreSQL does not answer, a session is known for as long as its key.
        """
        if not hmac.compare_digest(digest(token), digest(_sealed(key, token.rpartition(".")[0]))):
            return False
        hash_ = digest(token)
        known = self._found.get(hash_)
        if known and time.monotonic() - known.at <= FRESH_SECONDS:
            return known.is_open
        try:
            row = await self._threads.run(self._database.row, _FIND, (hash_, key.prefix))
        except DatabaseUnavailable:
            if known and time.monotonic() - known.at <= KEPT_SECONDS:
                return known.is_open
            raise
        self._remember(hash_, _Found(row is not None, time.monotonic()))
        return row is not None

    async def end(self, token: str) -> None:
        """End a session. Raises `DatabaseUnavailable`."""
        self._found.pop(digest(token), None)
        await self._threads.run(self._database.rows, _END, (digest(token),))

    def _remember(self, hash_: bytes, found: _Found) -> None:
        self._found[hash_] = found
        self._found.move_to_end(hash_)
        while len(self._found) > MAX_REMEMBERED:
            self._found.popitem(last=False)


def _sealed(key: KnownKey, text: str) -> str:
    """Return the token that begins with this text."""
    seal = hmac.digest(key.secret_hash, text.encode("utf-8", "surrogatepass"), "sha256").hex()
    return f"{text}.{seal[:32]}"
