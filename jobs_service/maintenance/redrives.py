"""Runs redrives of many dead letters: each at its own rate, a batch at a time."""

import time
from collections.abc import Callable
from uuid import UUID

from jobs_service import events
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database
from jobs_service.failpoints import failpoint
from jobs_service.jobs import dead_letters, lifecycle
from jobs_service.maintenance.service import Service, Turn
from jobs_service.observability import logs

#: Jobs of one statement.
BATCH = 500

#: Redrives that run at a time. Others begin when one of these ends.
AT_A_TIME = 20

#: How long it is known what became of a redrive.
RETENTION_SECONDS = 90 * 86_400


class Rate:
    """How many jobs a redrive may move now: as many as have gathered at its rate, those of one second at most.

    It begins anew with each leader, so that the time without one is not made up for.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self._clock = clock
        self._gathered = 1.0
        self._at = clock()

    def take(self, most: int) -> int:
        """Return how many jobs may be moved now, at most `most`. They count as moved."""
        now = self._clock()
        gathered = self._gathered + (now - self._at) * self.per_second
        self._gathered, self._at = min(gathered, max(1.0, self.per_second)), now
        count = min(int(self._gathered), most)
        self._gathered -= count
        return count

    @property
    def seconds_to_next(self) -> float:
        """Seconds until another job may be moved."""
        return max(0.0, (1 - self._gathered) / self.per_second)


class Redrives(Service):
    """Which members are done is in PostgreSQL, so that another leader goes on where one has ended."""

    name = "redrives"

    def __init__(self, database: Database, dead_letters_list: DeadLetterList, *, interval_seconds: float) -> None:
        self.database = database
        self.dead_letters = dead_letters_list
        self.interval_seconds = interval_seconds
        self._rates: dict[UUID, Rate] = {}
        #: Of each redrive a batch whose reply was lost, if there is one.
        self._lost_replies: dict[UUID, lifecycle.LostReply] = {}

    def run_once(self, turn: Turn) -> dict[str, int]:
        counts = {"moved": 0}
        self._repeat_lost(counts, turn)
        if not dead_letters.is_any_redrive(self.database):
            self._rates.clear()
            return counts
        for redrive in dead_letters.running_redrives(self.database, limit=AT_A_TIME):
            self._go_on(redrive, counts, turn)
        if dead_letters.forget_members(self.database, limit=BATCH, fence=turn.fence):
            turn.again()
        return counts

    def _repeat_lost(self, counts: dict[str, int], turn: Turn) -> None:
        """Find out what became of batches whose replies were lost, also of redrives that were cancelled since."""
        for redrive_id, lost_reply in list(self._lost_replies.items()):
            if lost_reply.parameters is not None:
                self._move(redrive_id, BATCH, counts, turn)
            del self._lost_replies[redrive_id]

    def _go_on(self, redrive: dead_letters.Redrive, counts: dict[str, int], turn: Turn) -> None:
        rate = self._rates.setdefault(redrive.id, Rate(redrive.rate_per_second))
        while not turn.is_over and (count := rate.take(BATCH)):
            if not self._move(redrive.id, count, counts, turn):
                self._end(redrive.id, turn)
                return
        turn.again(rate.seconds_to_next)

    def _move(self, redrive_id: UUID, count: int, counts: dict[str, int], turn: Turn) -> int:
        """Redrive up to `count` members, announce them, and return how many were looked at."""
        lost_reply = self._lost_replies.setdefault(redrive_id, lifecycle.LostReply())
        batch = lifecycle.redrive_some(self.database, redrive_id, limit=count, fence=turn.fence, lost_reply=lost_reply)
        if batch.taken:
            failpoint("redrives.after_batch")
        self.dead_letters.remove_oldest([job.job_id for job in batch.moved])
        for job in batch.moved:
            with logs.bound(**job.origin.fields):
                events.emit(events.JobRedriven(**job.facts))
        counts["moved"] += len(batch.moved)
        return batch.taken

    def _end(self, redrive_id: UUID, turn: Turn) -> None:
        self._rates.pop(redrive_id, None)
        if not dead_letters.complete_redrive(self.database, redrive_id, fence=turn.fence):
            return
        if ended := dead_letters.find_redrive(self.database, redrive_id):
            events.emit(
                events.RedriveEnded(
                    redrive_id=str(ended.id), state=ended.state, moved=ended.moved, skipped=ended.skipped
                )
            )
        dead_letters.prune_redrives(self.database, retention_seconds=RETENTION_SECONDS, limit=BATCH, fence=turn.fence)
