"""The error tree. `api/problems.py` translates what a client may see into problem+json."""

import re
from collections.abc import Sequence


class JobsError(Exception):
    """The root of every error this service raises itself."""


class SettingsError(JobsError):
    """One or more settings are missing or wrong; each problem names its variable."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("settings are wrong:\n" + "\n".join(f"  - {problem}" for problem in self.problems))


class MigrationError(JobsError):
    """The files in `seeds/` and the database do not agree."""


class PostgresError(JobsError):
    """PostgreSQL did not carry out a statement. `sqlstate` is its code for the reason, None where it sent none."""

    # Not called DatabaseError: peewee would take it for the one of the driver, and raise its own in its place.
    def __init__(self, message: str = "", *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DatabaseUnavailable(PostgresError):
    """PostgreSQL did not answer, or refused to. It may have carried out the statement all the same."""


class NoAnswer(DatabaseUnavailable):
    """PostgreSQL did not answer a statement in the time that it has."""


class ConnectionLost(DatabaseUnavailable):
    """The connection to PostgreSQL ended during a statement, or cannot be used any more."""


class SchemaUnavailable(DatabaseUnavailable):
    """A table or column is missing, or this role has no privilege for it. The message names it."""


class DatabaseUnsuitable(DatabaseUnavailable):
    """PostgreSQL answered, and this service cannot work with it. The message says why, and what to do."""


class StatementRefused(PostgresError):
    """PostgreSQL answered that a statement is wrong: a defect, or a schema that this version does not know."""


class ValueRefused(StatementRefused):
    """PostgreSQL cannot store or read a value of the statement."""


class NotThisProcess(JobsError):
    """A copy of the process, made by fork, tried to use what belongs to the original."""


class BrokerUnavailable(JobsError):
    """Redis did not answer, or refused to."""


class NameTaken(BrokerUnavailable):
    """A key of ours holds a value in Redis that this service did not write. It is left as it is."""


class BrokerUnsuitable(BrokerUnavailable):
    """Redis answered, and this service cannot work with it. The message says why, and what to do."""


class NotReady(JobsError):
    """Something has to be mended before this command can do its work. The message says what, and how."""


class InvalidRequest(JobsError):
    """A client sent something that cannot be accepted.

    `pointer` is an RFC 6901 JSON pointer into the body, or the name of a query parameter.
    """

    def __init__(self, detail: str, *, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class UnknownJobType(InvalidRequest):
    """No actor was registered under this name."""


class MalformedBody(InvalidRequest):
    """The body is not the JSON that this service accepts at all."""


class Rejected(JobsError):
    """A job's code found that no further attempt can succeed. The job fails at once, without a retry."""


class Snoozed(JobsError):
    """A job's code found that now is not the time. The job is put off, and the attempt does not count."""

    def __init__(self, reason: str, *, delay_seconds: float) -> None:
        super().__init__(reason)
        self.delay_seconds = delay_seconds


class Unavailable(JobsError):
    """A job's code found that a server it needs is away, or does not take this job yet.

    The attempt does not count. The job is tried again by time, for as long as it may wait. `server` names who is away
    for all jobs: they wait for it together, and one at a time finds out whether it is back. Without a name only this
    job waits. `retry_after_seconds` is how long the server itself asks to wait.
    """

    def __init__(self, reason: str, *, server: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.server = None if server is None else server_name(server)
        self.retry_after_seconds = retry_after_seconds


class KnownUnavailable(Unavailable):
    """The server is known to be away, and this attempt has not asked it."""


def server_name(text: str) -> str:
    """Return a server's name as rows, logs and metrics have it: one short line, without user, password and query."""
    visible = "".join(character if character.isprintable() else "_" for character in text)
    address = re.sub(r"[?#].*", "", visible)
    return re.sub(r"^([a-z0-9+.-]*://)?[^/]*@", r"\1", address, flags=re.IGNORECASE)[:MAX_SERVER_NAME]


#: Characters of a server's name that are kept.
MAX_SERVER_NAME = 200


class OutcomeUnknown(JobsError):
    """Nobody knows whether the attempt had its effect. The job's `on_ambiguous` says what becomes of it."""


class LeaseLost(JobsError):
    """The job is not this attempt's any more: it was cancelled, or taken for lost and given to another worker."""
