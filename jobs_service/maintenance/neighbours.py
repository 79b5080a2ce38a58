"""Looks whether another installation uses the same names in Redis, and logs it."""

from structlog.stdlib import get_logger

from jobs_service.broker.neighbours import ADVICE, Neighbours
from jobs_service.maintenance.service import Service, Turn

log = get_logger(module=__name__)


class NeighbourWatch(Service):
    """Registers this leader in Redis, and logs every other leader that it finds there. Does not disturb the others."""

    name = "neighbours"

    def __init__(self, neighbours: Neighbours, *, interval_seconds: float) -> None:
        self.neighbours = neighbours
        self.interval_seconds = interval_seconds
        #: The token of the lease under which it looked last.
        self._fence: int | None = None
        #: The other installations that are logged already.
        self._logged: set[str] = set()

    def run_once(self, turn: Turn) -> dict[str, int]:
        if turn.fence != self._fence:
            self._fence = turn.fence
            self.neighbours.begin()
        found = self.neighbours.look()
        for other in found:
            if other not in self._logged:
                this = self.neighbours.me
                log.warning("Another installation uses the same names in Redis", this=this, other=other, advice=ADVICE)
        self._logged = set(found)
        return {"found": len(found)}
