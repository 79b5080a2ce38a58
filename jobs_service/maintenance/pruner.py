"""Deletes jobs that have been finished for longer than their retention, and their files and those of discarded jobs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from uuid import UUID

from jobs_service import events
from jobs_service.database.connection import Database
from jobs_service.failpoints import failpoint
from jobs_service.jobs import dead_letters, lifecycle
from jobs_service.maintenance.service import Service, Turn
from jobs_service.outputs.contract import OutputStore, Search

#: Rows of one statement; and how many statements of one run may look for expired jobs of a status, and delete jobs.
#: This bounds how long a run holds up the leader's other services.
BATCH = 1_000
LOOKS = 50
BATCHES = 20

#: The part of its time that the pruner may spend on reading the names in the folder.
SEARCH_SHARE = 0.01

# Ids are in the order of submission, by PostgreSQL's clock, so the oldest jobs are found by the index jobs_by_status,
# and no index is needed for this alone. The range ends at the least id that a job submitted at that moment can have.
# The walk begins again only when it has reached the end.
_EXPIRED = """
SELECT id, finished_at < now() - %(retention)s * interval '1 second'
FROM jobs
WHERE (status, id) > (%(status)s, %(after)s) AND (status, id) < (%(status)s, rpad(lpad(to_hex(
  GREATEST(0, extract(epoch FROM now() - %(retention)s * interval '1 second') * 1000)::bigint
), 12, '0'), 32, '0')::uuid)
ORDER BY status, id LIMIT %(limit)s"""

_STILL_EXPIRED = """
SELECT id FROM jobs
WHERE id = ANY(%(job_ids)s) AND (status = %(status)s) IS TRUE
  AND finished_at < now() - %(retention)s * interval '1 second'"""

_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Round:
    """Expired jobs of each status that are yet to be deleted, discarded jobs, and the search for the files of all."""

    expired: Mapping[lifecycle.Status, list[UUID]]
    #: Jobs whose rows a person has deleted.
    discarded: list[UUID]
    search: Search

    def batches(self) -> Iterator[tuple[lifecycle.Status, list[UUID]]]:
        """Take jobs out of it, a batch at a time."""
        for status, job_ids in self.expired.items():
            while job_ids:
                batch, job_ids[:BATCH] = job_ids[:BATCH], []
                yield status, batch


class Pruner(Service):
    """Works in rounds, a piece in each run: looks for expired jobs, reads the folder for their files, deletes both.

    A folder cannot be searched for the files of one job, and may hold a million others. So all names are read, once for
    many jobs; only when jobs are to be deleted, or nothing has been read yet; and for 1 % of the time at most.
    """

    name = "pruner"

    def __init__(
        self,
        database: Database,
        outputs: OutputStore,
        *,
        interval_seconds: float,
        retention_seconds: Mapping[lifecycle.Status, float],
    ) -> None:
        """A retention of 0 keeps the jobs of that status for ever."""
        self.database = database
        self.outputs = outputs
        self.interval_seconds = interval_seconds
        self.retention_seconds = {status: seconds for status, seconds in retention_seconds.items() if seconds}
        self._after = dict.fromkeys(self.retention_seconds, _FIRST)
        self._round: Round | None = None
        self._has_searched = False

    def run_once(self, turn: Turn) -> dict[str, int]:
        # Cleared first: if a step fails, such as the search, the next run begins a new round.
        work, self._round = self._round or self._next_round(turn), None
        pruned = self._go_on(work, turn) if work else Counter[lifecycle.Status]()
        for status, jobs in pruned.items():
            events.emit(events.JobsPruned(status=status.value, jobs=jobs))
        counts = {status.value: pruned[status] for status in self.retention_seconds}
        return {**counts, "temporary_files": self.outputs.reap()}

    def _next_round(self, turn: Turn) -> Round | None:
        """Return the next round. The first one also removes the files that earlier versions left in the folder."""
        expired = {status: self._expired(status, turn) for status in self.retention_seconds}
        discarded = dead_letters.discarded(self.database, limit=BATCH)
        if self._has_searched and not any(expired.values()) and not discarded:
            return None
        self._has_searched = True
        return Round(expired, discarded, self.outputs.search(chain(*expired.values(), discarded)))

    def _expired(self, status: lifecycle.Status, turn: Turn) -> list[UUID]:
        expired: list[UUID] = []
        for _ in range(LOOKS):
            found = self._walk(status)
            expired += [job_id for job_id, is_expired in found if is_expired]
            if len(found) < BATCH:
                break
            if turn.is_over:
                turn.again()
                break
        return expired

    def _go_on(self, work: Round, turn: Turn) -> Counter[lifecycle.Status]:
        """Do the next piece of the round, and return how many jobs of each status it deleted."""
        pruned = Counter[lifecycle.Status]()
        is_searched = work.search.go_on(seconds=self.interval_seconds * SEARCH_SHARE)
        if is_searched and work.discarded:
            self._forget_discarded(work, turn)
        for status, job_ids in islice(work.batches(), BATCHES if is_searched else 0):
            pruned[status] += self._delete(work, status, job_ids, turn)
            if turn.is_over:
                turn.again()
                break
        if not is_searched or any(work.expired.values()):
            self._round = work
        return +pruned

    def _forget_discarded(self, work: Round, turn: Turn) -> None:
        """Delete the files of discarded jobs, and then what says that these have to be deleted."""
        self.outputs.remove(work.search.files_of(work.discarded))
        dead_letters.forget_discarded(self.database, work.discarded, fence=turn.fence)
        work.discarded.clear()

    def _walk(self, status: lifecycle.Status) -> list[tuple[UUID, bool]]:
        retention = self.retention_seconds[status]
        names = {
            "status": status,
            "retention": retention,
            "after": self._after[status],
            "limit": BATCH,
        }
        found = [(job_id, bool(is_expired)) for job_id, is_expired in self.database.rows(_EXPIRED, names)]
        self._after[status] = found[-1][0] if len(found) == BATCH else _FIRST
        return found

    def _delete(self, work: Round, status: lifecycle.Status, job_ids: list[UUID], turn: Turn) -> int:
        retention = self.retention_seconds[status]
        # Reading the folder takes time. A job that was redriven meanwhile keeps its file, which may be new.
        names = {"job_ids": job_ids, "status": status, "retention": retention}
        expired = [job_id for (job_id,) in self.database.rows(_STILL_EXPIRED, names)]
        # Files first: a crash leaves a row without its file, which a later round deletes.
        self.outputs.remove(work.search.files_of(expired))
        failpoint("pruner.after_files")
        return lifecycle.prune(self.database, expired, status=status, retention_seconds=retention, fence=turn.fence)
