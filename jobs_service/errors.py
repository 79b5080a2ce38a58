"""The error classes. `api/problems.py` turns those that a client may see into problem documents."""

import re
from collections.abc import Sequence


class JobsError(Exception):
    """The base class of every error that this service raises itself."""


class SettingsError(JobsError):
    """One or more settings are missing or invalid. Each problem names its variable."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "these settings must be corrected:\n" + "\n".join(f"  - {problem}" for problem in self.problems)
        )


class MigrationError(JobsError):
    """The files in `seeds/` do not match what was applied to the database."""


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
    """PostgreSQL answered, but this service cannot work with it. The message says why, and what to do."""


class StatementRefused(PostgresError):
    """PostgreSQL answered that a statement is wrong: a defect, or a schema that this version does not know."""


class ValueRefused(StatementRefused):
    """PostgreSQL cannot store or read a value of the statement."""


class TooBusy(JobsError):
    """As many calls wait in this process as may wait, jobs to be written for example. Nothing was written."""


class IdempotencyConflict(JobsError):
    """A request was not carried out because of its Idempotency-Key."""


class IdempotencyKeyReused(IdempotencyConflict):
    """An Idempotency-Key came with another request than before."""


class IdempotencyKeyInFlight(IdempotencyConflict):
    """An Idempotency-Key belongs to a request that is being carried out."""


class NotThisProcess(JobsError):
    """A forked process tried to use a resource of its parent."""


class BrokerUnavailable(JobsError):
    """Redis did not answer, or refused to."""


class NameTaken(BrokerUnavailable):
    """A Redis key of this service holds a value that another program wrote. The value is left unchanged."""


class BrokerUnsuitable(BrokerUnavailable):
    """Redis answered, but this service cannot work with it. The message says why, and what to do."""


class NotReady(JobsError):
    """A command cannot run until an operator has fixed something. The message says what, and how."""


class KeyNotChanged(JobsError):
    """An API key was not created or revoked. The message says why, and has no part of a secret."""


class QueueFull(JobsError):
    """A queue has as many waiting jobs as QUEUE_LIMIT allows. Nothing was written."""


class InvalidRequest(JobsError):
    """A client sent an invalid request.

    `detail` says what is wrong. `pointer` is a JSON pointer (RFC 6901) into the body, or the name of a query parameter.
    """

    def __init__(self, detail: str, *, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class UnknownJobType(InvalidRequest):
    """No job type has this name."""


class MalformedBody(InvalidRequest):
    """The body could not be read as JSON."""


class InvalidBatch(JobsError):
    """Jobs of a batch are invalid, so none was submitted.

    `problems` has a pointer into the body and a sentence for each, or for the first of them. `invalid` is how many jobs
    are invalid, of all that were looked at.
    """

    def __init__(self, problems: Sequence[tuple[str, str]], *, invalid: int) -> None:
        super().__init__(f"{invalid} jobs are invalid")
        self.problems = problems
        self.invalid = invalid


class Rejected(JobsError):
    """Raised by a job's code when no further attempt can succeed. The job fails at once, without a retry."""


class Snoozed(JobsError):
    """Raised by a job's code to run later. The job is postponed, and the attempt does not count."""

    def __init__(self, reason: str, *, delay_seconds: float) -> None:
        super().__init__(reason)
        self.delay_seconds = delay_seconds


class Unavailable(JobsError):
    """Raised by a job's code when a server it needs is unavailable, or does not accept this job yet.

    The attempt does not count. The job is deferred, again and again, until the time it may wait is over. `server` names
    a server that is unavailable to every job: its jobs wait together, and one at a time finds out whether it is back.
    Without a name only this job waits. `retry_after_seconds` is the delay that the server itself asked for.
    """

    def __init__(self, reason: str, *, server: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.server = None if server is None else server_name(server)
        self.retry_after_seconds = retry_after_seconds


class KnownUnavailable(Unavailable):
    """The server is known to be unavailable, so this attempt did not contact it."""


def server_name(text: str) -> str:
    """Return a server's name for rows, logs and metrics: one short line, without user, password and query."""
    visible = "".join(character if character.isprintable() else "_" for character in text)
    address = re.sub(r"[?#].*", "", visible)
    return re.sub(r"^([a-z0-9+.-]*://)?[^/]*@", r"\1", address, flags=re.IGNORECASE)[:MAX_SERVER_NAME]


#: The maximum length of a server's name, in characters.
MAX_SERVER_NAME = 200


class OutcomeUnknown(JobsError):
    """It is unknown whether the attempt had its effect. The job's `on_ambiguous` decides what happens next."""


class LeaseLost(JobsError):
    """The attempt no longer holds the job: it was cancelled, or rescued and given to another worker."""
