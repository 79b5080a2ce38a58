"""PostgreSQL through peewee: one kept connection a thread, replaced when the server has dropped it."""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import peewee
import psycopg2
import psycopg2.extensions
import psycopg2.extras

from jobs_service.config import Settings
from jobs_service.deadlines import Line, deadlines
from jobs_service.errors import DatabaseUnavailable, NotThisProcess, SchemaUnavailable
from jobs_service.logs import get_logger

log = get_logger(__name__)

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
    """peewee's database, plus `rows`: fixed SQL on the same connection, for statements every job needs.

    Statements given to `rows` must be safe to run twice: when a kept connection turns out to be dead, nobody knows
    whether the server had carried out the statement, and it is sent once more on a new one.
    """

    def __init__(
        self,
        url: str,
        *,
        service: str,
        connect_seconds: int,
        answer_seconds: float,
        **options: Any,  # noqa: ANN401 - what libpq takes
    ) -> None:
        """A statement without an answer after `answer_seconds` counts as lost.

        `service` is what `pg_stat_activity` calls this process; each connection adds the role of its thread.
        """
        super().__init__(
            url, connection_factory=_Connection, cursor_factory=_Cursor, connect_timeout=connect_seconds, **options
        )
        self._service = service
        self._answer_seconds = answer_seconds
        #: The process that connects: a copy of it by fork has the same sockets, and must leave them alone.
        self._pid: int | None = None
        # peewee holds this lock while it connects, so one unanswered connect would hold up every thread. Its
        # state is per thread; the server version, the only thing shared, is the same whoever writes it.
        self._lock = _NoLock()
        self._connecting = _Away(connect_seconds)
        self._answering = _Away(answer_seconds)

    def rows(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """Run one statement in its own transaction and return its rows, or [] for a statement that has none.

        Raises `DatabaseUnavailable` when the server cannot be reached or gives up on the statement, its
        `SchemaUnavailable` where the tables are not there, and `NotThisProcess` in a forked copy of this process.
        """
        return self._recovering(lambda: self._run(sql, parameters))

    def row(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> Row | None:
        """Return the first row, or None. Otherwise like `rows`."""
        found = self.rows(sql, parameters)
        return found[0] if found else None

    def discard(self) -> None:
        """Close this thread's connection, if it has one. The next statement opens another."""
        self._drop()

    def execute_sql(self, sql: str, params: Sequence[object] | None = None) -> Any:  # noqa: ANN401
        """Peewee's queries pass through here; they recover like `rows`, unless they are part of a transaction."""
        return self._recovering(lambda: super(Database, self).execute_sql(sql, params))

    @property
    def _is_copied(self) -> bool:
        """Whether this is a copy by fork of the process that has the connections."""
        return self._pid is not None and self._pid != os.getpid()

    def _recovering(self, statement: Callable[[], T]) -> T:
        if self._is_copied:
            raise NotThisProcess("a forked process cannot use the database connections of its parent")
        if reason := not self.in_transaction() and self._answering.reason_to_refuse():
            raise DatabaseUnavailable(reason)
        try:
            answer = self._asked_twice(statement)
        except BaseException:
            self._answering.may_be_asked_soon()
            raise
        self._answering.is_back()
        return answer

    def _asked_twice(self, statement: Callable[[], T]) -> T:
        kept = not self.is_closed() and not self.in_transaction()
        try:
            return self._asked(statement)
        except _LOST as error:
            if not kept:
                raise DatabaseUnavailable(_first_line(error)) from error
        try:
            return self._asked(statement)
        except _LOST as error:
            raise DatabaseUnavailable(_first_line(error)) from error

    def _asked(self, statement: Callable[[], T]) -> T:
        """Send the statement. Raises `DatabaseUnavailable` where a second time would not help, else the error."""
        try:
            return statement()
        except (psycopg2.Error, peewee.PeeweeException) as error:
            driven = _driven(error)
            if isinstance(driven, _Silent):
                # Neither would others be answered, nor this one on a new connection: none of them is to wait for it.
                self._drop()
                self._answering.is_away(_first_line(error))
                raise DatabaseUnavailable(_first_line(error)) from error
            if driven.pgcode == _QUERY_CANCELED:
                # Too slow, but the connection is well. Once more would only double the load of a slow server.
                raise DatabaseUnavailable(_first_line(error)) from error
            if driven.pgcode in _NOT_THERE:
                raise SchemaUnavailable(_first_line(error)) from error
            if type(driven) is psycopg2.DatabaseError and driven.pgcode is None:
                # What psycopg calls "server closed the connection unexpectedly" where libpq has not noticed it yet.
                self._drop()
                raise psycopg2.OperationalError(_first_line(error)) from error
            if isinstance(error, _LOST):
                self._drop()
            raise

    def _run(self, sql: str, parameters: Sequence[object] | Mapping[str, object]) -> list[Row]:
        with self.connection().cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def _connect(self) -> Any:  # noqa: ANN401 - psycopg2 has no types
        if reason := self._connecting.reason_to_refuse():
            raise psycopg2.OperationalError(reason)
        try:
            connection = self._taken(self._new_connection)
        except psycopg2.OperationalError as error:
            self._connecting.is_away(_first_line(error))
            raise
        self._connecting.is_back()
        psycopg2.extras.register_uuid(conn_or_curs=connection)
        # JSON is passed on as the text PostgreSQL sends: whoever needs it decoded knows into what.
        psycopg2.extras.register_default_jsonb(connection, loads=str)
        return connection

    def _new_connection(self) -> "_Connection":
        self._pid = os.getpid()
        name = f"async-job-system {self._service} {_role(threading.current_thread().name)}"
        adapter: Any = self._adapter  # type: ignore[attr-defined] # the stubs leave out what subclasses may use
        connection: _Connection = adapter.connect(self, **self.connect_params, application_name=name)
        connection.autocommit = True
        connection.wait_at_most(self._answer_seconds)
        return connection

    def _taken(self, connect: "Callable[[], _Connection]") -> "_Connection":
        """Connect, without `options` where they are refused: a pooler such as PgBouncer knows of none."""
        try:
            return connect()
        except psycopg2.OperationalError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            if left_out := self.connect_params.pop("options", ""):
                log.warning("A pooler takes no options: set them for the database's role", left_out=left_out)
            return connect()

    def _drop(self) -> None:
        try:
            # Closing a forked copy would say good-bye to the server in the name of the parent.
            if not self.is_closed() and not self._is_copied:
                self.connection().close()
        except psycopg2.Error:
            pass  # it was broken: that is why it goes
        finally:
            self._state.reset()  # type: ignore[attr-defined] # as above


class _Away:
    """What is known of a server that does not answer. One thread asks it again, for all; the others do not wait."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._reason = ""
        self._until = 0.0

    def reason_to_refuse(self) -> str:
        """Return why not to ask now, or nothing: then the caller asks, and says how it went."""
        if not self._reason:
            return ""
        if time.monotonic() < self._until:
            return self._reason
        self._until = time.monotonic() + self._patience_seconds
        return ""

    def is_away(self, reason: str) -> None:
        self._until = time.monotonic() + REFUSE_SECONDS
        self._reason = reason

    def may_be_asked_soon(self) -> None:
        self._until = min(self._until, time.monotonic() + REFUSE_SECONDS)

    def is_back(self) -> None:
        self._reason = ""


class _Silent(psycopg2.OperationalError):  # type: ignore[misc] # psycopg2 has no types
    """No answer came within the time that an answer may take."""


class _Connection(psycopg2.extensions.connection):  # type: ignore[misc] # psycopg2 has no types
    """A connection that is not waited for without end, as libpq does where a server is frozen or unreachable."""

    #: Seconds to wait for an answer, None for ever.
    patience_seconds: float | None = None
    line: Line | None = None

    def wait_at_most(self, seconds: float) -> None:
        """Bound the statements from now on. Raises `OperationalError` when the process can open no further file."""
        try:
            self.line = Line(self.fileno())
        except OSError as error:
            raise psycopg2.OperationalError(str(error)) from error
        self.patience_seconds = seconds

    def close(self) -> None:
        super().close()
        if self.line is not None:
            self.line.close()


class _Cursor(psycopg2.extensions.cursor):  # type: ignore[misc] # as above
    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002, ANN401 - the name is psycopg2's
        """Raises `_Silent` when there is no answer in the time that the connection grants."""
        line, patience = self.connection.line, self.connection.patience_seconds
        if line is None or patience is None:
            super().execute(query, vars)
            return
        try:
            deadlines.begin(line, patience)
            super().execute(query, vars)
        except psycopg2.Error as error:
            if deadlines.has_cut(line):
                raise _Silent(f"PostgreSQL gave no answer in {patience:g} s") from error
            raise
        finally:
            deadlines.end(line)


class _NoLock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def open_database(settings: Settings, *, service: str = "command", thread_safe: bool = True) -> Database:
    """Return the database of these settings. Connects at the first statement of each thread, not now.

    With `thread_safe` False there is one connection, for callers that take turns.
    """
    statement_ms = settings.database_statement_timeout_seconds * 1000
    return Database(
        settings.database_url.replace("postgres://", "postgresql://", 1),
        service=service,
        connect_seconds=settings.database_connect_timeout_seconds,
        # PostgreSQL is to end a slow statement itself, which keeps the connection; this is for when it cannot.
        answer_seconds=settings.database_statement_timeout_seconds + 1,
        thread_safe=thread_safe,
        options=f"-c timezone=UTC -c statement_timeout={statement_ms} -c idle_in_transaction_session_timeout=30s"
        # For the server's side: the session, and the locks it holds, of a machine that vanished.
        " -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
        # A server that vanished without a word is noticed in seconds, not in the kernel's two hours.
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=(settings.database_statement_timeout_seconds + 5) * 1000,
    )


def _role(thread_name: str) -> str:
    """Return the thread's name without its number: threads that do the same have the same role."""
    return re.sub(r"[-_ ]*\d.*", "", thread_name)


def _driven(error: Exception) -> Any:  # noqa: ANN401 - psycopg2 has no types
    """Return the driver's error of which peewee made another. Its `pgcode` is None where PostgreSQL said nothing."""
    driven = getattr(error, "orig", None) or error
    return driven if isinstance(driven, psycopg2.Error) else psycopg2.Error(str(error))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
