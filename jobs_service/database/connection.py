"""PostgreSQL through peewee: kept connections that threads share, replaced when the server has dropped them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import peewee
import psycopg2
import psycopg2.extras

from jobs_service.config import Settings
from jobs_service.database import budget
from jobs_service.database.pool import Pool, is_full
from jobs_service.database.sessions import Connection, Sessions, Silent
from jobs_service.errors import DatabaseUnavailable, NotThisProcess, SchemaUnavailable

Row = tuple[Any, ...]

#: After a failure further threads get the same answer at once for this long, instead of queueing up to try.
REFUSE_SECONDS = 0.5

#: `InternalError` is here for "cannot execute in a read-only transaction": a connection left on a demoted primary.
_LOST = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    psycopg2.InternalError,
    # What peewee makes of the same three.
    peewee.OperationalError,
    peewee.InterfaceError,
    peewee.InternalError,
)

_QUERY_CANCELED = "57014"

#: A table or column is not there, or not open to us: somebody restores or migrates, or code and schema do not fit.
#: Undefined table, undefined column, insufficient privilege, invalid schema name.
_NOT_THERE = frozenset({"42P01", "42703", "42501", "3F000"})

T = TypeVar("T")


class Database(peewee.PostgresqlDatabase):
    """peewee's database, plus `rows`: fixed SQL on the same connections, for statements every job needs.

    Threads share a few connections: each has one for a statement, or for a transaction that it began. Statements must
    be safe to run twice: when a kept connection turns out to be dead, nobody knows whether the server had carried out
    the statement, and it is sent once more on another one.
    """

    def __init__(
        self,
        sessions: Sessions,
        url: str,
        *,
        connect_seconds: int,
        answer_seconds: float,
        connections: int,
        has_reserve: bool = False,
        idle_seconds: float = 60.0,
        share: Callable[[int], int | None] | None = None,
    ) -> None:
        """A statement without an answer after `answer_seconds` counts as lost.

        `connections` are shared by all threads. With `has_reserve` there is one more, for statements that ask for it.
        `share` is given how many the server grants to all, and returns how many this process may have, None if enough.
        """
        super().__init__(url)
        self.sessions = sessions
        self._share = share
        self._pool = Pool(
            self._opened,
            size=connections,
            has_reserve=has_reserve,
            idle_seconds=idle_seconds,
            wait_seconds=answer_seconds,
        )
        #: The process that connects: a copy of it by fork has the same sockets, and must leave them alone.
        self._pid: int | None = None
        # peewee holds this lock while it connects, so one unanswered connect would hold up every thread. Its
        # state is per thread; the server version, the only thing shared, is the same whoever writes it.
        self._lock = _NoLock()
        self._connecting = ServerBackoff(connect_seconds)
        self._answering = ServerBackoff(answer_seconds)

    def rows(
        self, sql: str, parameters: Sequence[object] | Mapping[str, object] = (), *, reserved: bool = False
    ) -> list[Row]:
        """Run one statement in its own transaction and return its rows, or [] for a statement that has none.

        A `reserved` one need not wait until others have their answers. Raises `DatabaseUnavailable` when the server
        cannot be reached or gives up on the statement, its `SchemaUnavailable` where the tables are not there, and
        `NotThisProcess` in a forked copy of this process.
        """
        return self._recovering(lambda: self._run(sql, parameters), reserved=reserved)

    def row(
        self, sql: str, parameters: Sequence[object] | Mapping[str, object] = (), *, reserved: bool = False
    ) -> Row | None:
        """Return the first row, or None. Otherwise like `rows`."""
        found = self.rows(sql, parameters, reserved=reserved)
        return found[0] if found else None

    def discard(self) -> None:
        """Close the connections that nobody uses, and this thread's. The next statement opens another."""
        self._drop()
        if not self._is_copied:
            self._pool.clear()

    def execute_sql(self, sql: str, params: Sequence[object] | None = None) -> Any:  # noqa: ANN401
        """Peewee's queries pass through here; they recover like `rows`, unless they are part of a transaction."""
        return self._recovering(lambda: _Answer(super(Database, self).execute_sql(sql, params)))

    @property
    def _is_copied(self) -> bool:
        """Whether this is a copy by fork of the process that has the connections."""
        return self._pid is not None and self._pid != os.getpid()

    def _recovering(self, statement: Callable[[], T], *, reserved: bool = False) -> T:
        if self._is_copied:
            raise NotThisProcess("a forked process cannot use the database connections of its parent")
        if not self.is_closed():  # in a transaction that this thread began
            return self._asked_once(statement)
        if reason := self._answering.known_reason():
            raise DatabaseUnavailable(reason)
        try:
            answer = self._asked_twice(statement, reserved=reserved)
        except BaseException:
            self._answering.may_be_asked_soon()
            raise
        self._answering.is_back()
        return answer

    def _asked_twice(self, statement: Callable[[], T], *, reserved: bool) -> T:
        if not self._take(reserved=reserved).is_kept:
            return self._asked_once(statement)
        try:
            return self._asked(statement)
        except _LOST:
            # The others are from before as well.
            self._pool.clear()
        self._take(reserved=reserved)
        return self._asked_once(statement)

    def _asked_once(self, statement: Callable[[], T]) -> T:
        try:
            return self._asked(statement)
        except _LOST as error:
            raise DatabaseUnavailable(_first_line(error)) from error

    def _asked(self, statement: Callable[[], T]) -> T:
        """Send the statement. Raises `DatabaseUnavailable` where a second time would not help, else the error."""
        try:
            answer = statement()
        except (psycopg2.Error, peewee.PeeweeException) as error:
            self._judge(error)
            raise
        except BaseException:
            self._drop()
            raise
        self._give_back()
        return answer

    def _judge(self, error: Exception) -> None:
        """Find out what an error means: for the connection, and for whoever asked. Raises what it is to be called."""
        driven = _driven(error)
        if isinstance(driven, Silent):
            # Neither would others be answered, nor this one on a new connection: none of them is to wait for it.
            self._drop()
            self._answering.is_away(_first_line(error))
            raise DatabaseUnavailable(_first_line(error)) from error
        if type(driven) is psycopg2.DatabaseError and driven.pgcode is None:
            # What psycopg calls "server closed the connection unexpectedly" where libpq has not noticed it yet.
            self._drop()
            raise psycopg2.OperationalError(_first_line(error)) from error
        if driven.pgcode == _QUERY_CANCELED:
            # Too slow, but the connection is well. Once more would only double the load of a slow server.
            self._give_back(or_drop=True)
            raise DatabaseUnavailable(_first_line(error)) from error
        if driven.pgcode in _NOT_THERE:
            self._give_back(or_drop=True)
            raise SchemaUnavailable(_first_line(error)) from error
        if isinstance(error, _LOST):
            self._drop()
        else:
            self._give_back(or_drop=True)

    def _run(self, sql: str, parameters: Sequence[object] | Mapping[str, object]) -> list[Row]:
        with self.connection().cursor() as cursor:
            cursor.execute(sql, parameters)
            # `()` where rows have no column, as those of `SELECT FROM jobs`.
            return [] if cursor.description is None else cursor.fetchall()

    def _take(self, *, reserved: bool = False) -> Connection:
        """Have a connection for this thread. Raises `DatabaseUnavailable`."""
        try:
            connection = self._pool.take(reserved=reserved)
        except _LOST as error:
            raise DatabaseUnavailable(said(error)) from error
        self._state.set_connection(connection)  # type: ignore[attr-defined] # the stubs leave out what subclasses use
        # Only now: it may have waited for the connection while the server fell silent.
        if reason := self._answering.reason_to_refuse():
            self._give_back()
            raise DatabaseUnavailable(reason)
        return connection

    def _connect(self) -> Connection:
        """Peewee calls this where a transaction begins."""
        return self._pool.take()

    def _give_back(self, *, or_drop: bool = False) -> None:
        """Let others have this thread's connection, unless a transaction is open on it: that is kept, or dropped."""
        connection = self.connection()
        if connection.is_idle:
            self._state.reset()  # type: ignore[attr-defined] # as above
            self._pool.give_back(connection)
        elif or_drop and not self.in_transaction():
            self._drop()

    def _opened(self) -> Connection:
        """Return a new connection. Raises `psycopg2.OperationalError` or `DatabaseUnsuitable`."""
        if reason := self._connecting.reason_to_refuse():
            raise psycopg2.OperationalError(reason)
        self._pid = os.getpid()
        try:
            connection = self._measured(self.sessions.open())
        except psycopg2.OperationalError as error:
            if is_full(error):
                self._connecting.may_be_asked_soon()
            else:
                self._connecting.is_away(said(error))
            raise
        except BaseException:
            self._connecting.may_be_asked_soon()
            raise
        self._connecting.is_back()
        psycopg2.extras.register_uuid(conn_or_curs=connection)
        # JSON is passed on as the text PostgreSQL sends: whoever needs it decoded knows into what.
        psycopg2.extras.register_default_jsonb(connection, loads=str)
        return connection

    def _measured(self, connection: Connection) -> Connection:
        """Once, look how many connections there are, and keep to a share. A pooler sees to its own."""
        # Several threads may do so at once, with the same answer.
        share = self._share
        if share is not None and not self.sessions.is_pooled:
            (most,) = connection.answer(budget.GRANTED)
            if (size := share(most)) is not None:
                self._pool.shrink(size)
        self._share = None
        return connection

    def _drop(self) -> None:
        try:
            # Closing a forked copy would say good-bye to the server in the name of the parent.
            if not self.is_closed() and not self._is_copied:
                self.connection().close()
        except psycopg2.Error:
            pass  # it was broken: that is why it goes
        finally:
            self._state.reset()  # type: ignore[attr-defined] # as above
            if not self._is_copied:
                self._pool.release()


class ServerBackoff:
    """What is known of a server that does not answer. One thread asks it again, for all; the others do not wait."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._reason = ""
        self._until = 0.0

    def reason_to_refuse(self) -> str:
        """Return why not to ask now, or nothing: then the caller asks, and says how it went."""
        if (reason := self.known_reason()) or not self._reason:
            return reason
        self._until = time.monotonic() + self._patience_seconds
        return ""

    def known_reason(self) -> str:
        """Return why nobody is to ask now, if that is so."""
        return self._reason if time.monotonic() < self._until else ""

    def is_away(self, reason: str) -> None:
        self._until = time.monotonic() + REFUSE_SECONDS
        self._reason = reason

    def may_be_asked_soon(self) -> None:
        self._until = min(self._until, time.monotonic() + REFUSE_SECONDS)

    def is_back(self) -> None:
        self._reason = ""


class _Answer:
    """What peewee reads of a cursor, without the connection: others have that meanwhile."""

    def __init__(self, cursor: Any) -> None:  # noqa: ANN401 - psycopg2 has no types
        self.description, self.rowcount = cursor.description, cursor.rowcount
        self._rows: Iterator[Row] = iter(cursor.fetchall() if cursor.description else ())
        cursor.close()

    def fetchone(self) -> Row | None:
        return next(self._rows, None)

    def fetchall(self) -> list[Row]:
        return list(self._rows)

    def close(self) -> None:
        self._rows = iter(())


class _NoLock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def open_database(
    settings: Settings, *, service: str = "command", connections: int | None = None, has_reserve: bool = False
) -> Database:
    """Return the database of these settings. Connects at the first statement, not now.

    Its threads share so many `connections`; where none are named, DATABASE_CONNECTIONS, or as many of them as are this
    process's share of what the server grants.
    """
    seconds = settings.database_statement_timeout_seconds
    return Database(
        Sessions(
            settings.database_url,
            name=f"async-job-system {service}",
            settings={"statement_timeout": f"{seconds}s"},
            answer_seconds=seconds + 1,
            connect_timeout=settings.database_connect_timeout_seconds,
            tcp_user_timeout=(seconds + 5) * 1000,
        ),
        settings.database_url,
        connect_seconds=settings.database_connect_timeout_seconds,
        # PostgreSQL is to end a slow statement itself, which keeps the connection; this is for when it cannot.
        answer_seconds=seconds + 1,
        connections=connections or settings.database_connections,
        has_reserve=has_reserve,
        idle_seconds=settings.database_idle_seconds,
        share=None if connections else partial(budget.share, settings),
    )


def _driven(error: Exception) -> Any:  # noqa: ANN401 - psycopg2 has no types
    """Return the driver's error of which peewee made another. Its `pgcode` is None where PostgreSQL said nothing."""
    driven = getattr(error, "orig", None) or error
    return driven if isinstance(driven, psycopg2.Error) else psycopg2.Error(str(error))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def said(error: Exception) -> str:
    """Return in one line what came of each attempt to connect: of a host with several addresses, of several hosts."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("\t")]
    return "; ".join(lines) or type(error).__name__
