"""What needs a person: findings about queues, workers, failures and servers, the most urgent first.

Every read is limited: `read` sends four statements, whose indexes find what they look at.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

import msgspec
from msgspec import Meta

from jobs_service.database.connection import Database
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time
from jobs_service.jobs.sentences import count, duration, short
from jobs_service.jobs.statistics import Pause

#: How many findings are told. The most urgent come first.
MAX_FINDINGS = 100

#: How many dead letters are looked at for held ones, from the newest down, and how many groups of those are told.
HELD_AMONG, HELD_GROUPS = 1_000, 10

#: How many groups of errors are looked at, besides those of the newest dead letters.
GROUPS, NEWEST = 500, 100

#: How many groups are told, and how far their dead letters, or the jobs that wait for a server, are counted.
TOLD_GROUPS, MOST_COUNTED = 20, 1_000

#: For so many seconds after its first dead letter a group is new.
NEW_SECONDS = 86_400

#: A group grows if it has so many dead letters in the last hour, and so many times those of the hour before.
GROWING_JOBS, GROWING_TIMES = 10, 2

#: A queue whose first job waits so many times its target is not only late.
VERY_LATE_TIMES = 5

#: Seconds for which no process may lead maintenance before that is told. A lease is renewed every few seconds.
UNLED_SECONDS = 30


class FindingKind(StrEnum):
    """What is found, in the order in which findings of one severity are told."""

    NO_WORKERS = "no_workers"
    REDIS_UNAVAILABLE = "redis_unavailable"
    MAINTENANCE_STOPPED = "maintenance_stopped"
    QUEUE_WITHOUT_WORKER = "queue_without_worker"
    QUEUE_LATE = "queue_late"
    SERVER_UNAVAILABLE = "server_unavailable"
    JOBS_HELD = "jobs_held"
    FAILURES_RETURNED = "failures_returned"
    FAILURES_NEW = "failures_new"
    FAILURES_GROWING = "failures_growing"
    QUEUE_PAUSED = "queue_paused"


class Severity(StrEnum):
    CRITICAL = "critical"
    WARNING = "warning"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a person has to look at."""

    kind: FindingKind
    severity: Annotated[Severity, Meta(description="critical: jobs do not run, or wait or fail beyond all limits.")]
    sentence: Annotated[str, Meta(description="What is wrong, for a person.")]
    what_to_do: str
    since: Annotated[Time | None, Meta(description="Since when; null: that is not known.")] = None
    count: Annotated[int | None, Meta(description="The jobs that it is about; null: it is not about jobs.")] = None
    count_is_capped: Annotated[bool, Meta(description="There are so many, or more.")] = False
    queue: str | None = None
    server: Annotated[str | None, Meta(description="The server that jobs wait for.")] = None
    group_id: Annotated[UUID | None, Meta(description="The group of dead letters with equal errors.")] = None
    job_id: Annotated[UUID | None, Meta(description="One of the jobs.")] = None
    links: Annotated[dict[str, str], Meta(description="Name -> path: where to look.")]


class SeenQueue(NamedTuple):
    """A queue, its figures, and for how many seconds its first job may wait."""

    name: str
    due: int
    is_capped: bool
    oldest_seconds: float | None
    live_workers: int
    pause: Pause | None
    target_seconds: float


class Trouble(NamedTuple):
    """Why a server cannot be used, and since when, as far as that is known."""

    text: str
    since: datetime | None


class Held(NamedTuple):
    """Dead letters of one group whose effect may have happened."""

    group_id: UUID
    type: str
    jobs: int
    since: datetime
    job_id: UUID


class Failing(NamedTuple):
    """A group of dead letters that is open. The counts end at `MOST_COUNTED`."""

    group_id: UUID
    type: str
    error_class: str
    pattern: str
    first_seen: datetime
    job_id: UUID
    #: When a person said that its cause is gone.
    resolved_at: datetime | None
    jobs: int
    last_hour: int
    hour_before: int


class Away(NamedTuple):
    """A server that is unavailable, and the jobs that wait for it."""

    name: str
    since: datetime
    error: str
    jobs: int
    job_id: UUID


class Seen(NamedTuple):
    """What PostgreSQL says besides the figures of the queues."""

    now: datetime
    last_heartbeat: datetime | None
    #: Since when no process leads maintenance; None: one does.
    unled_since: datetime | None
    held: list[Held]
    failing: list[Failing]
    away: list[Away]


#: The key of the index jobs_error_groups.
_GROUP = "job_error_group(type, end_reason, error, history)"

# A leader that stopped in good order leaves no time behind, but the last minute that it counted.
_PRESENT = """
SELECT now(), (SELECT max(heartbeat_at) FROM workers),
       (SELECT ended FROM (
          SELECT CASE WHEN isfinite(expires_at) THEN expires_at ELSE (
            SELECT minute + interval '3 minutes' FROM job_minutes ORDER BY minute DESC LIMIT 1
          ) END AS ended
          FROM leases WHERE name = 'maintenance'
        ) AS lease
        WHERE ended < now() - %(unled)s * interval '1 second')"""

# The newest dead letters, found one by one: whatever PostgreSQL takes the statistics for, no more of them are read.
_NEWEST = """
newest (finished_at, id, place) AS (
  (SELECT finished_at, id, 1 FROM jobs
   WHERE status = 'failed' AND (finished_at, id) < ('infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff')
   ORDER BY finished_at DESC, id DESC LIMIT 1)
  UNION ALL
  SELECT before.finished_at, before.id, newest.place + 1
  FROM newest CROSS JOIN LATERAL (
    SELECT finished_at, id FROM jobs
    WHERE status = 'failed' AND (finished_at, id) < (newest.finished_at, newest.id)
    ORDER BY finished_at DESC, id DESC LIMIT 1
  ) AS before
  WHERE newest.place < %(newest)s
), newest_jobs AS (
  SELECT jobs.* FROM newest CROSS JOIN LATERAL (
    SELECT id, type, finished_at, end_reason, error, history FROM jobs WHERE id = newest.id OFFSET 0
  ) AS jobs
)"""

_HELD = """
WITH RECURSIVE <newest>
SELECT <group>, min(type), count(*), min(finished_at), (array_agg(id ORDER BY finished_at DESC))[1]
FROM newest_jobs
WHERE end_reason = 'ambiguous'
GROUP BY 1 ORDER BY count(*) DESC LIMIT %(groups)s""".replace("<newest>", _NEWEST).replace("<group>", _GROUP)

# Of all times, of the last hour, and of the hour before.
_COUNTS = ", ".join(
    """(
  SELECT count(*) FROM (
    SELECT FROM jobs WHERE status = 'failed' AND <group> = seen.id AND <when> LIMIT %(most)s
  ) AS counted
)""".replace("<when>", when)
    for when in (
        "TRUE",
        "finished_at > now() - interval '1 hour'",
        "finished_at BETWEEN now() - interval '2 hours' AND now() - interval '1 hour'",
    )
)

# As `dead_letters.groups`, one group after the other is found in the index jobs_error_groups. If there are more than
# are looked at, the newest dead letters say which of the others fail now.
_FAILING = (
    """
WITH RECURSIVE ids (id, place) AS (
  (SELECT <group>, 1 FROM jobs WHERE status = 'failed' ORDER BY <group> LIMIT 1)
  UNION ALL
  SELECT following.id, ids.place + 1
  FROM ids CROSS JOIN LATERAL (
    SELECT <group> AS id FROM jobs WHERE status = 'failed' AND <group> > ids.id ORDER BY <group> LIMIT 1
  ) AS following
  WHERE ids.place < %(groups)s
), <newest>, found AS (
  SELECT id FROM ids UNION SELECT <group> FROM newest_jobs WHERE (SELECT count(*) FROM ids) >= %(groups)s
), seen AS MATERIALIZED (
  SELECT found.id, latest.*, first_seen, CASE WHEN state = 'resolved' THEN decided_at END AS resolved_at
  FROM found
  CROSS JOIN LATERAL (
    SELECT id AS job_id, finished_at, type, end_reason, error, history FROM jobs
    WHERE status = 'failed' AND <group> = found.id
    ORDER BY <group> DESC, finished_at DESC, id DESC LIMIT 1
  ) AS latest
  CROSS JOIN LATERAL (
    SELECT finished_at AS first_seen FROM jobs WHERE status = 'failed' AND <group> = found.id
    ORDER BY <group>, finished_at, id LIMIT 1
  ) AS earliest
  LEFT JOIN error_groups ON error_groups.id = found.id
  WHERE finished_at > now() - %(new)s * interval '1 second' AND end_reason <> 'ambiguous'
    AND (state IS NULL OR state = 'resolved' AND finished_at > decided_at)
  ORDER BY (decided_at IS NOT NULL OR first_seen > now() - %(new)s * interval '1 second') DESC, finished_at DESC
  LIMIT %(told)s
)
SELECT id, type, job_error_class(end_reason, history), job_error_pattern(error), first_seen, job_id, resolved_at,
       <counts>
FROM seen""".replace("<newest>", _NEWEST)
    .replace("<counts>", _COUNTS)
    .replace("<group>", _GROUP)
)

# No more servers than a hundred are ever away (`deferral.py`).
_AWAY = """
SELECT name, away_since, error, jobs, first
FROM servers
CROSS JOIN LATERAL (
  SELECT count(*) AS jobs, (array_agg(id))[1] AS first FROM (
    SELECT id FROM jobs WHERE status = 'pending' AND waits_for = servers.name ORDER BY waits_for, run_at
    LIMIT %(most)s
  ) AS waiting
) AS counts
WHERE jobs > 0
ORDER BY away_since"""


def read(database: Database) -> Seen:
    """Return what PostgreSQL says. Raises `DatabaseUnavailable`."""
    now, last_heartbeat, unled_since = database.rows(_PRESENT, {"unled": UNLED_SECONDS})[0]
    held = database.rows(_HELD, {"newest": HELD_AMONG, "groups": HELD_GROUPS})
    names = {"groups": GROUPS, "newest": NEWEST, "new": NEW_SECONDS, "told": TOLD_GROUPS, "most": MOST_COUNTED}
    failing = database.rows(_FAILING, names)
    away = database.rows(_AWAY, {"most": MOST_COUNTED})
    return Seen(
        now,
        last_heartbeat,
        unled_since,
        [Held(*row) for row in held],
        [Failing(*row) for row in failing],
        [Away(*row) for row in away],
    )


def findings(
    seen: Seen, queues: Iterable[SeenQueue], redis: Trouble | None, *, many_dead_letters: int
) -> list[Finding]:
    """Return what needs a person, the most urgent first. More than `many_dead_letters` in an hour are critical."""
    found = [
        *_of_workers(seen, queues := list(queues)),
        *_of_redis(redis),
        *(finding for queue in queues for finding in _of_queue(seen.now, queue, has_workers=_is_any_live(queues))),
        *(_of_server(away) for away in seen.away),
        *(_of_held(held) for held in seen.held),
        *(finding for group in seen.failing for finding in _of_group(seen.now, group, many_dead_letters)),
    ]
    return sorted(found, key=_urgency)


_SEVERITIES, _KINDS = list(Severity), list(FindingKind)


def _urgency(finding: Finding) -> tuple[int, int, int]:
    return _SEVERITIES.index(finding.severity), _KINDS.index(finding.kind), -(finding.count or 0)


def _is_any_live(queues: Iterable[SeenQueue]) -> bool:
    return any(queue.live_workers for queue in queues)


def _of_workers(seen: Seen, queues: list[SeenQueue]) -> Iterator[Finding]:
    """Yield that no worker lives, or that none of them leads maintenance."""
    if not _is_any_live(queues):
        due, is_capped = sum(queue.due for queue in queues), any(queue.is_capped for queue in queues)
        waiting = f"{_jobs(due, is_capped)} due" if due else "New jobs wait"
        yield Finding(
            kind=FindingKind.NO_WORKERS,
            severity=Severity.CRITICAL,
            sentence=f"No worker process is live, so no job runs. {waiting}.",
            what_to_do="Start a worker, or look why the workers send no heartbeats.",
            since=rfc3339(seen.last_heartbeat),
            count=due,
            count_is_capped=is_capped,
            links={"workers": "/workers"},
        )
    elif seen.unled_since is not None:
        yield Finding(
            kind=FindingKind.MAINTENANCE_STOPPED,
            severity=Severity.CRITICAL,
            sentence="No worker leads maintenance: scheduled jobs and retries are not published when they are due, "
            "and jobs of lost workers are not taken back.",
            what_to_do="Look into the workers' logs; restart the workers.",
            since=rfc3339(seen.unled_since),
            links={"workers": "/workers"},
        )


def _of_redis(redis: Trouble | None) -> Iterator[Finding]:
    if redis is not None:
        yield Finding(
            kind=FindingKind.REDIS_UNAVAILABLE,
            severity=Severity.CRITICAL,
            sentence="Jobs are accepted and kept, but few or none start, because Redis cannot be used: "
            f"{short(redis.text)}.",
            what_to_do="Look at Redis, and at the way to it. The waiting jobs start by themselves when it is back.",
            since=rfc3339(redis.since),
            links={"readiness": "/readyz"},
        )


def _of_queue(now: datetime, queue: SeenQueue, *, has_workers: bool) -> Iterator[Finding]:
    """Yield the one finding about a queue in which jobs wait, if there is any."""
    waiting = _jobs(queue.due, queue.is_capped)
    oldest = queue.oldest_seconds or 0
    about: dict[str, Any] = {
        "queue": queue.name,
        "count": queue.due,
        "count_is_capped": queue.is_capped,
        "links": _of_queue_links(queue.name),
        "since": rfc3339(now - timedelta(seconds=oldest)),
    }
    if not queue.due:
        return
    if queue.pause is not None:
        yield Finding(
            kind=FindingKind.QUEUE_PAUSED,
            severity=Severity.WARNING,
            sentence=f"{waiting} due in the queue {queue.name}, which {queue.pause.by} has paused: "
            f"{short(queue.pause.reason)}.",
            what_to_do="Resume the queue when the reason is gone.",
            **(about | {"since": rfc3339(queue.pause.since)}),
        )
    elif has_workers and not queue.live_workers:
        yield Finding(
            kind=FindingKind.QUEUE_WITHOUT_WORKER,
            severity=Severity.CRITICAL,
            sentence=f"{waiting} due in the queue {queue.name}, and no live worker serves it.",
            what_to_do="Start a worker that knows the job types of the queue.",
            **about,
        )
    elif has_workers and oldest > queue.target_seconds:
        is_very_late = oldest > VERY_LATE_TIMES * queue.target_seconds
        yield Finding(
            kind=FindingKind.QUEUE_LATE,
            severity=Severity.CRITICAL if is_very_late else Severity.WARNING,
            sentence=f"The first job of the queue {queue.name} has waited for {duration(oldest)}, longer than its "
            f"target of {duration(queue.target_seconds)}. {waiting} due.",
            what_to_do="Look what the workers run; add workers if all of them are busy.",
            **about,
        )


def _of_queue_links(name: str) -> dict[str, str]:
    quoted = quote(name, safe="")
    return {"queue": f"/queues/{quoted}", "jobs": f"/jobs?status=pending&queue={quoted}", "workers": "/workers"}


def _of_server(away: Away) -> Finding:
    is_capped = away.jobs >= MOST_COUNTED
    return Finding(
        kind=FindingKind.SERVER_UNAVAILABLE,
        severity=Severity.WARNING,
        sentence=f"{_jobs(away.jobs, is_capped, verb=('waits', 'wait'))} for the server {away.name}, "
        f"which is unavailable: {short(away.error)}.",
        what_to_do="Look at the server, and at the way to it. The jobs run by themselves when it is back.",
        since=rfc3339(away.since),
        count=away.jobs,
        count_is_capped=is_capped,
        server=away.name,
        job_id=away.job_id,
        links={"job": f"/jobs/{away.job_id}", "explanation": f"/jobs/{away.job_id}/explain"},
    )


def _of_held(held: Held) -> Finding:
    are_held = _jobs(held.jobs, is_capped=False, of=held.type, verb=("is held", "are held"))
    return Finding(
        kind=FindingKind.JOBS_HELD,
        severity=Severity.WARNING,
        sentence=f"{are_held}: it is unknown whether the effect happened, and on_ambiguous is hold.",
        what_to_do="Find out whether the effect happened. Run those jobs again for which it did not.",
        since=rfc3339(held.since),
        count=held.jobs,
        group_id=held.group_id,
        job_id=held.job_id,
        links=_group_links(held.group_id, held.job_id),
    )


def _of_group(now: datetime, group: Failing, many_dead_letters: int) -> Iterator[Finding]:
    """Yield the finding about a group that has failed again, is new, or grows."""
    is_capped = group.jobs >= MOST_COUNTED
    counted = partial(_jobs, noun="dead letter", of=group.type)
    if group.resolved_at is not None:
        kind, since = FindingKind.FAILURES_RETURNED, group.resolved_at
        what = f"{counted(group.jobs, is_capped, verb=('has', 'have'))} an error that was said to be resolved"
    elif now - group.first_seen <= timedelta(seconds=NEW_SECONDS):
        kind, since = FindingKind.FAILURES_NEW, group.first_seen
        what = f"{counted(group.jobs, is_capped, verb=('has', 'have'))} a new error"
    elif group.last_hour >= max(GROWING_JOBS, GROWING_TIMES * group.hour_before):
        kind, since = FindingKind.FAILURES_GROWING, group.first_seen
        hour = counted(group.last_hour, group.last_hour >= MOST_COUNTED, verb=("", ""))
        what = f"{hour} in the last hour, after {group.hour_before:,} in the hour before, have the same error"
    else:
        return
    yield Finding(
        kind=kind,
        severity=Severity.CRITICAL if group.last_hour > many_dead_letters else Severity.WARNING,
        sentence=f"{what}, {group.error_class}: {short(group.pattern)}.",
        what_to_do="Correct the cause, then redrive the group; or resolve or ignore it.",
        since=rfc3339(since),
        count=group.jobs,
        count_is_capped=is_capped,
        group_id=group.group_id,
        job_id=group.job_id,
        links=_group_links(group.group_id, group.job_id),
    )


def _group_links(group_id: UUID, job_id: UUID) -> dict[str, str]:
    return {
        "group": f"/dead-letters/groups/{group_id}",
        "dead_letters": f"/dead-letters?group={group_id}",
        "job": f"/jobs/{job_id}",
    }


def _jobs(
    number: int, is_capped: bool, *, noun: str = "job", of: str = "", verb: tuple[str, str] = ("is", "are")
) -> str:
    """Return the begin of a sentence: "1 job is", or "At least 10,000 jobs are". `of` names their type."""
    more = "At least " if is_capped else ""
    counted = f"{more}{count(number, noun)}{f' of {of}' if of else ''}"
    return f"{counted} {verb[number != 1]}".strip()
