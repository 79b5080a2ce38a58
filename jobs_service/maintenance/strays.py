"""Handles waiting jobs on queues that no worker serves: their type has moved to another queue, or does not exist."""

from collections import defaultdict
from uuid import UUID

from structlog.stdlib import get_logger

from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.redis import JobBroker
from jobs_service.database.connection import Database
from jobs_service.events import JobFailed
from jobs_service.jobs import lifecycle
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.service import Service, Turn
from jobs_service.observability import logs

log = get_logger(module=__name__)

BATCH = 500

#: A queue may be without workers for this long, as in a deployment, before its jobs are moved.
GRACE_SECONDS = 60

# The queues are found one by one in the index jobs_lines, so that not every waiting row is read.
_UNSERVED = """
WITH RECURSIVE waiting (queue) AS (
  (SELECT queue FROM jobs WHERE status = 'pending' ORDER BY queue LIMIT 1)
  UNION ALL
  SELECT (SELECT queue FROM jobs WHERE status = 'pending' AND jobs.queue > waiting.queue ORDER BY queue LIMIT 1)
  FROM waiting WHERE queue IS NOT NULL
)
SELECT queue FROM waiting
WHERE queue IS NOT NULL AND NOT EXISTS (
  SELECT FROM workers WHERE waiting.queue = ANY(queues) AND id <> ALL(%s::uuid[])
)"""

# In the order of the index jobs_lines, so that PostgreSQL reads the index and not the table.
_STRAYS = """
SELECT id, type FROM jobs
WHERE status = 'pending' AND queue = %(queue)s AND run_at < now() - %(grace)s * interval '1 second'
ORDER BY type, priority DESC, run_at, id NULLS FIRST LIMIT %(limit)s"""


class Strays(Service):
    """Moves a stray of a known type to its type's queue, and fails one of an unknown type after a grace period."""

    name = "strays"

    def __init__(
        self,
        database: Database,
        broker: JobBroker,
        dead_letters: DeadLetterList,
        *,
        interval_seconds: float,
        liveness: Liveness,
    ) -> None:
        self.database = database
        self.broker = broker
        self.dead_letters = dead_letters
        self.interval_seconds = interval_seconds
        self.liveness = liveness
        self._lost_reply = lifecycle.LostReply()

    def run_once(self, turn: Turn) -> dict[str, int]:
        counts = {"moved": 0, "failed": self._fail([], "", turn)}
        for (queue,) in self.database.rows(_UNSERVED, (list(self.liveness.silent(GRACE_SECONDS)),)):
            for job_type, job_ids in self._strays(queue).items():
                if turn.is_over:
                    turn.again()
                    return counts
                if self.broker.knows(job_type):
                    counts["moved"] += self._move(job_ids, queue, job_type, turn)
                else:
                    counts["failed"] += self._fail(job_ids, job_type, turn)
        if sum(counts.values()) >= BATCH:
            turn.again()
        return counts

    def _strays(self, queue: str) -> dict[str, list[UUID]]:
        by_type: dict[str, list[UUID]] = defaultdict(list)
        names = {"queue": queue, "grace": GRACE_SECONDS, "limit": BATCH}
        for job_id, job_type in self.database.rows(_STRAYS, names):
            by_type[job_type].append(job_id)
        return by_type

    def _move(self, job_ids: list[UUID], queue: str, job_type: str, turn: Turn) -> int:
        to = self.broker.get_actor(job_type).queue_name
        if queue == to:
            return 0
        lifecycle.move(self.database, job_ids, queue=to, fence=turn.fence)
        log.warning("Jobs moved from a queue that no worker serves", queue=queue, to=to, jobs=len(job_ids))
        return len(job_ids)

    def _fail(self, job_ids: list[UUID], job_type: str, turn: Turn) -> int:
        """Fail the jobs that have waited for long enough. Without ids, only announce a batch whose reply was lost."""
        failed = lifecycle.fail_unknown(
            self.database,
            job_ids,
            job_type=job_type,
            grace_seconds=lifecycle.UNKNOWN_TYPE_GRACE_SECONDS,
            fence=turn.fence,
            lost_reply=self._lost_reply,
        )
        for job in failed:
            with logs.bound(**job.origin.fields):
                self.dead_letters.add(
                    JobFailed(**job.facts, error="UnknownType", reason=lifecycle.EndReason.UNKNOWN_TYPE)
                )
        return len(failed)
