"""Back-pressure: a queue with more waiting jobs than QUEUE_LIMIT takes no further ones."""

import time
from collections.abc import Mapping

from structlog.stdlib import get_logger

from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable, QueueFull
from jobs_service.jobs.queries import WAITING_LINES

log = get_logger(module=__name__)

#: The share of the time that counting may take: a huge backlog is counted less often.
SHARE = 0.05

# The due jobs only: those of a later date burden no worker. By an index range for each type and priority of a queue,
# which ends after as many rows as the limit allows in all of them.
_WAITING = """
<lines>
SELECT lines.queue, sum(waiting)::int
FROM lines
CROSS JOIN generate_series(0, 9) AS level
CROSS JOIN LATERAL (
  SELECT count(*) AS waiting
  FROM (
    SELECT FROM jobs
    WHERE jobs.queue = lines.queue AND jobs.type = lines.type AND status = 'pending' AND priority = level
      AND run_at <= now()
    ORDER BY run_at, id NULLS FIRST
    LIMIT %(most)s
  ) AS due
) AS counts
GROUP BY lines.queue""".replace("<lines>", WAITING_LINES)


class QueueLimits:
    """Checks submissions against the last count of each queue's jobs. A thread counts; nothing else waits for it."""

    def __init__(self, limit: int) -> None:
        """A `limit` of 0 is none."""
        self.limit = limit
        self._waiting: Mapping[str, int] = {}
        self._next_count_at = 0.0

    def check(self, queue: str, jobs: int = 1) -> None:
        """Raise `QueueFull` if the queue has no room for so many further jobs.

        The count is about a second old: a queue may pass its limit by what is submitted meanwhile.
        """
        if not self.limit:
            return
        waiting = self._waiting.get(queue, 0)
        if waiting + jobs > self.limit:
            raise QueueFull(
                f"At least {waiting} jobs wait in the queue {queue}, {self.limit} may. Nothing was written."
            )

    def count(self, database: Database) -> None:
        """Count the waiting jobs again, unless counting has just taken long. Blocks.

        While PostgreSQL does not answer, the last count is kept: nothing can be submitted then anyway.
        """
        began_at = time.monotonic()
        if began_at < self._next_count_at:
            return
        try:
            found = database.rows(_WAITING, {"most": self.limit})
        except DatabaseUnavailable as error:
            log.debug("Waiting jobs not counted", error=str(error))
            return
        self._waiting = dict(found)
        ended_at = time.monotonic()
        self._next_count_at = ended_at + (ended_at - began_at) / SHARE
