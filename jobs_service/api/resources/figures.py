"""Jobs by state and their rates, for each queue and type: read once for all who ask at the same time."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from jobs_service.api.resources.database import DatabaseResource
from jobs_service.api.resources.shared_reads import SharedRead
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.jobs import statistics
from jobs_service.jobs.lifecycle import Status


class Depth(msgspec.Struct, frozen=True):
    """Jobs by state. The first four are `pending`."""

    due: Annotated[int, Meta(description="Could run now.")] = 0
    scheduled: Annotated[int, Meta(description="Wait for their date.")] = 0
    retrying: Annotated[int, Meta(description="Wait for their next attempt.")] = 0
    deferred: Annotated[int, Meta(description="Wait for a server that is unavailable.")] = 0
    processing: int = 0
    failed: Annotated[int, Meta(description="Dead letters.")] = 0
    is_capped: Annotated[bool, Meta(description="There are more: counting stops at 10,000 of one kind.")] = False

    def __add__(self, other: "Depth") -> "Depth":
        return Depth(
            due=self.due + other.due,
            scheduled=self.scheduled + other.scheduled,
            retrying=self.retrying + other.retrying,
            deferred=self.deferred + other.deferred,
            processing=self.processing + other.processing,
            failed=self.failed + other.failed,
            is_capped=self.is_capped or other.is_capped,
        )


class Figures(msgspec.Struct, frozen=True):
    """What is known of some jobs. Rates are a minute, by the last five minutes."""

    depth: Depth = Depth()
    #: For how long the oldest due job has been due.
    oldest_seconds: float | None = None
    submitted: float = 0.0
    completed: float = 0.0
    failed: float = 0.0

    def __add__(self, other: "Figures") -> "Figures":
        ages = [age for age in (self.oldest_seconds, other.oldest_seconds) if age is not None]
        return Figures(
            self.depth + other.depth,
            max(ages, default=None),
            submitted=self.submitted + other.submitted,
            completed=self.completed + other.completed,
            failed=self.failed + other.failed,
        )


class AllFigures(msgspec.Struct, frozen=True):
    """Those of each queue, and of each queue's types that have jobs or had some in the last five minutes."""

    by_queue: dict[str, dict[str, Figures]]

    def of_queue(self, queue: str) -> Figures:
        return _sum(self.by_queue.get(queue, {}).values())

    def by_type(self) -> dict[str, Figures]:
        """Return those of each type, in all queues."""
        found: dict[str, list[Figures]] = defaultdict(list)
        for types in self.by_queue.values():
            for kind, figures in types.items():
                found[kind].append(figures)
        return {kind: _sum(figures) for kind, figures in found.items()}


def _sum(figures: Iterable[Figures]) -> Figures:
    return sum(figures, start=Figures())


class FigureReader(DatabaseResource):
    """Reads them. One for a process."""

    def __init__(self, database: Database, threads: Threads) -> None:
        super().__init__(database, threads)
        self._shared = SharedRead(lambda: self.run(self._read))

    async def get(self) -> AllFigures:
        """Return the figures of this moment, or of some seconds ago where they took long."""
        return await self._shared.get()

    def _read(self) -> AllFigures:
        depths, running = statistics.depths(self.database), statistics.ended_or_running(self.database)
        rates, submitted = statistics.rates(self.database), statistics.submitted(self.database)
        found: dict[str, dict[str, Figures]] = defaultdict(dict)
        for line in sorted({*depths, *rates, *submitted, *((queue, kind) for _, queue, kind in running)}):
            queue, kind = line
            waiting = depths.get(line, statistics.Depth())
            completed, failed = rates.get(line, (0.0, 0.0))
            found[queue][kind] = Figures(
                _depth(waiting, *(running.get((status, *line), (0, False)) for status in _COUNTED)),
                waiting.oldest_seconds,
                submitted=submitted.get(line, 0.0),
                completed=completed,
                failed=failed,
            )
        return AllFigures(found)


_COUNTED = (Status.PROCESSING, Status.FAILED)


def _depth(waiting: statistics.Depth, processing: tuple[int, bool], failed: tuple[int, bool]) -> Depth:
    is_capped = waiting.is_capped or processing[1] or failed[1]
    return Depth(
        waiting.due,
        waiting.scheduled,
        waiting.retrying,
        waiting.deferred,
        processing=processing[0],
        failed=failed[0],
        is_capped=is_capped,
    )
