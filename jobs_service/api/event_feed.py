"""Tells the clients of an API process what happens to jobs: one reader for all of them, in the event loop.

It reads only while somebody watches. No client holds a thread, and PostgreSQL is asked the same however many there are.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar
from uuid import UUID

from structlog.stdlib import get_logger

from jobs_service import descriptors
from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.errors import PostgresError, TooBusy
from jobs_service.jobs import event_log
from jobs_service.jobs.event_log import Gap, JobEvent, JobState, Page, Position, Snapshot, Tokens
from jobs_service.jobs.lifecycle import TERMINAL
from jobs_service.metrics.catalogue import EVENT_READERS_DROPPED

log = get_logger(module=__name__)

#: The time from the begin of one look for events to the next.
INTERVAL_SECONDS = 0.05
#: The pause after a look that failed.
PAUSE_SECONDS = 0.25

#: The clients that may watch in one process: streams, and requests that wait for their job. Fewer where the system does
#: not allow so many open files: those that other connections and everything else need are left.
MAX_WATCHERS = 8_000
OTHER_FILES = 768
#: The clients whose jobs are looked up by one statement.
JOINS_AT_ONCE = 500
#: How many clients are told an event before other tasks of the event loop have their turn.
TOLD_AT_ONCE = 200
#: The statements for missed events that wait for the thread that sends them.
MISSED_AT_ONCE = 8

#: What may wait for a client that reads slowly. A client with more is dropped, and resumes when it reads again.
MAX_UNREAD_BYTES = 262_144


class Filter(NamedTuple):
    """The jobs that a client asks for. None: all; of the types, all that are not hidden."""

    type: str | None = None
    queue: str | None = None
    status: str | None = None

    def matches(self, event: JobEvent, hidden: Collection[str]) -> bool:
        return (
            (event.type not in hidden if self.type is None else event.type == self.type)
            and self.queue in (None, event.queue)
            and self.status in (None, event.status)
        )


class Told:
    """An event that is told. Its block is made when the first client needs it, and for all of them."""

    def __init__(self, event: JobEvent, tokens: Tokens) -> None:
        self.event = event
        self._tokens = tokens

    @cached_property
    def block(self) -> bytes:
        return event_block(self.event, self._tokens.at(self.event.place))


class Watcher(Protocol):
    """A client of the feed. All methods are called in the event loop."""

    #: The snapshot from which on it is told; None until it has joined.
    since: Snapshot | None
    #: The job that it asks for; None: all that match `filter`.
    job_id: str | None
    filter: Filter

    def take(self, told: "Told") -> None:
        """Take an event that the client asked for."""

    def reset(self, gap: Gap, event_id: str) -> None:
        """Note that events may be missing between the last one and the next."""

    def end(self) -> None:
        """Note that the process stops: there are no more events."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The moment from which on a watcher is told."""

    position: Position
    #: The state of its job at that moment; None where there is no such job, or it watches all.
    state: JobState | None


class Waiter:
    """A request that waits until its job has ended."""

    filter = Filter()

    def __init__(self, job_id: str) -> None:
        self.since: Snapshot | None = None
        self.job_id: str | None = job_id
        self.has_ended = asyncio.Event()

    def take(self, told: "Told") -> None:
        if told.event.status in TERMINAL:
            self.has_ended.set()

    def reset(self, gap: Gap, event_id: str) -> None:  # noqa: ARG002 - as declared
        # Its end may be among what is missing. The answer is read from the row.
        self.has_ended.set()

    def end(self) -> None:
        self.has_ended.set()


class Stream:
    """A client that is sent events. Its blocks wait here, up to `MAX_UNREAD_BYTES`, until its connection takes them."""

    def __init__(self, job_id: str | None, filter_: Filter) -> None:
        self.since: Snapshot | None = None
        self.job_id = job_id
        self.filter = filter_
        #: What the client has not been sent.
        self.blocks: deque[bytes] = deque()
        #: Whether there are no more events: the job has ended, the process stops, or the client reads too slowly.
        self.is_over = False
        #: Whether it ended because the client reads too slowly.
        self.was_dropped = False
        self._bytes = 0
        self._changed = asyncio.Event()

    def take(self, told: "Told") -> None:
        if not self.is_over:
            self._add(told.block)
            self.is_over = self.is_over or (self.job_id is not None and told.event.status in TERMINAL)

    def reset(self, gap: Gap, event_id: str) -> None:
        if not self.is_over:
            self._add(reset_block(gap, event_id))
            # Its job's end may be among what is missing: the client asks anew.
            self.is_over = self.is_over or self.job_id is not None

    def end(self) -> None:
        self.is_over = True
        self._changed.set()

    async def next(self, seconds: float) -> list[bytes]:
        """Return what waits, or wait up to so many seconds for something. Empty: nothing came."""
        if not self.blocks and not self.is_over:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
        blocks, self._bytes = list(self.blocks), 0
        self.blocks.clear()
        return blocks

    def _add(self, block: bytes) -> None:
        self._bytes += len(block)
        self.blocks.append(block)
        if self._bytes > MAX_UNREAD_BYTES:
            # The id of the last event that was sent is where the client resumes.
            EVENT_READERS_DROPPED.labels().inc()
            self.blocks.clear()
            self.is_over = self.was_dropped = True
        self._changed.set()


def event_block(event: JobEvent, event_id: str) -> bytes:
    """Return an event as a block of `text/event-stream`."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (event.name.encode(), event_id.encode(), event.data())


def reset_block(gap: Gap, event_id: str) -> bytes:
    return b'event: reset\nid: %b\ndata: {"reason":"%b"}\n\n' % (event_id.encode(), gap.encode())


def state_block(joined: Joined) -> bytes:
    """Return a job's state as a block: `state` has the fields of an event."""
    if joined.state is None:
        return id_block(joined.position)
    return b"event: state\nid: %b\ndata: %b\n\n" % (joined.position.token().encode(), joined.state.data())


def id_block(position: Position) -> bytes:
    """Return a block without an event: a client that resumes goes on from here."""
    return b"id: %b\n\n" % position.token().encode()


class EventFeed:
    """Reads the events of all jobs while there are watchers, and tells each of them those that it asked for."""

    def __init__(self, database: Database, *, hidden: Collection[str] = ()) -> None:
        """The events of `hidden` types are told only to clients that name the type, or the job."""
        self.database = database
        self.most = max(1, min(MAX_WATCHERS, descriptors.allowed() - OTHER_FILES))
        self.hidden = frozenset(hidden)
        self._threads = Threads(1)
        #: Apart from the reader's, so that a client which has missed much holds up no other.
        self._missed_threads = Threads(1)
        self._missed_places = asyncio.Semaphore(MISSED_AT_ONCE)
        self._position: Position | None = None
        self._of_jobs: dict[str, set[Watcher]] = {}
        #: By what they ask for: most of them ask for the same.
        self._of_filters: dict[Filter, set[Watcher]] = {}
        self._count = 0
        self._joining: deque[tuple[Watcher, asyncio.Future[Joined]]] = deque()
        self._joined = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._is_failing = False
        #: Whether the process stops: clients are sent elsewhere.
        self.is_over = False

    @asynccontextmanager
    async def place(self, watcher: Watcher) -> AsyncIterator[None]:
        """Keep a place for a watcher, which may join in the block."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._remove(watcher)

    def check_place(self) -> None:
        """Raise `TooBusy` if so many clients watch that another one must not."""
        if self._count >= self.most:
            raise TooBusy("too many clients watch jobs")

    @property
    def position(self) -> Position | None:
        """How far all watchers have been told; None before the first look."""
        return self._position

    async def state(self, job_id: UUID) -> JobState | None:
        """Return a job's state; None where there is no such job. Raises `DatabaseUnavailable`."""
        waiter = Waiter(str(job_id))
        async with self.place(waiter):
            return (await self.join(waiter)).state

    async def join(self, watcher: Watcher) -> Joined:
        """Tell a watcher what is committed from now on. Raises `DatabaseUnavailable`."""
        if self.is_over:
            watcher.end()
        joined: asyncio.Future[Joined] = asyncio.get_running_loop().create_future()
        self._joining.append((watcher, joined))
        self._joined.set()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_on())
        return await joined

    async def missed(self, position: Position, job_id: str | None) -> Page:
        """Return a page of what a client has missed. Raises `DatabaseUnavailable`."""
        async with self._missed_places:
            return await self._missed_threads.run(
                event_log.read, self.database, position, job_id=None if job_id is None else UUID(job_id)
            )

    def end(self) -> None:
        """End all streams, and have all that wait answered: the process stops."""
        self.is_over = True
        for watcher in [*self._all()]:
            watcher.end()
        for watcher, _ in self._joining:
            watcher.end()

    async def _read_on(self) -> None:
        try:
            while self._of_jobs or self._of_filters or self._joining:
                await self._look()
        finally:
            self._reading, self._position = None, None

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        self._joined.clear()
        joining = [self._joining.popleft() for _ in range(min(len(self._joining), JOINS_AT_ONCE))]
        wanted = {watcher.job_id for watcher, _ in joining if watcher.job_id is not None}
        try:
            page = await self._threads.run(event_log.read, self.database, self._position, wanted=sorted(wanted))
        except Exception as error:  # noqa: BLE001 - whatever it is, clients wait for the next look
            self._fail(joining, error)
            await asyncio.sleep(PAUSE_SECONDS)
            return
        self._is_failing = False
        await self._tell(page)
        self._position = page.position
        if page.is_full:
            # A watcher joins where the reader is: what it is told from then on is told to all.
            self._joining.extendleft(reversed(joining))
        else:
            self._admit(joining, page)
            await self._pause(begun_at + INTERVAL_SECONDS)

    async def _pause(self, until: float) -> None:
        """Wait for the next look, or for a watcher that joins."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._joined.wait()

    async def _tell(self, page: Page) -> None:
        """Tell the watchers a page. Connections take what they are told meanwhile, and other requests are answered."""
        if page.gap:
            for watcher in [*self._all()]:
                watcher.since = page.now
                watcher.reset(page.gap, page.position.token())
            return
        count = 0
        for event in page.events:
            told = Told(event, page.tokens)
            for watcher in self._asked(event):
                if watcher.since is not None and not watcher.since.sees(event.xact):
                    watcher.take(told)
                    count += 1
                    if count % TOLD_AT_ONCE == 0:
                        await asyncio.sleep(0)

    def _asked(self, event: JobEvent) -> list[Watcher]:
        """Return those who watch the job, or all jobs like it."""
        asked = [*self._of_jobs.get(event.job_id, ())]
        for filter_, watchers in self._of_filters.items():
            if filter_.matches(event, self.hidden):
                asked += watchers
        return asked

    def _admit(self, joining: Collection[tuple[Watcher, "asyncio.Future[Joined]"]], page: Page) -> None:
        for watcher, joined in joining:
            # Not one whose client has gone meanwhile.
            if not joined.done():
                watcher.since = page.now
                self._add(watcher)
                mark = page.position.mark
                joined.set_result(Joined(Position(mark, page.now), page.states.get(watcher.job_id or "")))

    def _fail(self, joining: Collection[tuple[Watcher, "asyncio.Future[Joined]"]], error: Exception) -> None:
        if not self._is_failing:
            if isinstance(error, PostgresError):
                log.warning("Events not read; clients wait", error=str(error).strip())
            else:
                log.error("Events not read; clients wait", exc_info=error)
        self._is_failing = True
        for _, joined in joining:
            if not joined.done():
                joined.set_exception(error)

    def _all(self) -> Iterator[Watcher]:
        for watchers in (*self._of_jobs.values(), *self._of_filters.values()):
            yield from watchers

    def _add(self, watcher: Watcher) -> None:
        if watcher.job_id is None:
            self._of_filters.setdefault(watcher.filter, set()).add(watcher)
        else:
            self._of_jobs.setdefault(watcher.job_id, set()).add(watcher)

    def _remove(self, watcher: Watcher) -> None:
        if watcher.job_id is None:
            _discard(self._of_filters, watcher.filter, watcher)
        else:
            _discard(self._of_jobs, watcher.job_id, watcher)


Key = TypeVar("Key")


def _discard(watchers: dict[Key, set[Watcher]], key: Key, watcher: Watcher) -> None:
    found = watchers.get(key, set())
    found.discard(watcher)
    if not found:
        watchers.pop(key, None)


class Wait:
    """Waits until jobs have ended, for the answers to `GET /jobs/{job_id}?wait=`."""

    #: The answers that are read at a time. Each needs a thread, and there are many where many jobs end together.
    READ_AT_ONCE = 64

    def __init__(self, feed: EventFeed) -> None:
        self.feed = feed
        self._places = asyncio.Semaphore(self.READ_AT_ONCE)

    @asynccontextmanager
    async def until_ended(self, job_id: UUID, seconds: float) -> AsyncIterator[float]:
        """Wait until the job has ended or does not exist, up to so many seconds. In the block its row may be read.

        Yields the seconds that it has waited. Raises `DatabaseUnavailable`, and `TooBusy` if too many clients watch
        jobs.
        """
        if not seconds:
            yield 0.0
            return
        started = time.perf_counter()
        await self._wait(Waiter(str(job_id)), seconds)
        waited = time.perf_counter() - started
        async with self._places:
            yield waited

    async def _wait(self, waiter: Waiter, seconds: float) -> None:
        self.feed.check_place()
        async with self.feed.place(waiter):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    joined = await self.feed.join(waiter)
                    if joined.state is not None and joined.state.status not in TERMINAL:
                        await waiter.has_ended.wait()
