"""/dead-letters and /dead-letters/{job_id}."""

import base64
import binascii
import hashlib
import struct
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service import events
from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources.database import PROBLEMS, DatabaseResource
from jobs_service.api.resources.follow_up import FollowUp
from jobs_service.api.threads import Threads
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest, UnknownJobType
from jobs_service.jobs import dead_letters, lifecycle, queries
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.queries import rfc3339
from jobs_service.jobs.representation import Time

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

Moment = Annotated[datetime, Meta(tz=True)]


class DeadLetterFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which dead letters. Those that fulfil every condition."""

    type: Annotated[str | None, Meta(description="A job type, in any spelling.")] = None
    queue: str | None = None
    tag: Annotated[str | None, Meta(description="One of the job's tags, exactly.")] = None
    end_reason: lifecycle.EndReason | None = None
    group: Annotated[UUID | None, Meta(description="The id of a group of equal errors.")] = None
    created_after: Annotated[Moment | None, Meta(description="Submitted at this time or later.")] = None
    created_before: Annotated[Moment | None, Meta(description="Submitted before this time.")] = None
    finished_after: Annotated[Moment | None, Meta(description="Failed at this time or later.")] = None
    finished_before: Annotated[Moment | None, Meta(description="Failed before this time.")] = None


class DeadLettersQuery(DeadLetterFilter, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The filters of `GET /dead-letters`, and the place in the list."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="How many a page has at most.")] = DEFAULT_LIMIT
    cursor: Annotated[str | None, Meta(description="The `next_cursor` of the previous page.")] = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A job that failed. `GET /jobs/{job_id}` has the rest of it."""

    job_id: UUID
    type: str
    queue: str
    end_reason: lifecycle.EndReason
    error: str | None
    error_class: Annotated[str, Meta(description="The class of the last attempt's exception, or what ended the job.")]
    group_id: Annotated[UUID, Meta(description="Jobs whose errors differ in details only have the same.")]
    attempts: int
    created_at: Time
    finished_at: Time


class DeadLetterPage(msgspec.Struct, frozen=True):
    """A page of dead letters."""

    dead_letters: list[DeadLetter]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


EXAMPLE = {
    "job_id": "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41",
    "type": "csv-generation",
    "queue": "default",
    "end_reason": "attempts_exhausted",
    "error": 'cannot write "a.csv": no space left after 4711 bytes',
    "error_class": "OSError",
    "group_id": "8c1f2a6d-9be3-3f10-7c55-04d2a8f0e6b1",
    "attempts": 8,
    "created_at": "2026-11-26T09:30:00.000Z",
    "finished_at": "2026-11-26T10:02:11.084Z",
}
_LINK = Header("Link", "The next page, with `rel=next`; absent on the last one.")


def conditions(wanted: DeadLetterFilter, registry: Registry) -> dict[str, Any]:
    """Return the conditions that are set, with the type in its own spelling: a type that no job has is one too."""
    names = DeadLetterFilter.__struct_fields__
    chosen = {name: value for name in names if (value := getattr(wanted, name)) is not None}
    if "type" in chosen:
        chosen["type"] = own_spelling(chosen["type"], registry)
    return chosen


def own_spelling(job_type: str, registry: Registry) -> str:
    """Return the name of a type in its own spelling. Jobs of a type that does not exist any more may have failed."""
    with suppress(UnknownJobType):
        return registry.get(job_type).name
    return job_type


def shown(found: dead_letters.DeadLetter) -> DeadLetter:
    """Return a dead letter as the API shows it."""
    return DeadLetter(
        job_id=found.job_id,
        type=found.type,
        queue=found.queue,
        end_reason=lifecycle.EndReason(found.end_reason),
        error=found.error,
        error_class=found.error_class,
        group_id=found.group_id,
        attempts=found.attempts,
        created_at=rfc3339(found.created_at),
        finished_at=rfc3339(found.finished_at),
    )


class DeadLetterCollection(DatabaseResource):
    """/dead-letters."""

    def __init__(self, database: Database, threads: Threads, registry: Registry) -> None:
        super().__init__(database, threads)
        self.registry = registry

    @operation(
        id="list_dead_letters",
        summary="List dead letters, the last to fail first",
        description="A page may be shorter than `limit`, or empty, although others follow: `next_cursor` says so.",
        tag="dead letters",
        scope=Scope.JOBS_READ,
        query=DeadLettersQuery,
        answers={
            HTTPStatus.OK: Answer(
                "A page of dead letters.",
                DeadLetterPage,
                headers=(_LINK,),
                example={"dead_letters": [EXAMPLE], "next_cursor": None},
            )
        },
        problems=PROBLEMS,
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        query: DeadLettersQuery = req.context.query
        chosen = conditions(query, self.registry)
        before = decode_cursor(query.cursor, chosen) if query.cursor else None
        page = await self.run(self._page, chosen, query.limit, before)
        resp.data = msgspec.json.encode(page)
        if page.next_cursor:
            resp.append_link(next_page(req, page.next_cursor), "next")

    on_head = on_get

    def _page(self, chosen: dict[str, Any], limit: int, before: dead_letters.Place | None) -> DeadLetterPage:
        found, following = dead_letters.newest(self.database, chosen, limit=limit, before=before)
        return DeadLetterPage([shown(each) for each in found], encode_cursor(following, chosen) if following else None)


class DeadLetterItem(DatabaseResource):
    """/dead-letters/{job_id}."""

    def __init__(self, database: Database, threads: Threads, dead_letters_list: DeadLetterList) -> None:
        super().__init__(database, threads)
        self.dead_letters = dead_letters_list
        self.follow_up = FollowUp()

    @operation(
        id="discard_dead_letter",
        summary="Delete a failed job",
        description="The row is gone with the answer. Files that the job wrote follow within minutes.",
        tag="dead letters",
        scope=Scope.DEAD_LETTERS_WRITE,
        answers={HTTPStatus.NO_CONTENT: Answer("The job is deleted.")},
        problems=(*PROBLEMS, "dead_letter_not_found", "wrong_status"),
    )
    async def on_delete(self, req: Request, resp: Response, job_id: str) -> None:
        await self.run(self._discard, parse_job_id(job_id), req.context.caller.name)
        resp.status = falcon.HTTP_NO_CONTENT

    def _discard(self, job_id: UUID, by: str) -> None:
        lost_reply = lifecycle.LostReply()
        if not self.follow_up.call(lambda: self._is_discarded(job_id, by, lost_reply), lost_reply):
            raise self._refusal(job_id)

    def _is_discarded(self, job_id: UUID, by: str, lost_reply: lifecycle.LostReply) -> bool:
        discarded = lifecycle.discard(self.database, job_id, by=by, lost_reply=lost_reply)
        if discarded is None:
            return False
        self.dead_letters.remove(job_id)
        events.emit(events.JobDiscarded(**discarded.facts, by=by))
        return True

    def _refusal(self, job_id: UUID) -> falcon.HTTPError:
        job = queries.find_job(self.database, job_id)
        if job is None:
            return _not_found(str(job_id))
        description = f"The job has status {job.status}. Only a failed job can be discarded."
        return falcon.HTTPConflict(title="wrong_status", description=description)


def parse_job_id(text: str) -> UUID:
    """Return the id in a path. Raises 404 for a text that is not a UUID, because no job has such an id."""
    try:
        return UUID(text)
    except ValueError:
        raise _not_found(text) from None


def _not_found(job_id: str) -> falcon.HTTPNotFound:
    return falcon.HTTPNotFound(title="dead_letter_not_found", description=f"There is no dead letter {job_id[:64]}.")


# A date in microseconds, an id, and which filter it belongs to.
_CURSOR = struct.Struct(">q16s4s")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def encode_cursor(place: dead_letters.Place, chosen: dict[str, Any]) -> str:
    """Return the cursor of the page behind a place, for this filter only."""
    finished_at, job_id = place
    raw = _CURSOR.pack((finished_at - _EPOCH) // _MICROSECOND, job_id.bytes, _mark(chosen))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_cursor(cursor: str, chosen: dict[str, Any]) -> dead_letters.Place:
    """Return the place of a cursor. Raises `InvalidRequest` if it is none, or one of another filter."""
    try:
        microseconds, job_id, mark = _CURSOR.unpack(base64.b64decode(cursor + "==", b"-_", validate=True))
        place = _EPOCH + microseconds * _MICROSECOND, UUID(bytes=job_id)
    except (ValueError, OverflowError, struct.error, binascii.Error):
        raise InvalidRequest("expected the next_cursor of an earlier response", pointer="cursor") from None
    if mark != _mark(chosen):
        raise InvalidRequest("this cursor belongs to a list with other filters", pointer="cursor")
    return place


def _mark(chosen: dict[str, Any]) -> bytes:
    return hashlib.sha256(msgspec.json.encode(chosen, order="sorted")).digest()[:4]


def next_page(req: Request, cursor: str) -> str:
    """Return the reference of the next page of a list."""
    # Not the path as it was sent: "//jobs" would be a link to a host named jobs.
    return f"{req.root_path}{req.uri_template}{falcon.to_query_str({**req.params, 'cursor': cursor})}"
