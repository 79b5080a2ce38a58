"""The pages of `GET /jobs`: their filters, and the cursors between them."""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request
from msgspec import Meta

from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest
from jobs_service.jobs import listing, representation, search
from jobs_service.jobs.job_types import MAX_NAME, Registry
from jobs_service.jobs.lifecycle import Status
from jobs_service.jobs.queries import Job

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
#: How far jobs are counted.
MAX_COUNT = 1_000
#: No further job is added to a page of this size.
PAGE_BYTES = 8 * 2**20

MAX_TAG_CHARACTERS = 64
MAX_ATTEMPTS_MIN = 1_000_000

Moment = Annotated[datetime, Meta(tz=True)]
#: PostgreSQL's texts have no NUL character.
STORABLE = r"^[^\x00]*$"


class JobFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The filters of lists of jobs, all of which a job has to match."""

    status: Status | None = None
    type: Annotated[str | None, Meta(description="A job type, in any spelling.")] = None
    queue: Annotated[
        Annotated[str, Meta(max_length=MAX_NAME, pattern=STORABLE)] | None, Meta(description="The name of a queue.")
    ] = None
    tag: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_TAG_CHARACTERS, pattern=STORABLE)] | None,
        Meta(description="One of the job's tags, exactly."),
    ] = None
    created_after: Annotated[Moment | None, Meta(description="Submitted at this time (RFC 3339) or later.")] = None
    created_before: Annotated[Moment | None, Meta(description="Submitted before this time (RFC 3339).")] = None
    attempts_min: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_ATTEMPTS_MIN)] | None, Meta(description="So many attempts or more.")
    ] = None
    q: Annotated[
        Annotated[str, Meta(min_length=1, max_length=search.MAX_CHARACTERS, pattern=STORABLE)] | None,
        Meta(description="Words in any order; case does not matter. Each begins a word of the payload or the error."),
    ] = None


class JobsQuery(JobFilters, frozen=True, forbid_unknown_fields=True):
    """The filters of `GET /jobs`, and the place in the list."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="How many jobs a page has at most.")] = DEFAULT_LIMIT
    cursor: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        Meta(description="The `next_cursor` of the previous page of the same list."),
    ] = None


class CountQuery(JobFilters, frozen=True, forbid_unknown_fields=True):
    """The filters of `GET /jobs/count`, and how far it counts."""

    limit: Annotated[int, Meta(ge=1, le=MAX_COUNT, description="Count to this number.")] = MAX_COUNT


class JobCount(msgspec.Struct, frozen=True):
    """How many jobs match the filters."""

    count: int
    is_capped: Annotated[bool, Meta(description="There are more, or there may be: so many were found.")]


class JobPage(msgspec.Struct, frozen=True):
    """A page of a list of jobs. It may have fewer jobs than `limit`, or none, and not be the last one."""

    jobs: list[representation.Job]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


class JobPages:
    """Reads the pages. Its methods ask PostgreSQL, so they run in a thread."""

    def __init__(self, database: Database, registry: Registry, *, has_search: bool) -> None:
        self.database = database
        self.registry = registry
        self.has_search = has_search

    def page(self, query: JobsQuery) -> tuple[bytes, str | None]:
        """Return a page as JSON, and the cursor of the next one."""
        # What is wrong with the request is said before anything is read.
        before, job_type = _place_in(query), self._type(query.type)
        found = listing.newest_jobs(self.database, self._filters(query, job_type), before=before, limit=query.limit + 1)
        page, place = _fill_page(found, query.limit)
        next_cursor = None if place is None else _cursor(query, place)
        return msgspec.json.encode({"jobs": page, "next_cursor": next_cursor}), next_cursor

    def count(self, query: CountQuery) -> bytes:
        """Return how many jobs match, as JSON."""
        filters = self._filters(query, self._type(query.type))
        return msgspec.json.encode(JobCount(*listing.count_jobs(self.database, filters, most=query.limit)))

    def _filters(self, query: JobFilters, job_type: str | None) -> listing.Filters:
        return listing.Filters(
            status=query.status,
            type=job_type,
            queue=query.queue,
            tag=query.tag,
            created_after=query.created_after,
            created_before=query.created_before,
            attempts_min=query.attempts_min,
            words=self._words(query.q),
            hidden=[canary.name for canary in self.registry.canaries],
        )

    def _type(self, name: str | None) -> str | None:
        if name is None:
            return None
        try:
            return self.registry.get(name).name
        except InvalidRequest as error:
            raise InvalidRequest(error.detail, pointer="type") from None

    def _words(self, query: str | None) -> list[str]:
        if query is None:
            return []
        if not self.has_search:
            raise InvalidRequest("this installation has no text search: SEARCH is off", pointer="q")
        return search.words_of(self.database, query)


def next_page(req: Request, cursor: str) -> str:
    """Return the path and the query of the next page."""
    # Not the path as it was sent: "//jobs" would be a link to a host named jobs.
    return f"{req.root_path}{req.uri_template}{falcon.to_query_str({**req.params, 'cursor': cursor})}"


def _fill_page(found: Iterable[tuple[Job | None, UUID | None]], limit: int) -> tuple[list[msgspec.Raw], UUID | None]:
    """Return the jobs that fit on a page, as JSON, and the place after them if there may be more."""
    page: list[msgspec.Raw] = []
    size, reached = 0, None
    for job, place in found:
        if job is None:
            return page, place
        if len(page) == limit or size >= PAGE_BYTES:
            break
        shown = msgspec.json.encode(job.representation())
        page.append(msgspec.Raw(shown))
        size += len(shown)
        reached = place
    return page, reached


def _place_in(query: JobsQuery) -> UUID | None:
    """Return the place of the query's cursor. Raises `InvalidRequest` for one of another list."""
    if query.cursor is None:
        return None
    try:
        cursor = base64.b64decode(query.cursor + "=" * (-len(query.cursor) % 4), b"-_", validate=True)
        place, digest = UUID(bytes=cursor[:16]), cursor[16:]
    except (ValueError, binascii.Error):
        raise InvalidRequest("expected the next_cursor of an earlier response", pointer="cursor") from None
    if len(digest) != _DIGEST_BYTES:
        raise InvalidRequest("expected the next_cursor of an earlier response", pointer="cursor")
    if digest != _digest(query):
        raise InvalidRequest("this cursor belongs to a list with other filters: start without it", pointer="cursor")
    return place


_DIGEST_BYTES = 8


def _cursor(query: JobsQuery, place: UUID) -> str:
    return base64.urlsafe_b64encode(place.bytes + _digest(query)).decode().rstrip("=")


def _digest(query: JobsQuery) -> bytes:
    """Return what the filters have in common with no others. The pages of one list may have different limits."""
    filters = msgspec.structs.replace(query, cursor=None, limit=DEFAULT_LIMIT)
    return hashlib.blake2b(msgspec.json.encode(filters), digest_size=_DIGEST_BYTES).digest()
