"""Opens sessions of PostgreSQL with the same settings, whatever the defaults of server, database and role are.

The settings go with the connection, in `options`. A pooler may refuse or ignore them; then they go with each statement,
in the same message and for its transaction alone: the next one may be in another session.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2
import psycopg2.extensions
from structlog.stdlib import get_logger

from jobs_service import dsn
from jobs_service.database.deadlines import DuplicateSocket, deadlines
from jobs_service.database.driver_errors import Silent
from jobs_service.database.prepared import SETTINGS, PreparedStatements
from jobs_service.errors import DatabaseUnsuitable

log = get_logger(module=__name__)

#: The oldest major version of PostgreSQL that this service works with.
NEEDED_VERSION = 15

#: What the statements rely on, wherever they run.
RELIED_ON: Mapping[str, str] = {
    # Each statement guards itself. Under serializable, a statement that meets another would fail instead of waiting.
    "default_transaction_isolation": "read committed",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "extra_float_digits": "1",
}

#: What works only when it goes with a connection, and is not essential: the server parses a whole message before a
#: setting in it applies.
OF_THE_CONNECTION: Mapping[str, str] = {
    # No statement has a backslash in it, and those in parameters are quoted as the session requires.
    "standard_conforming_strings": "on",
    # So that the server ends the session, and frees its locks, when the client's machine disappears.
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}

#: So that a server which disappeared is noticed in seconds, not in the kernel's two hours.
_KEEPALIVES: Mapping[str, object] = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}

#: A setting of our own: a session without it did not get the others either.
_MARK = "async_job_system.settings"


class Connection(psycopg2.extensions.connection):  # type: ignore[misc] # psycopg2 has no types
    """A connection with a limit on the wait for an answer. libpq has none where a server is frozen or unreachable."""

    #: Seconds to wait for an answer, None for no limit.
    answer_seconds: float | None = None
    duplicate: DuplicateSocket | None = None
    #: Sent before each statement, in the same message.
    preamble: bytes = b""
    #: None where statements are sent as they are.
    prepared: PreparedStatements | None = None
    #: Whether a pool kept it: it may have been lost since its last statement.
    is_kept = False
    #: The pool's count of losses when it was opened.
    generation = 0

    def wait_at_most(self, seconds: float) -> None:
        """Limit the wait from now on. Raises `psycopg2.OperationalError` when the process can open no further file."""
        try:
            self.duplicate = DuplicateSocket(self.fileno())
        except OSError as error:
            raise psycopg2.OperationalError(str(error)) from error
        self.answer_seconds = seconds

    @property
    def is_idle(self) -> bool:
        """Whether it is outside of any transaction."""
        return bool(self.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE)

    def answer(self, sql: str, parameters: Sequence[object] = ()) -> Any:  # noqa: ANN401 - a row
        """Return the first row of a statement's answer."""
        with self.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchone()

    def close(self) -> None:
        super().close()
        if self.duplicate is not None:
            self.duplicate.close()


class _Cursor(psycopg2.extensions.cursor):  # type: ignore[misc] # as above
    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002, ANN401 - the name is psycopg2's
        """Raises `Silent` when there is no answer in the connection's `answer_seconds`."""
        duplicate, seconds = self.connection.duplicate, self.connection.answer_seconds
        if self.connection.preamble and self.connection.is_idle:
            query, vars = self.connection.preamble + self.mogrify(query, vars), None  # noqa: A001
        if duplicate is None or seconds is None:
            super().execute(query, vars)
            return
        try:
            deadlines.begin(duplicate, seconds)
            super().execute(query, vars)
        except psycopg2.Error as error:
            if deadlines.has_expired(duplicate):
                raise Silent(f"PostgreSQL gave no answer in {seconds:g} s") from error
            raise
        finally:
            deadlines.end(duplicate)


class Sessions:
    """Opens connections to the database of a URL. Thread-safe."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        settings: Mapping[str, str],
        answer_seconds: float | None,
        prepares: bool = False,
        **parameters: object,
    ) -> None:
        """`name` is what `pg_stat_activity` shows, `settings` override those of the URL.

        `parameters` are libpq's. Without `answer_seconds` there is no limit on the wait for an answer. With `prepares`
        a connection prepares its statements, unless a pooler may give each of them another session.
        """
        given = dsn.parameters_of(url)
        self._settings: dict[str, str] = {**dsn.settings_of(given.pop("options", "")), **RELIED_ON, **settings}
        # The encoding is libpq's own parameter, which poolers accept. Without it PGCLIENTENCODING would apply.
        fixed = {"client_encoding": "UTF8", "application_name": name}
        self._parameters: dict[str, Any] = {**_KEEPALIVES, **given, **parameters, **fixed}
        self._answer_seconds = answer_seconds
        self._prepares = prepares
        #: Whether the settings have to go with each statement; None until it is known.
        self.is_pooled: bool | None = None

    @property
    def search_path(self) -> str | None:
        """The search_path of the URL, if it has one."""
        return self._settings.get("search_path")

    def open(self) -> Connection:
        """Return a new connection.

        Raises `psycopg2.OperationalError`, and `DatabaseUnsuitable` where waiting would not help.
        """
        if self.is_pooled is None:
            return self._first()
        return self._connect(with_settings=not self.is_pooled)

    def _first(self) -> Connection:
        """Open a connection and find out whether the server accepts settings with it."""
        try:
            connection = self._connect(with_settings=True)
        except psycopg2.OperationalError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            return self._through_a_pooler()
        if _has_settings(connection):
            self.is_pooled = False
            return connection
        connection.close()
        return self._through_a_pooler()

    def _through_a_pooler(self) -> Connection:
        connection = self._connect(with_settings=False)
        log.info("A pooler takes no settings with a connection: they are sent with each statement")
        self.is_pooled = True
        return connection

    def _connect(self, *, with_settings: bool) -> Connection:
        options = {"options": self._options} if with_settings else {}
        connection: Connection = psycopg2.connect(
            **self._parameters, **options, connection_factory=Connection, cursor_factory=_Cursor
        )
        try:
            refuse_unsuitable(connection)
            connection.autocommit = True
            if self._answer_seconds is not None:
                connection.wait_at_most(self._answer_seconds)
            if not with_settings:
                connection.preamble = self._preamble(connection)
            elif self._prepares:
                connection.prepared = PreparedStatements()
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def _options(self) -> str:
        of_plans = SETTINGS if self._prepares else {}
        return dsn.written({**self._settings, **OF_THE_CONNECTION, **of_plans, _MARK: "set"})

    def _preamble(self, connection: Connection) -> bytes:
        """Return the statements that give a pooler's session our settings until the end of the message."""
        # In a statement of its own before the first query: PostgreSQL refuses to change the level later.
        first = b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
        rest = {name: value for name, value in self._settings.items() if name != "default_transaction_isolation"}
        words = [word for pair in rest.items() for word in pair]
        with connection.cursor() as cursor:
            sent: bytes = cursor.mogrify("SELECT " + ", ".join(["set_config(%s, %s, true)"] * len(rest)) + "; ", words)
        return first + sent


def refuse_unsuitable(connection: Any) -> None:  # noqa: ANN401 - psycopg2 has no types
    """Raise `DatabaseUnsuitable` for a server or a database on which this service cannot work."""
    version, encoding = connection.server_version, connection.get_parameter_status("server_encoding")
    if version < NEEDED_VERSION * 10_000:
        raise DatabaseUnsuitable(
            f"PostgreSQL {_readable(version)} is too old: {NEEDED_VERSION} or newer is needed; upgrade it"
        )
    if encoding != "UTF8":
        raise DatabaseUnsuitable(
            f"the database {connection.info.dbname} is encoded in {encoding}, UTF8 is needed: make another with "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0 and let DATABASE_URL name it"
        )


def _readable(version: int) -> str:
    """Return 13.14 for 130014, and 9.6.24 for 90624."""
    if version >= 100_000:  # noqa: PLR2004 - since 10, a version has two parts
        return f"{version // 10_000}.{version % 10_000}"
    return f"{version // 10_000}.{version // 100 % 100}.{version % 100}"


def _has_settings(connection: Connection) -> bool:
    (mark,) = connection.answer("SELECT current_setting(%s, true)", (_MARK,))
    return bool(mark == "set")
