"""Publishes due jobs that have no message: scheduled jobs, retries, and those whose messages Redis lost or missed."""

import math

from structlog.stdlib import get_logger

from jobs_service.broker.epoch import Epoch
from jobs_service.broker.redis import JobBroker, message_for
from jobs_service.database.connection import Database, Row
from jobs_service.errors import BrokerUnavailable, DatabaseUnavailable
from jobs_service.failpoints import failpoint
from jobs_service.jobs import lifecycle
from jobs_service.jobs.queries import WAITING_LINES
from jobs_service.maintenance.service import Service, Turn

log = get_logger(module=__name__)

BATCH = 500

#: A queue and a type: in Redis each pair has its own sorted set of messages.
Line = tuple[str, str]

# The jobs of a paused queue would not be claimed: they wait here.
_LINES = "<lines> SELECT queue, type FROM lines WHERE queue = ANY(%s) AND <not paused>".replace(
    "<lines>", WAITING_LINES
).replace("<not paused>", lifecycle.NOT_PAUSED)

# One index range for each priority, so that scheduled jobs of a high priority are not read again and again: the range
# ends at now(), or at the date of the newest message in Redis. Published rows are filtered out; there are at most as
# many as the window holds. A `publish_at` further ahead than `far` seconds was written before the clock was set back.
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
SELECT count(*) FROM soon""".replace("<fence>", lifecycle.FENCE)


class Relay(Service):
    """Publishes first and records it afterwards: after a crash in between it publishes again, which changes nothing."""

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
        #: The line that was filled last: the next run begins with the one behind it.
        self._last = ("", "")

    def run_once(self, turn: Turn) -> dict[str, int]:
        if not self.epoch.is_set():
            self._start_over(turn)
        published, failure = 0, None
        lines = self._lines()
        while lines and not turn.is_over:
            # One batch of each line in turn, so that a line that drains as fast as it is filled holds up no other.
            line = self._last = lines.pop(0)
            try:
                filled = self._fill(line, turn)
            except BrokerUnavailable as error:
                failure = error  # perhaps of this line only, if another program wrote its key
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
        """Return the lines in which jobs wait, beginning behind the one that was filled last."""
        found: list[Line] = [
            (queue, job_type)
            for queue, job_type in self.database.rows(_LINES, (list(self.broker.get_declared_queues()),))
        ]
        return sorted(found, key=lambda line: (line <= self._last, line))

    def _start_over(self, turn: Turn) -> None:
        """Redis has lost its data, and the messages with it: publish all of them again at once."""
        self.epoch.set()
        try:
            (jobs,) = self.database.row(_EVERYTHING_SOON, {"fence": turn.fence}) or (0,)
            # A new installation begins with an empty Redis, too.
            (log.warning if jobs else log.info)("Redis was empty; all due jobs are published again", jobs=jobs)
        except DatabaseUnavailable as error:
            # Only a short cut, which may time out on a huge backlog: each row is published again at its date anyway.
            log.warning("Jobs left for their next republish", error=str(error))

    def _fill(self, line: Line, turn: Turn) -> int:
        """Publish a batch, as far as the line's window has room, and return the number of messages sent.

        Returns 0 also if none could be recorded: the lease is lost, and the next batch would be the same again.
        """
        due = self._due(line)
        return len(due) if due and self._publish(line[0], due, turn) else 0

    def _due(self, line: Line) -> list[Row]:
        """Return the due jobs that have room, the most urgent first. Less urgent messages take no room from them.

        A job that is older than the last message in line always has room: one that came back from a lost worker, say.
        Not so in the common line of unknown types, where each type would find room because of the others.
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
