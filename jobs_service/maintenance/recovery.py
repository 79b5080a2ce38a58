"""Finds out whether servers that are away are back, by one job for each, and brings forward the jobs that wait."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from jobs_service import events
from jobs_service.database.connection import Database
from jobs_service.jobs import lifecycle
from jobs_service.maintenance.service import Service, Turn

#: How many jobs are brought forward at first, and at most. The number doubles each time half of those have been taken:
#: a server that has just come back is not flooded, and jobs for other servers wait behind no more than these.
FIRST, MOST = 2, 200

#: Seconds between two looks while jobs are brought forward.
RAMP_SECONDS = 0.2

#: Seconds after which another job becomes the prober, if the first one waits in a queue that does not move.
PROBER_SECONDS = 60

#: Servers that one run handles. Only job code that makes up server names without end has more.
AT_A_TIME = 200


class Next(StrEnum):
    """What to do about a server."""

    WAIT = "wait"
    PROBE = "probe"
    CLOSE = "close"
    BRING_FORWARD = "bring_forward"


# Nearly always there is nothing to do, and to plan `_LOOK` costs PostgreSQL fifteen times as much as this.
_IS_ANY = """
SELECT EXISTS (SELECT FROM servers) OR EXISTS (SELECT FROM jobs WHERE status = 'pending' AND waits_for IS NOT NULL)"""

# Servers that are away, and those that jobs wait for, found one by one in the index jobs_deferred. A server answers if
# its prober's attempt ended in any other way than by finding the server away.
_LOOK = """
WITH RECURSIVE names (name) AS (
  (SELECT waits_for FROM jobs WHERE status = 'pending' AND waits_for IS NOT NULL ORDER BY waits_for LIMIT 1)
  UNION ALL
  SELECT (SELECT waits_for FROM jobs WHERE status = 'pending' AND waits_for > names.name ORDER BY waits_for LIMIT 1)
  FROM names WHERE name IS NOT NULL
), waited AS (
  SELECT name FROM names WHERE name IS NOT NULL LIMIT %(limit)s
)
SELECT name, servers.probe_at IS NOT NULL, prober,
  CASE
    WHEN servers.probe_at IS NULL THEN 'bring_forward'
    WHEN prober IS NULL THEN CASE WHEN probe_at <= now() THEN 'probe' ELSE 'wait' END
    WHEN jobs.status = 'completed' OR jobs.status = 'pending' AND waits_for IS NULL
      OR jobs.status = 'failed' AND end_reason NOT IN ('unavailable', 'poison', 'expired', 'unknown_type') THEN 'close'
    WHEN jobs.status = 'processing' OR jobs.status = 'pending' AND waits_for = name AND run_at <= now()
      AND returned_at > now() - %(prober)s * interval '1 second' THEN 'wait'
    ELSE 'probe'
  END,
  CASE WHEN servers.probe_at IS NULL THEN (
    SELECT count(*) FROM (
      SELECT FROM jobs AS due
      WHERE due.status = 'pending' AND due.waits_for = name AND due.run_at <= now() AND due.<not paused>
      LIMIT %(most)s
    ) AS on_their_way
  ) ELSE 0 END
FROM waited FULL JOIN servers USING (name)
LEFT JOIN jobs ON jobs.id = prober""".replace("<not paused>", lifecycle.NOT_PAUSED)

_CLOSE = """
DELETE FROM servers
WHERE name = %(server)s AND prober IS NOT DISTINCT FROM %(prober)s AND <fence>""".replace("<fence>", lifecycle.FENCE)


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    is_away: bool
    prober: UUID | None
    next: Next
    #: How many of the jobs that were brought forward still wait to be claimed.
    on_their_way: int


class Recovery(Service):
    """Its knowledge of servers is the table `servers`, which may be lost: the next attempt writes it again."""

    name = "recovery"

    def __init__(self, database: Database, *, interval_seconds: float) -> None:
        self.database = database
        self.interval_seconds = interval_seconds
        #: How many jobs may be on their way, by server.
        self._windows: dict[str, int] = {}
        #: The servers that were announced as away.
        self._away: set[str] = set()

    def run_once(self, turn: Turn) -> dict[str, int]:
        counts = {"probed": 0, "brought_forward": 0}
        servers = self._look()
        self._announce({server.name for server in servers if server.is_away})
        waited = {server.name for server in servers if server.next is Next.BRING_FORWARD}
        self._windows = {name: window for name, window in self._windows.items() if name in waited}
        for server in servers:
            if turn.is_over:
                turn.again()
                break
            self._do(server, turn, counts)
        return counts

    def _look(self) -> list[_Server]:
        if self.database.row(_IS_ANY) == (False,):
            return []
        names = {"limit": AT_A_TIME, "prober": PROBER_SECONDS, "most": MOST}
        return [
            _Server(name, is_away, prober, Next(what), on_their_way)
            for name, is_away, prober, what, on_their_way in self.database.rows(_LOOK, names)
        ]

    def _do(self, server: _Server, turn: Turn, counts: dict[str, int]) -> None:
        match server.next:
            case Next.PROBE:
                counts["probed"] += self._probe(server, turn)
            case Next.CLOSE:
                self._close(server, turn)
            case Next.BRING_FORWARD:
                counts["brought_forward"] += self._bring_forward(server, turn)

    def _probe(self, server: _Server, turn: Turn) -> bool:
        """Choose the job that asks the server. If no job waits for it, the next job that needs it finds out."""
        others = (server.prober, None) if server.prober else (None,)
        for other in others:
            if lifecycle.probe(self.database, server.name, instead_of=other, fence=turn.fence):
                return True
        self._close(server, turn)
        return False

    def _close(self, server: _Server, turn: Turn) -> None:
        names = {"server": server.name, "prober": server.prober, "fence": turn.fence}
        self.database.rows(_CLOSE, names)
        turn.again()

    def _bring_forward(self, server: _Server, turn: Turn) -> int:
        window = self._windows.get(server.name, 0)
        if server.on_their_way <= window / 2:
            window = min(max(FIRST, 2 * window), MOST)
        self._windows[server.name] = window
        turn.again(RAMP_SECONDS)
        room = window - server.on_their_way
        if room <= 0:
            return 0
        return lifecycle.bring_forward(self.database, server.name, limit=room, fence=turn.fence)

    def _announce(self, away: set[str]) -> None:
        for name in sorted(away - self._away):
            events.emit(events.BreakerOpened(breaker=name))
        for name in sorted(self._away - away):
            events.emit(events.BreakerClosed(breaker=name))
        self._away = away
