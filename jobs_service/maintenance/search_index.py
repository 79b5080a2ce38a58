"""Keeps the index of the text search: adds new jobs to it, and renews it where jobs changed or were deleted."""

from jobs_service.database.connection import Database
from jobs_service.jobs import search
from jobs_service.maintenance.service import Service, Turn


class SearchIndex(Service):
    """A part of the index at a time. Where the search is off, it deletes the index."""

    name = "search_index"

    def __init__(self, database: Database, *, interval_seconds: float, is_on: bool) -> None:
        self.database = database
        self.interval_seconds = interval_seconds
        self.is_on = is_on

    def run_once(self, turn: Turn) -> dict[str, int]:
        if not self.is_on:
            return {"cleared": self._clear(turn)}
        return {"renewed": self._renew(turn), "added": self._add(turn)}

    def _renew(self, turn: Turn) -> int:
        renewed = 0
        while not turn.is_over:
            found = search.renew_blocks(self.database, fence=turn.fence)
            renewed += found
            if found < search.CHANGES_AT_ONCE:
                return renewed
        turn.again()
        return renewed

    def _add(self, turn: Turn) -> int:
        added = 0
        while not turn.is_over:
            found = search.add_blocks(self.database, fence=turn.fence)
            added += found
            if found < search.JOBS_AT_ONCE:
                return added
        turn.again()
        return added

    def _clear(self, turn: Turn) -> int:
        cleared = 0
        while not turn.is_over:
            found = search.clear(self.database, fence=turn.fence)
            cleared += found
            if not found:
                return cleared
        turn.again()
        return cleared
