"""Publishes what is due and was not published: scheduled jobs, retries, and whatever Redis lost or never got."""

from jobs_service import lifecycle
from jobs_service.broker import JobBroker, message_for
from jobs_service.database import Database, Row
from jobs_service.dead_letters import DeadLetterList
from jobs_service.errors import BrokerUnavailable, DatabaseUnavailable
from jobs_service.failpoints import failpoint
from jobs_service.logs import get_logger
from jobs_service.maintenance.service import Service

log = get_logger(__name__)

BATCH = 500

# One index range for each priority, so that a scheduled job of high priority is not stepped over again and again:
# run_at <= now() ends the range. Rows already published are filtered; there are at most as many as the window holds.
_DUE = """
SELECT id, type, waiting.priority, (extract(epoch FROM waiting.run_at) * 1000)::float8
FROM generate_series(9, %(lowest)s, -1) AS level
CROSS JOIN LATERAL (
  SELECT id, type, priority, run_at FROM jobs
  WHERE queue = %(queue)s AND status = 'pending' AND priority = level
    AND run_at <= now() AND publish_at <= now()
  ORDER BY run_at, id
  LIMIT %(limit)s
) AS waiting
ORDER BY waiting.priority DESC, waiting.run_at
LIMIT %(limit)s"""

_EVERYTHING_SOON = """
WITH soon AS (
  UPDATE jobs SET publish_at = now()
  WHERE status = 'pending' AND run_at <= now() AND publish_at > now()
  RETURNING 1
)
SELECT count(*) FROM soon"""


class Relay(Service):
    """Rings first and notes it afterwards: dying in between means ringing twice, which a queue does not notice."""

    name = "relay"

    def __init__(
        self,
        database: Database,
        broker: JobBroker,
        dead_letters: DeadLetterList,
        *,
        interval_seconds: float,
        republish_seconds: float,
    ) -> None:
        self.database = database
        self.broker = broker
        self.dead_letters = dead_letters
        self.interval_seconds = interval_seconds
        self.republish_seconds = republish_seconds

    def run_once(self) -> dict[str, int]:
        if not self.dead_letters.has_epoch():
            self._start_over()
        published, failure = 0, None
        for queue in sorted(self.broker.get_declared_queues()):
            try:
                published += self._fill(queue)
            except BrokerUnavailable as error:
                failure = error  # perhaps of this queue alone, as with a foreign value at its key
        if failure is not None:
            raise failure
        return {"published": published}

    def _start_over(self) -> None:
        """Redis is empty: what was published is not there any more, so publish it again at once."""
        self.dead_letters.set_epoch("1")
        try:
            (jobs,) = self.database.row(_EVERYTHING_SOON) or (0,)
            # An empty one is also what a new installation begins with.
            (log.warning if jobs else log.info)("Redis was empty: what waits is published again", jobs=jobs)
        except DatabaseUnavailable as error:
            # Only a short cut, which a huge backlog may make too long: each row is published again in its time.
            log.warning("Jobs left for their next republish", error=str(error))

    def _fill(self, queue: str) -> int:
        """Publish what the queue's window has room for and return the number of messages sent."""
        filled = 0
        while due := self._due(queue):
            self._publish(queue, due)
            filled += len(due)
        return filled

    def _due(self, queue: str) -> list[Row]:
        """Return what is due and has room, the most urgent first. Less urgent messages take no room from it."""
        rooms = [self.broker.window - waiting for waiting in self.broker.waiting_from(queue)]
        lowest = next((priority for priority, room in enumerate(rooms) if room > 0), None)
        if lowest is None:
            return []
        found = self.database.rows(_DUE, {"queue": queue, "lowest": lowest, "limit": BATCH})
        return [row for place, row in enumerate(found) if place < rooms[row[2]]]

    def _publish(self, queue: str, due: list[Row]) -> None:
        failpoint("relay.before_ring")
        self.broker.ring(
            queue, [(message_for(job_id, kind, queue, priority), due_ms) for job_id, kind, priority, due_ms in due]
        )
        failpoint("relay.after_ring")
        lifecycle.published(self.database, [row[0] for row in due], republish_seconds=self.republish_seconds)
