"""Deletes idempotency keys whose time is over."""

from jobs_service.database.connection import Database
from jobs_service.jobs.lifecycle import FENCE
from jobs_service.maintenance.service import Service, Turn

#: Keys of one statement. An answer to a batch may have a megabyte.
BATCH = 500

_DELETE = """
DELETE FROM idempotency_keys
WHERE (caller, path, key) IN (
  SELECT caller, path, key FROM idempotency_keys
  WHERE created_at < now() - %(kept)s * interval '1 second'
  ORDER BY created_at LIMIT %(limit)s
) AND created_at < now() - %(kept)s * interval '1 second' AND <fence>
RETURNING 1""".replace("<fence>", FENCE)


class IdempotencyKeys(Service):
    """Deletes the oldest keys first, so that a key is kept for at least `kept_seconds`."""

    name = "idempotency_keys"

    def __init__(self, database: Database, *, interval_seconds: float, kept_seconds: float) -> None:
        self.database = database
        self.interval_seconds = interval_seconds
        self.kept_seconds = kept_seconds

    def run_once(self, turn: Turn) -> dict[str, int]:
        deleted = 0
        while not turn.is_over:
            batch = self._delete(turn)
            deleted += batch
            if batch < BATCH:
                return {"deleted": deleted}
        turn.again()
        return {"deleted": deleted}

    def _delete(self, turn: Turn) -> int:
        names = {"kept": self.kept_seconds, "limit": BATCH, "fence": turn.fence}
        return len(self.database.rows(_DELETE, names))
