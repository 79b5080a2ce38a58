"""What the errors of psycopg2 and peewee mean. They stay in this folder: its callers get those of `errors.py`."""

import re
from typing import Any

import peewee
import psycopg2

from jobs_service.errors import (
    ConnectionLost,
    DatabaseUnavailable,
    NoAnswer,
    PostgresError,
    SchemaUnavailable,
    StatementRefused,
    ValueRefused,
)

#: Every error of the driver, and those that peewee raises in their place.
DRIVER_ERRORS = (psycopg2.Error, peewee.PeeweeException)

#: `InternalError` is here for "cannot execute in a read-only transaction": a connection left on a demoted primary.
_LOST = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    psycopg2.InternalError,
    peewee.OperationalError,
    peewee.InterfaceError,
    peewee.InternalError,
)

_QUERY_CANCELED = "57014"

#: Undefined table, undefined column, insufficient privilege, invalid schema name: an operator restores or migrates, or
#: code and schema do not fit.
_SCHEMA = frozenset({"42P01", "42703", "42501", "3F000"})

#: What PostgreSQL (53300) and PgBouncer say when all their connections are in use. libpq passes on no code here.
_FULL = re.compile(r"too many (clients|connections)|remaining connection slots|no more connections allowed")


class Silent(psycopg2.OperationalError):  # type: ignore[misc] # psycopg2 has no types
    """No answer came within the time that an answer may take."""


def of_statement(error: Exception) -> PostgresError:
    """Return the error of ours for what the driver raised of a statement."""
    original = _original(error)
    return _kind(error, original)(first_line(error), sqlstate=original.pgcode)


def of_connecting(error: Exception) -> DatabaseUnavailable:
    """Return the error of ours for what the driver raised when a connection was to be opened."""
    return DatabaseUnavailable(each_attempt(error), sqlstate=_original(error).pgcode)


def is_full(error: BaseException) -> bool:
    """Tell whether the server refused a connection because all that it grants are in use."""
    return isinstance(error, psycopg2.OperationalError) and bool(_FULL.search(str(error)))


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def each_attempt(error: Exception) -> str:
    """Return in one line how each attempt to connect failed: libpq tries every address of every host."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("\t")]
    return "; ".join(lines) or type(error).__name__


def _kind(error: Exception, original: Any) -> type[PostgresError]:  # noqa: ANN401 - psycopg2 has no types
    if isinstance(original, Silent):
        return NoAnswer
    if original.pgcode == _QUERY_CANCELED:
        return DatabaseUnavailable
    if original.pgcode in _SCHEMA:
        return SchemaUnavailable
    # The most general error, without a code, is "server closed the connection unexpectedly" before libpq noticed it.
    if isinstance(error, _LOST) or (type(original) is psycopg2.DatabaseError and original.pgcode is None):
        return ConnectionLost
    return ValueRefused if isinstance(original, psycopg2.DataError) else StatementRefused


def _original(error: Exception) -> Any:  # noqa: ANN401 - psycopg2 has no types
    """Return the driver's error that peewee raised another for. `pgcode` is None where PostgreSQL sent no code."""
    original = getattr(error, "orig", None) or error
    return original if isinstance(original, psycopg2.Error) else psycopg2.Error(str(error))
