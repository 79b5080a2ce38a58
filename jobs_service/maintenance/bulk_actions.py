"""Carries out actions on many jobs: each at its own rate, a batch at a time."""

import time
from collections.abc import Callable
from uuid import UUID

from jobs_service import events
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database
from jobs_service.failpoints import failpoint
from jobs_service.jobs import bulk_actions, lifecycle, unfinished
from jobs_service.jobs.bulk_actions import BulkAction, Kind
from jobs_service.maintenance.service import Service, Turn
from jobs_service.observability import logs

#: Jobs of one statement.
BATCH = 500

#: Actions that run at a time. Others begin when one of these ends.
AT_A_TIME = 20

#: How long it is known what became of an action.
RETENTION_SECONDS = 90 * 86_400


class Rate:
    """How many jobs an action may change now: as many as have gathered at its rate, those of one second at most.

    It begins anew with each leader, so that the time without one is not made up for.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self._clock = clock
        self._gathered = 1.0
        self._at = clock()

    def take(self, most: int) -> int:
        """Return how many jobs may be changed now, at most `most`. They count as changed."""
        now = self._clock()
        gathered = self._gathered + (now - self._at) * self.per_second
        self._gathered, self._at = min(gathered, max(1.0, self.per_second)), now
        count = min(int(self._gathered), most)
        self._gathered -= count
        return count

    @property
    def seconds_to_next(self) -> float:
        """Seconds until another job may be changed."""
        return max(0.0, (1 - self._gathered) / self.per_second)


class BulkActions(Service):
    """Which members are done is in PostgreSQL, so that another leader goes on where one has ended."""

    name = "bulk_actions"

    def __init__(self, database: Database, dead_letters_list: DeadLetterList, *, interval_seconds: float) -> None:
        self.database = database
        self.dead_letters = dead_letters_list
        self.interval_seconds = interval_seconds
        self._rates: dict[UUID, Rate] = {}
        #: Of each action a batch whose reply was lost, if there is one.
        self._lost_replies: dict[UUID, tuple[BulkAction, lifecycle.LostReply]] = {}

    def run_once(self, turn: Turn) -> dict[str, int]:
        counts = dict.fromkeys(_DONE.values(), 0)
        self._repeat_lost(counts, turn)
        if not bulk_actions.is_any(self.database):
            self._rates.clear()
            return counts
        for action in bulk_actions.running(self.database, limit=AT_A_TIME):
            self._go_on(action, counts, turn)
        if bulk_actions.forget_members(self.database, limit=BATCH, fence=turn.fence):
            turn.again()
        return counts

    def _repeat_lost(self, counts: dict[str, int], turn: Turn) -> None:
        """Find out what became of batches whose replies were lost, also of actions that were stopped since."""
        for action, lost_reply in list(self._lost_replies.values()):
            if lost_reply.parameters is not None:
                self._change(action, BATCH, counts, turn)
            del self._lost_replies[action.id]

    def _go_on(self, action: BulkAction, counts: dict[str, int], turn: Turn) -> None:
        rate = self._rates.setdefault(action.id, Rate(action.rate_per_second))
        while not turn.is_over and (count := rate.take(BATCH)):
            if not self._change(action, count, counts, turn):
                self._end(action, turn)
                return
        turn.again(rate.seconds_to_next)

    def _change(self, action: BulkAction, count: int, counts: dict[str, int], turn: Turn) -> int:
        """Change up to `count` members, announce them, and return how many were looked at."""
        _, lost_reply = self._lost_replies.setdefault(action.id, (action, lifecycle.LostReply()))
        batch = self._send(action, count, turn.fence, lost_reply)
        if batch.taken:
            failpoint("bulk_actions.after_batch")
        if action.kind is not Kind.CANCELLATION:
            self.dead_letters.remove_oldest([job.job_id for job in batch.moved])
        for job in batch.moved:
            with logs.bound(**job.origin.fields):
                _announce(action, job)
        counts[_DONE[action.kind]] += len(batch.moved)
        return batch.taken

    def _send(
        self, action: BulkAction, limit: int, fence: int | None, lost_reply: lifecycle.LostReply
    ) -> lifecycle.Batch:
        match action.kind:
            case Kind.REDRIVE:
                return lifecycle.redrive_some(self.database, action.id, limit=limit, fence=fence, lost_reply=lost_reply)
            case Kind.DISCARD:
                return lifecycle.discard_some(
                    self.database, action.id, by=action.requested_by, limit=limit, fence=fence, lost_reply=lost_reply
                )
            case Kind.CANCELLATION:
                return lifecycle.cancel_some(
                    self.database,
                    action.id,
                    statuses=unfinished.statuses_of(action.filter),
                    reason=action.reason,
                    by=action.requested_by,
                    limit=limit,
                    fence=fence,
                    lost_reply=lost_reply,
                )

    def _end(self, action: BulkAction, turn: Turn) -> None:
        self._rates.pop(action.id, None)
        if not bulk_actions.complete(self.database, action.id, fence=turn.fence):
            return
        if ended := bulk_actions.find(self.database, action.kind, action.id):
            events.emit(
                events.BulkActionEnded(**ended.facts, state=ended.state, moved=ended.moved, skipped=ended.skipped)
            )
        bulk_actions.prune(self.database, retention_seconds=RETENTION_SECONDS, limit=BATCH, fence=turn.fence)


#: What the counts of a run call the jobs that were changed.
_DONE = {Kind.REDRIVE: "redriven", Kind.DISCARD: "discarded", Kind.CANCELLATION: "cancelled"}


def _announce(action: BulkAction, job: lifecycle.TransitionedJob) -> None:
    match action.kind:
        case Kind.REDRIVE:
            events.emit(events.JobRedriven(**job.facts))
        case Kind.DISCARD:
            events.emit(events.JobDiscarded(**job.facts, by=action.requested_by))
        case Kind.CANCELLATION:
            if isinstance(job, lifecycle.Cancelled) and job.on_ambiguous:
                events.emit(events.AttemptAmbiguous(**job.facts, policy=str(job.on_ambiguous)))
            events.emit(events.JobCancelled(**job.facts))
