"""/events and /jobs/{job_id}/events: what happens to jobs, as Server-Sent Events."""

import asyncio
import random
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

import falcon
import msgspec
from falcon.asgi import Request, Response, SSEvent
from msgspec import Meta

from jobs_service.api.callers import Scope
from jobs_service.api.event_feed import (
    EventFeed,
    Filter,
    Stream,
    event_block,
    id_block,
    reset_block,
    state_block,
)
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources.database import PROBLEMS
from jobs_service.api.resources.jobs import not_found, parse_id
from jobs_service.errors import DatabaseUnavailable, InvalidRequest
from jobs_service.jobs.event_log import JobEvent, Page, Position
from jobs_service.jobs.job_types import Registry
from jobs_service.jobs.lifecycle import TERMINAL, Status
from jobs_service.metrics.catalogue import EVENT_STREAMS, EVENTS_SENT

#: A stream without events gets a comment this often: proxies keep it open, and a client that has gone is noticed.
HEARTBEAT_SECONDS = 15.0
#: The pause before PostgreSQL is asked again for what a client has missed.
PATIENCE_SECONDS = 1.0
#: When clients come back after the end of a stream. Not all at the same time.
RETRY_MS = (500, 1_500)

LAST_EVENT_ID = Header(
    "Last-Event-ID",
    "The `id` of the last event that was received: the stream goes on behind it. Browsers send it by themselves.",
    example="1d0c7a52_2f1",
)

_ACCEL_BUFFERING = Header("X-Accel-Buffering", "`no`: nginx passes events on at once.", example="no")

_EXAMPLE = (
    "event: completed\nid: 1d0c7a52_2f1_2f4_1b.0\n"
    'data: {"job_id":"0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41","type":"csv-generation","queue":"default",'
    '"status":"completed","attempt":1,"at":"2026-11-26T09:30:00.084Z"}\n\n'
)

_STREAM = Answer(
    "Events, until the client or the service closes the connection.",
    str,
    "text/event-stream",
    headers=(_ACCEL_BUFFERING,),
    example=_EXAMPLE,
)


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which events `GET /events` sends."""

    type: Annotated[str | None, Meta(description="Only jobs of this type, in any spelling.")] = None
    queue: Annotated[str | None, Meta(description="Only jobs of this queue.")] = None
    status: Annotated[Status | None, Meta(description="Only events that leave a job in this status.")] = None


class _EventResource:
    """What the two resources have in common."""

    def __init__(self, feed: EventFeed) -> None:
        self.feed = feed

    def send(self, resp: Response, stream: Stream, position: Position | None) -> None:
        """Answer with a stream that begins behind a position, or now."""
        # Without buffering, a proxy passes each event on.
        resp.set_header(_ACCEL_BUFFERING.name, "no")
        resp.content_type = "text/event-stream"
        resp.sse = Session(self.feed, stream, position).blocks()


class Events(_EventResource):
    """/events."""

    def __init__(self, feed: EventFeed, registry: Registry) -> None:
        super().__init__(feed)
        self.registry = registry

    @operation(
        id="stream_events",
        summary="Watch all jobs",
        description="Server-Sent Events. A stream that is resumed misses nothing and repeats nothing; if events were "
        "deleted meanwhile, it begins with an event `reset`.",
        tag="events",
        scope=Scope.JOBS_READ,
        query=EventsQuery,
        headers=(LAST_EVENT_ID,),
        answers={HTTPStatus.OK: _STREAM},
        problems=("too_busy",),
    )
    async def on_get(self, req: Request, resp: Response) -> None:
        query: EventsQuery = req.context.query
        position = _position(req)
        self.feed.check_place()
        self.send(resp, Stream(None, Filter(self._type(query.type), query.queue, query.status)), position)

    on_head = on_get

    def _type(self, name: str | None) -> str | None:
        if name is None:
            return None
        try:
            return self.registry.get(name).name
        except InvalidRequest as error:
            raise InvalidRequest(error.detail, pointer="type") from None


class JobEvents(_EventResource):
    """/jobs/{job_id}/events."""

    @operation(
        id="stream_job_events",
        summary="Watch a job",
        description="Server-Sent Events, until the job has ended. The first event, `state`, is the job's present "
        "state, unless the stream is resumed.",
        tag="events",
        scope=Scope.JOBS_READ,
        headers=(LAST_EVENT_ID,),
        answers={
            HTTPStatus.OK: _STREAM,
            HTTPStatus.NO_CONTENT: Answer("The job has ended, and the client has received that: do not connect again."),
        },
        problems=(*PROBLEMS, "job_not_found"),
    )
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        id_, position = parse_id(job_id), _position(req)
        self.feed.check_place()
        try:
            state = await self.feed.state(id_)
            if state is None:
                raise not_found(job_id)
            if position and state.status in TERMINAL and await self._has_all(position, id_):
                resp.status = falcon.HTTP_NO_CONTENT
                return
        except DatabaseUnavailable:
            # A browser takes an error for the end, and would not come back by itself.
            if position is None:
                raise
        self.send(resp, Stream(str(id_), Filter()), position)

    on_head = on_get

    async def _has_all(self, position: Position, job_id: UUID) -> bool:
        page = await self.feed.missed(position, str(job_id))
        return page.gap is None and not page.events


def _position(req: Request) -> Position | None:
    """Return where a client resumes. Raises `InvalidRequest` for an id that no event has."""
    token = req.get_header(LAST_EVENT_ID.name)
    if not token:
        return None
    try:
        return Position.of_token(token)
    except ValueError:
        raise InvalidRequest("expected the id of an event", pointer=LAST_EVENT_ID.name) from None


class Block(SSEvent):
    """Bytes of a stream. They are made once for all clients, and Falcon's own events are made for each."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw = raw

    def serialize(self, handler: object = None) -> bytes:  # noqa: ARG002 - as `SSEvent` has it
        return self.raw


class Session:
    """One answer: first what the client has missed, then what happens."""

    def __init__(self, feed: EventFeed, stream: Stream, position: Position | None) -> None:
        self.feed = feed
        self.stream = stream
        self.position = position
        #: Whether a client that watches a job is told its present state: it has nothing, or has missed something.
        self.needs_state = position is None

    async def blocks(self) -> AsyncIterator[Block]:
        """Yield blocks until the stream is over. Falcon stops asking for more when the client has gone."""
        EVENT_STREAMS.labels().inc()
        try:
            async with self.feed.place(self.stream):
                yield Block(b"retry: %d\n\n" % random.randint(*RETRY_MS))  # noqa: S311 - to spread them, no secret
                async for block in self._missed(until=None):
                    yield block
                async for block in self._joined():
                    yield block
                # Not behind what is missing: the client comes back for that.
                if not self._is_cut_short:
                    async for block in self._live():
                        yield block
        finally:
            EVENT_STREAMS.labels().dec()

    async def _missed(self, *, until: Position | None) -> AsyncIterator[Block]:
        """Yield what comes after the client's position, up to `until` or to what is committed when it is read."""
        while self.position is not None and self.position != until and not self._is_cut_short:
            behind = self.position
            if until is not None and behind.target is None:
                behind = Position(behind.mark, behind.seen, until.seen)
            try:
                page = await self.feed.missed(behind, self.stream.job_id)
            except DatabaseUnavailable:
                yield await self._patience()
                continue
            self.position = page.position
            if block := self._of_page(page):
                yield Block(block)
            self.needs_state = self.needs_state or page.gap is not None
            if until is None and not page.is_full:
                return

    def _of_page(self, page: Page) -> bytes:
        if page.gap:
            return reset_block(page.gap, page.position.token())
        asked = [event for event in page.events if self._asks_for(event)]
        EVENTS_SENT.labels().inc(len(asked))
        return b"".join(event_block(event, page.tokens.at(event.place)) for event in asked)

    def _asks_for(self, event: JobEvent) -> bool:
        return self.stream.job_id is not None or self.stream.filter.matches(event, self.feed.hidden)

    async def _joined(self) -> AsyncIterator[Block]:
        """Join the feed, and yield what is missing between the client's position and that moment."""
        while True:
            try:
                joined = await self.feed.join(self.stream)
                break
            except DatabaseUnavailable:
                yield await self._patience()
        async for block in self._missed(until=joined.position):
            yield block
        if self._is_cut_short:
            return
        # The id says where it begins, so that nothing is lost if the connection is lost before the first event.
        yield Block(state_block(joined) if self.needs_state and joined.state else id_block(joined.position))
        if self.stream.job_id and (joined.state is None or joined.state.status in TERMINAL):
            self.stream.end()

    async def _live(self) -> AsyncIterator[Block]:
        while True:
            blocks = await self.stream.next(HEARTBEAT_SECONDS)
            if blocks:
                EVENTS_SENT.labels().inc(len(blocks))
                yield Block(b"".join(blocks))
            elif self.stream.is_over:
                return
            else:
                yield self._heartbeat()

    @property
    def _is_cut_short(self) -> bool:
        """Whether the client has to come back for what it has missed: the process stops, or it reads too slowly."""
        return self.feed.is_over or self.stream.was_dropped

    async def _patience(self) -> Block:
        """Wait while PostgreSQL does not answer."""
        await asyncio.sleep(PATIENCE_SECONDS)
        return Block(b": the database does not answer\n\n")

    def _heartbeat(self) -> Block:
        position = self.feed.position
        # The id alone: a client that resumes later need not have the events between read again.
        return Block(b": heartbeat\n" + (id_block(position) if position else b"\n"))
