"""What an operator reads when a server cannot be used: one line with what is wrong and what to do."""

import re

import redis

from jobs_service.errors import DatabaseUnsuitable, PostgresError, StatementRefused

_NO_ANSWER = "PostgreSQL does not answer: see that it runs, and that DATABASE_URL leads to it"

_REFUSED = (
    "PostgreSQL refuses a statement of this version: see that the database is migrated and its tables unchanged; "
    "python -m jobs_service check prints the reason"
)

#: By SQLSTATE, which no language changes.
_BY_CODE = {
    "25006": "PostgreSQL is read-only, as a standby is: point DATABASE_URL at the primary",
    "53100": "PostgreSQL's disk is full: make room on it",
    "42501": (
        "the role of DATABASE_URL lacks a privilege: grant it SELECT, INSERT, UPDATE and DELETE on all tables of the "
        "schema, and USAGE on the schema"
    ),
    "42P01": "a table is missing: run python -m jobs_service migrate",
    "42703": "a column is missing: run python -m jobs_service migrate",
    "3F000": "the schema of search_path does not exist: create it with CREATE SCHEMA, or correct DATABASE_URL",
    "57014": "a table is locked, or PostgreSQL is too slow: look in pg_stat_activity for the session that holds a lock",
    "55P03": "a table is locked: look in pg_stat_activity for the session that holds the lock",
}

#: By the message of PostgreSQL or libpq where a connection is refused, as libpq passes on no code then. A message in
#: another language than English counts as "does not answer".
_BY_TEXT = (
    (
        r"(password|Peer) authentication failed|no password supplied|not permitted to log in|role .* does not exist",
        "PostgreSQL refuses the user or the password of DATABASE_URL: correct them",
    ),
    (
        r"no pg_hba.conf entry|pg_hba.conf rejects",
        "PostgreSQL does not let this host, user or database in: add a line to its pg_hba.conf",
    ),
    (
        r"database \".*\" does not exist",
        "the database of DATABASE_URL does not exist: create it with CREATE DATABASE, or correct DATABASE_URL",
    ),
    (
        r"permission denied for database",
        "the role of DATABASE_URL may not connect to the database: GRANT CONNECT ON DATABASE",
    ),
    (
        r"could not translate host name",
        "the host of DATABASE_URL has no address: correct it, or see that its name can be resolved here",
    ),
    (
        r"too many (clients|connections)|remaining connection slots|no more connections allowed",
        "PostgreSQL has no connection left: lower DATABASE_CONNECTIONS, or raise max_connections or the role's limit",
    ),
    (r"database system is (starting up|shutting down|in recovery mode)", "PostgreSQL is starting or stopping: wait"),
    (
        r"\bSSL\b|certificate",
        "PostgreSQL and DATABASE_URL do not agree about TLS: correct sslmode and the certificates",
    ),
)


def on_postgresql(error: PostgresError) -> str:
    """Return what is wrong with PostgreSQL, and what to do. Its own messages may quote values; this does not."""
    if error.sqlstate in _BY_CODE:
        return _BY_CODE[error.sqlstate]
    if isinstance(error, DatabaseUnsuitable):
        return str(error)
    if isinstance(error, StatementRefused):
        return _REFUSED
    return _NO_ANSWER if error.sqlstate else _by_text(str(error))


def _by_text(message: str) -> str:
    return next((advice for pattern, advice in _BY_TEXT if re.search(pattern, message)), _NO_ANSWER)


def on_redis(error: redis.RedisError) -> str:
    """Return what is wrong with Redis, and what to do."""
    if isinstance(error, redis.AuthenticationError):
        return "Redis refuses the user or the password of REDIS_URL: correct them"
    return "Redis does not answer: see that it runs, and that REDIS_URL leads to it"
