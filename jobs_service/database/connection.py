"""PostgreSQL through peewee: kept connections that threads share, replaced when the server has dropped them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import peewee
import psycopg2
import psycopg2.extras

from jobs_service.circuit_breaker import CircuitBreaker
from jobs_service.config import Settings
from jobs_service.database import budget
from jobs_service.database.driver_errors import DRIVER_ERRORS, each_attempt, is_full, of_connecting, of_statement
from jobs_service.database.pool import Pool
from jobs_service.database.sessions import Connection, Sessions
from jobs_service.errors import ConnectionLost, DatabaseUnavailable, NoAnswer, NotThisProcess, PostgresError

Row = tuple[Any, ...]

#: Seconds during which statements fail at once after PostgreSQL did not answer, instead of each waiting for it.
REFUSE_SECONDS = 0.5

T = TypeVar("T")


class Database(peewee.PostgresqlDatabase):
    """peewee's database, plus `rows`: fixed SQL on the same connections, for statements every job needs.

    Threads share a few connections: each has one for a statement, or for a transaction that it began. Statements must
    be safe to run twice: when a kept connection turns out to be lost, the server may have carried out the statement or
    not, and it is sent once more on another connection.

    What the driver raises is raised as one of the errors of `errors.py`.
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
        share: Callable[[int], budget.Share | None] | None = None,
    ) -> None:
        """A statement without an answer after `answer_seconds` counts as lost.

        `connections` are shared by all threads. With `has_reserve` there is one more, for statements that ask for it.
        `share` is given how many the server grants to all, and returns this process's share, None if enough.
        """
        super().__init__(url)
        self.sessions = sessions
        self._share = share
        self._pool = Pool(
            self._open,
            size=connections,
            has_reserve=has_reserve,
            idle_seconds=idle_seconds,
            wait_seconds=answer_seconds,
        )
        #: The process that connects: a copy of it by fork has the same sockets, and must leave them alone.
        self._pid: int | None = None
        # peewee holds this lock while it connects, so one unanswered connect would hold up every thread. Its
        # state is per thread; the server version, the only thing shared, is the same in whichever thread sets it.
        self._lock = _NoLock()
        self._connecting = CircuitBreaker(open_seconds=REFUSE_SECONDS, trial_seconds=connect_seconds)
        self._answering = CircuitBreaker(open_seconds=REFUSE_SECONDS, trial_seconds=answer_seconds)

    def rows(
        self, sql: str, parameters: Sequence[object] | Mapping[str, object] = (), *, reserved: bool = False
    ) -> list[Row]:
        """Run one statement in its own transaction and return its rows, or [] for a statement that has none.

        A `reserved` one need not wait until others have their answers. Raises `DatabaseUnavailable` when the server
        cannot be reached or gives up on the statement, its `SchemaUnavailable` where a table or column is missing,
        `StatementRefused` where the statement or a value in it is wrong, and `NotThisProcess` in a forked copy of this
        process.
        """
        return self._carry_out(lambda: self._run(sql, parameters), reserved=reserved)

    def row(
        self, sql: str, parameters: Sequence[object] | Mapping[str, object] = (), *, reserved: bool = False
    ) -> Row | None:
        """Return the first row, or None. Otherwise like `rows`."""
        found = self.rows(sql, parameters, reserved=reserved)
        return found[0] if found else None

    def in_one_transaction(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, whose statements on this database are one transaction.

        Like a statement it must be safe to carry out twice. What it raises rolls the transaction back. Raises what
        `rows` raises.
        """
        return self._carry_out(lambda: self._committed(work))

    def refusal(self) -> str:
        """Return why a statement would be refused now without being sent, or "". Never blocks."""
        return self._answering.refusal() or self._connecting.refusal()

    def discard(self) -> None:
        """Close the connections that are not in use, and this thread's. The next statement opens another."""
        self._drop()
        if not self._is_copied:
            self._pool.clear()

    def execute_sql(self, sql: str, params: Sequence[object] | None = None) -> Any:  # noqa: ANN401
        """Run a statement of peewee's. Like `rows`, it is sent once more, unless it is part of a transaction."""
        return self._carry_out(lambda: _Answer(super(Database, self).execute_sql(sql, params)))

    @property
    def _is_copied(self) -> bool:
        """Whether this is a copy by fork of the process that has the connections."""
        return self._pid is not None and self._pid != os.getpid()

    def _carry_out(self, statement: Callable[[], T], *, reserved: bool = False) -> T:
        if self._is_copied:
            raise NotThisProcess("a forked process cannot use the database connections of its parent")
        if not self.is_closed():  # in a transaction that this thread began
            return self._send(statement)
        if reason := self._answering.refusal():
            raise DatabaseUnavailable(reason)
        try:
            answer = self._send_twice_at_most(statement, reserved=reserved)
        except BaseException:
            self._answering.end_trial()
            raise
        self._answering.close()
        return answer

    def _send_twice_at_most(self, statement: Callable[[], T], *, reserved: bool) -> T:
        if not self._take(reserved=reserved).is_kept:
            return self._send(statement)
        try:
            return self._send(statement)
        except ConnectionLost:
            # The other kept connections are as old.
            self._pool.clear()
        self._take(reserved=reserved)
        return self._send(statement)

    def _send(self, statement: Callable[[], T]) -> T:
        try:
            answer = statement()
        except DRIVER_ERRORS as error:
            failure = of_statement(error)
            self._keep_or_close(failure)
            raise failure from error
        except BaseException:
            # One on which a transaction has been rolled back can be used again.
            if self.is_closed() or not self.connection().is_idle:
                self._drop()
            else:
                self._give_back()
            raise
        self._give_back()
        return answer

    def _keep_or_close(self, failure: PostgresError) -> None:
        """Keep the connection of a statement that failed, or close it."""
        match failure:
            case NoAnswer():
                # Another connection would get no answer either, nor would other threads: they are not to wait for it.
                self._drop()
                self._answering.open(str(failure))
            case ConnectionLost():
                self._drop()
            case _:
                self._give_back(or_drop=True)

    def _committed(self, work: Callable[[], T]) -> T:
        self._run("BEGIN")
        try:
            result = work()
        except BaseException:
            self._roll_back()
            raise
        self._run("COMMIT")
        return result

    def _roll_back(self) -> None:
        """Free the locks before the error is told. The server notices a closed connection some time later."""
        if not self.is_closed():  # as it is after a statement that failed
            with suppress(*DRIVER_ERRORS):
                self._run("ROLLBACK")

    def _run(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        connection = self.connection()
        with connection.cursor() as cursor:
            if connection.prepared is None:
                cursor.execute(sql, parameters)
            else:
                connection.prepared.execute(cursor, sql, parameters)
            # `()` where rows have no column, as those of `SELECT FROM jobs`.
            return [] if cursor.description is None else cursor.fetchall()

    def _take(self, *, reserved: bool = False) -> Connection:
        """Take a connection for this thread. Raises `DatabaseUnavailable`."""
        connection = self._connect(reserved=reserved)
        self._state.set_connection(connection)  # type: ignore[attr-defined] # the stubs leave out what subclasses use
        # Only now: PostgreSQL may have stopped answering while this thread waited for the connection.
        if reason := self._answering.admit():
            self._give_back()
            raise DatabaseUnavailable(reason)
        return connection

    def _connect(self, *, reserved: bool = False) -> Connection:
        """Return a connection of the pool. peewee calls this where a transaction begins."""
        try:
            return self._pool.take(reserved=reserved)
        except DRIVER_ERRORS as error:
            raise of_connecting(error) from error

    def _give_back(self, *, or_drop: bool = False) -> None:
        """Let others have this thread's connection, unless a transaction is open on it: that is kept, or dropped."""
        connection = self.connection()
        if connection.is_idle:
            self._state.reset()  # type: ignore[attr-defined] # as above
            self._pool.give_back(connection)
        elif or_drop and not self.in_transaction():
            self._drop()

    def _open(self) -> Connection:
        """Return a new connection. Raises `psycopg2.OperationalError` or `DatabaseUnavailable`."""
        if reason := self._connecting.admit():
            raise DatabaseUnavailable(reason)
        self._pid = os.getpid()
        try:
            connection = self._measured(self.sessions.open())
        except psycopg2.OperationalError as error:
            if is_full(error):
                self._connecting.end_trial()
            else:
                self._connecting.open(each_attempt(error))
            raise
        except BaseException:
            self._connecting.end_trial()
            raise
        self._connecting.close()
        psycopg2.extras.register_uuid(conn_or_curs=connection)
        # JSON is passed on as the text that PostgreSQL sends: the code that needs it decoded knows into which type.
        psycopg2.extras.register_default_jsonb(connection, loads=str)
        return connection

    def _measured(self, connection: Connection) -> Connection:
        """Read, once, how many connections the server grants, and keep to a share. A pooler limits its own."""
        # Several threads may do so at once, with the same answer.
        share = self._share
        if share is not None and not self.sessions.is_pooled:
            (most,) = connection.answer(budget.GRANTED)
            if (found := share(most)) is not None:
                self._pool.shrink(found.shared, keeps=found.is_kept)
        self._share = None
        return connection

    def _drop(self) -> None:
        try:
            # Closing a forked copy would tell the server that the parent's session is over.
            if not self.is_closed() and not self._is_copied:
                self.connection().close()
        except psycopg2.Error:
            pass  # it was broken: that is why it is closed
        finally:
            self._state.reset()  # type: ignore[attr-defined] # as above
            if not self._is_copied:
                self._pool.release()


class _Answer:
    """What peewee reads of a cursor, without the connection: other threads may have that by then."""

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
    settings: Settings,
    *,
    service: str = "command",
    connections: int | None = None,
    has_reserve: bool = False,
    prepares: bool = False,
) -> Database:
    """Return the database of these settings. Connects at the first statement, not now.

    Its threads share that many `connections`, DATABASE_CONNECTIONS by default, or fewer where the server grants fewer
    than `budget.total`. One that `prepares` is for the few statements that every job needs, whose texts do not change:
    it keeps them prepared, unless DATABASE_PREPARED_STATEMENTS is off or a pooler is in between.
    """
    seconds = settings.database_statement_timeout_seconds
    return Database(
        Sessions(
            settings.database_url,
            name=f"async-job-system {service}",
            settings={"statement_timeout": f"{seconds}s"},
            answer_seconds=seconds + 1,
            prepares=prepares and settings.database_prepared_statements == "auto",
            connect_timeout=settings.database_connect_timeout_seconds,
            tcp_user_timeout=(seconds + 5) * 1000,
        ),
        settings.database_url,
        connect_seconds=settings.database_connect_timeout_seconds,
        # PostgreSQL ends a slow statement itself and keeps the connection; this limit is for when it cannot.
        answer_seconds=seconds + 1,
        connections=connections or settings.database_connections,
        has_reserve=has_reserve,
        idle_seconds=settings.database_idle_seconds,
        share=partial(budget.share, settings),
    )
