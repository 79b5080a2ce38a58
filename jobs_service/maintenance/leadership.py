"""Which process leads maintenance: the one that holds the lease, a row in `leases` that it renews.

No step depends on a session: each is one statement in its own transaction, so it works through a pooler, and a
connection may be lost and replaced. PostgreSQL's clock decides when a lease has run out. Each new holder gets a token
that is one higher, and a write that names an older token changes nothing.
"""

import time
from uuid import UUID

from structlog.stdlib import get_logger

from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable
from jobs_service.metrics import catalogue as metrics

log = get_logger(module=__name__)

#: Renewals during one lease: two of them may fail.
RENEWALS = 3

# What nearly every request finds. To plan `_ACQUIRE` costs PostgreSQL ten times as much as this.
_IS_ANOTHERS = """
SELECT FROM leases
WHERE name = 'maintenance' AND holder <> %(holder)s AND expires_at > clock_timestamp()
  AND expires_at <= clock_timestamp() + %(seconds)s * interval '1 second'"""

# A process that finds the lease held by another only reads. clock_timestamp(), because now() of a statement that waited
# for the row is from before the renewal that it waited for. A lease that ends later than a new one would was granted
# before the clock was set back: it counts as run out.
_ACQUIRE = """
INSERT INTO leases AS lease (name, holder, token, expires_at)
SELECT 'maintenance', %(holder)s, 1, clock_timestamp() + %(seconds)s * interval '1 second'
WHERE NOT EXISTS (
  <is another's>
)
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, token = lease.token + (lease.holder <> excluded.holder)::int,
    expires_at = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE lease.holder = excluded.holder OR lease.expires_at <= clock_timestamp()
   OR lease.expires_at > clock_timestamp() + %(seconds)s * interval '1 second'
RETURNING token""".replace("<is another's>", _IS_ANOTHERS)

_RESIGN = """
UPDATE leases SET expires_at = '-infinity'
WHERE name = 'maintenance' AND holder = %(holder)s AND token = %(token)s"""


class Leadership:
    """The lease, as one process sees it. Used by one thread; any thread may read `is_held`."""

    def __init__(self, database: Database, holder: UUID, *, lease_seconds: float) -> None:
        self.database = database
        self.holder = holder
        self.lease_seconds = lease_seconds
        #: One higher with each new holder; the services' writes name it. None while this process does not lead.
        self.token: int | None = None
        self._renewed_at = 0.0
        self._is_refused = False

    @property
    def is_held(self) -> bool:
        """Whether this process leads. By its own clock the lease ends no later than by PostgreSQL's."""
        return self.token is not None and time.monotonic() < self._renewed_at + self.lease_seconds

    @property
    def seconds_to_renewal(self) -> float:
        """The seconds until the lease has to be renewed; 0 if it is not held."""
        due_at = self._renewed_at + self.lease_seconds / RENEWALS
        return max(0.0, due_at - time.monotonic()) if self.is_held else 0.0

    def ensure(self) -> bool:
        """Acquire the lease, or renew it when that is due. Returns whether this process leads."""
        if self.seconds_to_renewal:
            return True
        try:
            self._acquire()
        except DatabaseUnavailable as error:
            self._refused(error)
        if not self.is_held:
            self._lose()
        return self.is_held

    def resign(self) -> None:
        """Give up the lease, so that another process need not wait for its end. A silent PostgreSQL is only logged."""
        token = self.token
        self._lose()
        if token is None:
            return
        try:
            self.database.rows(_RESIGN, {"holder": self.holder, "token": token})
        except DatabaseUnavailable as error:
            log.warning("Maintenance not given up; its lease ends by itself", error=str(error))

    def _acquire(self) -> None:
        # Taken before the statement is sent: the lease that PostgreSQL grants ends later.
        asked_at = time.monotonic()
        names = {"holder": self.holder, "seconds": self.lease_seconds}
        is_anothers = self.token is None and self.database.rows(_IS_ANOTHERS, names, reserved=True)
        row = None if is_anothers else self.database.row(_ACQUIRE, names, reserved=True)
        self._is_refused = False
        if row is None:
            self._lose()
            return
        self.token, self._renewed_at = row[0], asked_at
        metrics.MAINTENANCE_LEADER.labels().set(1)

    def _lose(self) -> None:
        self.token = None
        metrics.MAINTENANCE_LEADER.labels().set(0)

    def _refused(self, error: DatabaseUnavailable) -> None:
        """Log once why no process can acquire the lease, such as a PostgreSQL that is read-only."""
        if not self._is_refused:
            log.warning("Maintenance waits: PostgreSQL grants no lease", error=str(error))
        self._is_refused = True
