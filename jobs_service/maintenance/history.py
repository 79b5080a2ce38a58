"""Writes what happened in each minute, for `GET /stats`: the last hour is there without Prometheus."""

from jobs_service.database.connection import Database
from jobs_service.jobs import statistics
from jobs_service.maintenance.service import Service, Turn


class History(Service):
    """Minutes of the last hour without a leader are written later, from the jobs that are still there."""

    name = "history"

    def __init__(self, database: Database, *, interval_seconds: float) -> None:
        self.database = database
        self.interval_seconds = interval_seconds

    def run_once(self, turn: Turn) -> dict[str, int]:
        minutes = statistics.missing_minutes(self.database)
        for written, minute in enumerate(minutes):
            if turn.is_over:
                turn.again()
                return {"minutes": written}
            statistics.write_minute(self.database, minute, fence=turn.fence)
        statistics.forget_minutes(self.database, fence=turn.fence)
        if len(minutes) == statistics.MINUTES_AT_ONCE:
            turn.again()
        return {"minutes": len(minutes)}
