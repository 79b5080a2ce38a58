"""Publishes what is due and was not published: scheduled jobs, retries, and whatever Redis lost or never got."""

import math

from jobs_service.broker.epoch import Epoch
from jobs_service.broker.redis import JobBroker, message_for
from jobs_service.database.connection import Database, Row
from jobs_service.errors import BrokerUnavailable, DatabaseUnavailable
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle
from jobs_service.jobs.lifecycle import FENCE
from jobs_service.maintenance.service import Service, Turn
from jobs_service.observability.logs import get_logger

log = get_logger(__name__)

BATCH = 500

#: A queue and a type. In Redis each has a line of its own.
Line = tuple[str, str]

# The lines in which something waits, one after the other in the index jobs_lines, not by reading every waiting row.
_LINES = """
WITH RECURSIVE lines (queue, type) AS (
  (SELECT queue, type FROM jobs WHERE status = 'pending' ORDER BY queue, type LIMIT 1)
  UNION ALL
  SELECT following.queue, following.type
  FROM lines CROSS JOIN LATERAL (
    SELECT queue, type FROM jobs
    WHERE status = 'pending' AND (jobs.queue, jobs.type) > (lines.queue, lines.type)
    ORDER BY queue, type LIMIT 1
  ) AS following
)
SELECT queue, type FROM lines WHERE queue = ANY(%s)"""

# One index range for each priority, so that a scheduled job of high priority is not stepped over again and again: what
# is due, or older than what Redis has, ends the range. Rows already published are filtered; there are at most as many
# as the window holds. None is published for so long ahead as `far`, unless the clock was set back since.
_DUE = """
SELECT id, type, waiting.priority, extract(epoch FROM waiting.run_at)::float8 * 1000
FROM unnest(%(priorities)s::int[], %(untils)s::float8[]) AS level (priority, until)
CROSS JOIN LATERAL (
  SELECT id, type, priority, run_at FROM jobs
  WHERE queue = %(queue)s AND type = %(type)s AND status = 'pending' AND priority = level.priority
    AND run_at <= LEAST(now(), to_timestamp(level.until / 1000))
    AND (publish_at <= now() OR publish_at > now() + %(far)s * interval '1 second')
  ORDER BY run_at, id NULLS FIRST
  LIMIT %(limit)s
) AS waiting
ORDER BY waiting.priority DESC, waiting.run_at
LIMIT %(limit)s"""

_EVERYTHING_SOON = """
WITH soon AS (
  UPDATE jobs SET publish_at = now()
  WHERE status = 'pending' AND run_at <= now() AND publish_at > now() AND <fence>
  RETURNING 1
)
SELECT count(*) FROM soon""".replace("<fence>", FENCE)


class Relay(Service):
    """Rings first and notes it afterwards: dying in between means ringing twice, which a queue does not notice."""

    name = "relay"

    def __init__(
        self,
        database: Database,
        broker: JobBroker,
        epoch: Epoch,
        *,
        interval_seconds: float,
        republish_seconds: float,
    ) -> None:
        self.database = database
        self.broker = broker
        self.epoch = epoch
        self.interval_seconds = interval_seconds
        self.republish_seconds = republish_seconds
        #: The line that was served last, by queue and type: the others come first.
        self._last = ("", "")

    def run_once(self, turn: Turn) -> dict[str, int]:
        if not self.epoch.is_set():
            self._start_over(turn)
        published, failure = 0, None
        lines = self._lines()
        while lines and not turn.is_over:
            # One batch of each in turn, so that a line which is filled as fast as it is drained holds up no other.
            line = self._last = lines.pop(0)
            try:
                filled = self._fill(line, turn)
            except BrokerUnavailable as error:
                failure = error  # perhaps of this line alone, as with a foreign value at its key
                continue
            if filled:
                published += filled
                lines.append(line)
        if failure is not None:
            raise failure
        if lines:
            turn.again()
        return {"published": published}

    def _lines(self) -> list[Line]:
        """Return the lines in which something waits, those first that come behind the one that was served last."""
        found: list[Line] = [
            (queue, job_type)
            for queue, job_type in self.database.rows(_LINES, (list(self.broker.get_declared_queues()),))
        ]
        return sorted(found, key=lambda line: (line <= self._last, line))

    def _start_over(self, turn: Turn) -> None:
        """Redis is empty: what was published is not there any more, so publish it again at once."""
        self.epoch.set()
        try:
            (jobs,) = self.database.row(_EVERYTHING_SOON, {"fence": turn.fence}) or (0,)
            # An empty one is also what a new installation begins with.
            (log.warning if jobs else log.info)("Redis was empty: what waits is published again", jobs=jobs)
        except DatabaseUnavailable as error:
            # Only a short cut, which a huge backlog may make too long: each row is published again in its time.
            log.warning("Jobs left for their next republish", error=str(error))

    def _fill(self, line: Line, turn: Turn) -> int:
        """Publish a batch of what the line's window has room for and return the number of messages sent.

        0 also when none of them could be noted: the lease is lost, and to go on would be to send them again and again.
        """
        due = self._due(line)
        return len(due) if due and self._publish(line[0], due, turn) else 0

    def _due(self, line: Line) -> list[Row]:
        """Return what is due and has room, the most urgent first. Less urgent messages take no room from it.

        What is older than the last message in line has room in any case: a job that came back from a lost worker, say.
        Not so in the common line, where several types that nobody here knows would each find room by the others.
        """
        rooms = [self.broker.window - waiting for waiting in self.broker.waiting_from(*line)]
        is_own = self.broker.name_of(line[1]) == line[1]
        newest = self.broker.newest(*line) if is_own and min(rooms) <= 0 else [None] * len(rooms)
        untils = {
            priority: math.inf if room > 0 else last
            for priority, (room, last) in enumerate(zip(rooms, newest, strict=True))
            if room > 0 or last is not None
        }
        names = {
            "queue": line[0],
            "type": line[1],
            "priorities": list(untils),
            "untils": list(untils.values()),
            "far": 2 * self.republish_seconds,
            "limit": BATCH,
        }
        return [
            row
            for place, row in enumerate(self.database.rows(_DUE, names) if untils else [])
            if place < rooms[row[2]] or row[3] < (newest[row[2]] or 0)
        ]

    def _publish(self, queue: str, due: list[Row], turn: Turn) -> int:
        failpoint("relay.before_publish")
        self.broker.publish(
            queue, [(message_for(job_id, kind, queue, priority), due_ms) for job_id, kind, priority, due_ms in due]
        )
        failpoint("relay.after_publish")
        job_ids = [row[0] for row in due]
        return lifecycle.published(self.database, job_ids, republish_seconds=self.republish_seconds, fence=turn.fence)
