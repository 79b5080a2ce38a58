"""Lists of jobs: every combination of filters, newest first, a page at a time, at a cost that does not grow.

A page begins after a place: an id, which no job ever changes. So a job is at most once in all pages of a list, and only
if it matched when its page was read; one that matches from the first page's request to the last one's is exactly once.

Each statement walks down one index that some filters have, for a limited number of entries, and tests the other filters
on the rows. After `SCANNED_JOBS` the page ends, with as many jobs as were found; the place tells where to go on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from jobs_service.database.connection import Database
from jobs_service.jobs import queries, search
from jobs_service.jobs.job_types import DEFAULT_QUEUE
from jobs_service.jobs.lifecycle import Status
from jobs_service.jobs.queries import Job

#: Index entries that are read for one page, and by one statement, where filters are tested on the rows.
SCANNED_JOBS, SCANNED_AT_ONCE = 10_000, 1_000

#: Blocks of the text search whose jobs are read by one statement; and those that it looks at for them, before it asks
#: the index which blocks have the words.
BLOCKS_AT_ONCE, WALKED_BLOCKS = SCANNED_AT_ONCE // search.BLOCK_JOBS, 256

#: How much of a page is read at once: a job may be as large as a request body.
_AT_ONCE = 20
_BYTES_AT_ONCE = 4 * 2**20

#: An id is made before its row is written: earlier by at most the time that a request may take, and later only by as
#: much as the clocks differ that PostgreSQL's time is estimated with.
_ID_EARLIER, _ID_LATER = timedelta(minutes=15), timedelta(seconds=1)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Before and after every id.
FIRST, LAST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which jobs a list has: those that match all that is given."""

    status: Status | None = None
    type: str | None = None
    queue: str | None = None
    tag: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    attempts_min: int | None = None
    #: As `search.words_of` returns them.
    words: Sequence[str] = ()
    #: Types that are left out unless `type` names them. There must be few jobs of them.
    hidden: Sequence[str] = ()

    def before(self, place: UUID | None) -> UUID:
        """Return the id that all ids of the list are less than, from a place on."""
        newest = LAST if self.created_before is None else _least_id(self.created_before - _EPOCH + _ID_LATER)
        return newest if place is None else min(newest, place)

    @property
    def floor(self) -> UUID:
        """An id that no id of the list is less than."""
        return FIRST if self.created_after is None else _least_id(self.created_after - _EPOCH - _ID_EARLIER)


def _least_id(age: timedelta) -> UUID:
    """Return the least id that a job can have which was submitted so long after the year 1970 began."""
    milliseconds = age // timedelta(milliseconds=1)
    return UUID(int=min(max(milliseconds, 0), 2**48 - 1) << 80)


class Page(NamedTuple):
    """What one statement found."""

    jobs: list[Job]
    #: The exclusive place where the list goes on. None: at its end.
    place: UUID | None
    #: How many index entries were read.
    scanned: int


def newest_jobs(
    database: Database, filters: Filters, *, before: UUID | None, limit: int
) -> Iterator[tuple[Job | None, UUID | None]]:
    """Yield up to `limit` jobs, newest first, each with the place after it; only jobs before the place `before`.

    Last comes None with the place where the list goes on; without a place it has ended. The jobs are read while the
    caller iterates: a few, then as many at a time as fit into memory if they are as large as those.
    """
    place: UUID | None = before
    at_once, left = _AT_ONCE, SCANNED_JOBS
    while limit > 0 and left > 0:
        page = _read_page(database, filters, before=place, limit=min(limit, at_once))
        yield from ((job, job.id) for job in page.jobs)
        place = page.place
        if place is None:
            break
        limit -= len(page.jobs)
        left -= page.scanned
        at_once = _fitting(page.jobs)
    yield None, place


class Count(NamedTuple):
    """How many jobs a list has."""

    jobs: int
    #: Whether there are more, or may be.
    is_capped: bool


def count_jobs(database: Database, filters: Filters, *, most: int) -> Count:
    """Count the jobs of a list up to `most`, with no more reads than a page has."""
    place: UUID | None = None
    found, left = 0, SCANNED_JOBS
    while left > 0:
        jobs, scanned, place = _count_some(database, filters, before=place, limit=most + 1 - found)
        found += jobs
        left -= scanned
        if place is None or found > most:
            break
    return Count(min(found, most), found > most or place is not None)


def _fitting(jobs: Sequence[Job]) -> int:
    """Return how many jobs to read at once if they are as large as these."""
    return max(_AT_ONCE, len(jobs) * _BYTES_AT_ONCE // max(1, sum(map(queries.bytes_of, jobs))))


def _read_page(database: Database, filters: Filters, *, before: UUID | None, limit: int) -> Page:
    source = _source(filters)
    tests = list(_tests(filters, source))
    chunk = SCANNED_AT_ONCE if tests else limit
    names = _names(filters, before) | {"chunk": chunk, "limit": limit}
    rows = database.rows(_statement(source, tests), names)
    scanned, goes_on_before, goes_on_with, *_ = rows[0]
    jobs = [queries.job_of(row[3:]) for row in rows if row[3] is not None]
    if len(jobs) == limit:
        # More may match among those that were scanned.
        return Page(jobs, jobs[-1].id, scanned)
    return Page(jobs, goes_on_before or _following(goes_on_with), scanned)


def _count_some(
    database: Database, filters: Filters, *, before: UUID | None, limit: int
) -> tuple[int, int, UUID | None]:
    """Return how many jobs one statement found, how many index entries it read, and the place where it goes on."""
    source = _source(filters)
    tests = list(_tests(filters, source))
    names = _names(filters, before) | {"chunk": SCANNED_AT_ONCE if tests else limit, "limit": limit}
    statement = f"{_page_of(source, tests)}\nSELECT (SELECT count(*) FROM page), {_progress_of(source)}"
    found, scanned, goes_on_before, goes_on_with = database.rows(statement, names)[0]
    return found, scanned, goes_on_before or _following(goes_on_with)


def _following(inclusive: UUID | None) -> UUID | None:
    return None if inclusive is None else UUID(int=inclusive.int + 1)


def _names(filters: Filters, before: UUID | None) -> dict[str, Any]:
    return {
        **{name: getattr(filters, name) for name in ("status", "type", "queue", "tag", "attempts_min")},
        # As times since 1970: PostgreSQL takes fewer time zones than RFC 3339 has.
        "after": filters.created_after and filters.created_after - _EPOCH,
        "until": filters.created_before and filters.created_before - _EPOCH,
        "words": list(filters.words),
        "tsquery": search.tsquery(filters.words),
        "hidden": list(filters.hidden),
        "before": filters.before(before),
        "floor": filters.floor,
        "blocks": BLOCKS_AT_ONCE,
        "walked_blocks": WALKED_BLOCKS,
        "statuses": [filters.status] if filters.status else list(Status),
    }


class Source(NamedTuple):
    """An index that is walked down: a query for ids, and the filters that it has."""

    sql: str
    has: frozenset[str]


# Each of these asks for an order that only the index made for it has. Asked for `id DESC`, PostgreSQL may by its
# statistics prefer the primary key, and walk over a million newer jobs of another kind. And each has one bound only:
# between two bounds PostgreSQL may expect few entries, and read and sort them all. What lies behind the end is left out
# of the entries that were read.

_SHOWN = "type <> ALL(%(hidden)s::text[])"


def _walk(columns: str, walked: str, inside: str) -> str:
    return f"""SELECT id FROM (
    SELECT {columns} FROM {walked} LIMIT %(chunk)s
  ) AS walked WHERE id >= %(floor)s AND {inside}"""


_OF_ALL = Source(
    _walk("id", f"jobs WHERE id < %(before)s AND {_SHOWN} ORDER BY id DESC", "TRUE"), frozenset({"hidden"})
)

_OF_STATUS = Source(
    _walk(
        "status, id",
        f"jobs WHERE (status, id) < (%(status)s, %(before)s) AND {_SHOWN} ORDER BY status DESC, id DESC",
        "status = %(status)s",
    ),
    frozenset({"status", "hidden"}),
)

# The newest of each status, then the newest of those.
_OF_TYPE = Source(
    _walk(
        "found.id",
        """unnest(%(statuses)s::text[]) AS state
    CROSS JOIN LATERAL (
      SELECT id FROM jobs WHERE type = %(type)s AND status = state AND id < %(before)s
      ORDER BY id DESC NULLS LAST LIMIT %(chunk)s
    ) AS found
    ORDER BY id DESC""",
        "TRUE",
    ),
    frozenset({"type", "status", "hidden"}),
)

_OF_QUEUE = Source(
    _walk(
        "id",
        f"""jobs WHERE queue = %(queue)s AND queue <> '{DEFAULT_QUEUE}' AND id < %(before)s AND {_SHOWN}
    ORDER BY id DESC NULLS LAST""",
        "TRUE",
    ),
    frozenset({"queue", "hidden"}),
)

_TRIED_AGAIN = Source(
    _walk("id", f"jobs WHERE attempts > 1 AND id < %(before)s AND {_SHOWN} ORDER BY id DESC NULLS LAST", "TRUE"),
    frozenset({"hidden"}),
)

# A canary has no tag.
_OF_TAG = Source(
    _walk(
        "tag, job_id AS id",
        "job_tags WHERE (tag, job_id) < (%(tag)s, %(before)s) ORDER BY tag DESC, job_id DESC",
        "tag = %(tag)s",
    ),
    frozenset({"tag", "hidden"}),
)

# Blocks only say where to look.
_OF_WORDS = Source("", frozenset())


def _source(filters: Filters) -> Source:
    """Return the index to walk down: that of the filter which usually leaves the fewest jobs."""
    is_unfinished_or_dead = filters.status not in (None, Status.COMPLETED)
    if filters.words:
        return _OF_WORDS
    if filters.tag is not None:
        return _OF_TAG
    if filters.queue not in (None, DEFAULT_QUEUE) and not is_unfinished_or_dead:
        return _OF_QUEUE
    if (filters.attempts_min or 0) > 1 and not is_unfinished_or_dead:
        return _TRIED_AGAIN
    if filters.type is not None:
        return _OF_TYPE
    return _OF_ALL if filters.status is None else _OF_STATUS


_TESTS: Mapping[str, str] = {
    "status": "status = %(status)s",
    "type": "type = %(type)s",
    "queue": "queue = %(queue)s",
    "tag": "%(tag)s = ANY(tags)",
    "created_after": "created_at >= timestamp '1970-01-01' + %(after)s",
    "created_before": "created_at < timestamp '1970-01-01' + %(until)s",
    "attempts_min": "attempts >= %(attempts_min)s",
    "words": search.MATCHES,
    "hidden": _SHOWN,
}


def _tests(filters: Filters, source: Source) -> Iterator[str]:
    """Yield the conditions for the filters that the source does not have."""
    for name, condition in _TESTS.items():
        value = getattr(filters, name)
        # 0 is a filter that every job passes.
        if value and name not in source.has and not (name == "hidden" and filters.type):
            yield condition


def _statement(source: Source, tests: Sequence[str]) -> str:
    """Return the statement for one page.

    It is one, so that the place where the list goes on is of the moment of its jobs. Rows are looked up by arrays of
    ids: a join could, by wrong statistics, read the whole table.
    """
    return f"""{_page_of(source, tests)}
SELECT {_progress_of(source)}, {queries.COLUMNS}
FROM (SELECT) AS one LEFT JOIN jobs ON jobs.id = ANY(ARRAY(SELECT id FROM page))
ORDER BY jobs.id DESC"""


def _page_of(source: Source, tests: Sequence[str]) -> str:
    """Return the beginning of a statement, in which `page` has the ids of the jobs that match."""
    scanned = search.SCANNED if source is _OF_WORDS else f"\nscanned AS MATERIALIZED ({source.sql})"
    matching = " AND ".join(f"({test})" for test in tests)
    page = f"""SELECT id FROM jobs
  WHERE id = ANY(ARRAY(SELECT id FROM scanned)) AND {matching} ORDER BY id DESC LIMIT %(limit)s"""
    return f"""WITH {scanned},
page AS MATERIALIZED ({page if tests else "SELECT id FROM scanned"})"""


def _progress_of(source: Source) -> str:
    """Return the columns with the number of index entries that were read, and the place where the list goes on."""
    goes_on_with = search.GOES_ON_WITH if source is _OF_WORDS else "NULL::uuid"
    return f"(SELECT count(*) FROM scanned), {search.GOES_ON_BEFORE}, {goes_on_with}"
