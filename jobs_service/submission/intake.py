"""Hands new jobs from the event loop to one thread, which writes together all that have gathered.

The loop's side appends a call and never waits. At the end of the loop's turn, what has gathered goes to the thread as
one batch; while the thread is busy, further calls gather for the next one. So a single job waits for no others, and
there is no timer. The thread sends back one callback for each batch. Only `_carry_out` and what it calls run in the
thread; everything else belongs to the loop, so nothing here takes a lock.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

from structlog.stdlib import get_logger

from jobs_service.errors import DatabaseUnavailable, TooBusy
from jobs_service.jobs.idempotency import KeptAnswer
from jobs_service.jobs.lifecycle import NewJob
from jobs_service.observability import logs
from jobs_service.submission.writer import JobWriter, Written

log = get_logger(module=__name__)

#: What one statement may write at most: jobs, and bytes of their payloads unless a single job has more.
BATCH_JOBS = 256
BATCH_BYTES = 4 * 2**20

#: What may wait or be written at a time in this process: jobs, and bytes of their payloads. A single job is always let
#: in, however large: MAX_BODY_BYTES limits that.
MOST_JOBS = 2_048
MOST_BYTES = 64 * 2**20


@dataclass(eq=False, slots=True)
class _Call:
    """A coroutine that waits for the thread. One without a job asks for PostgreSQL's time."""

    job: NewJob | None
    #: Bytes of the payload.
    size: int
    future: asyncio.Future[Any]
    #: The caller's: its request's log fields and trace.
    context: Context


_Batch = list[_Call]
_Outcomes = list[Any]


class Intake:
    """Writes the jobs of one event loop. Its thread starts with the first call, in the process that makes it."""

    _waiting: deque[_Call]
    #: What the thread has in hand. It gets the next batch when this one is done.
    _batch: _Batch
    #: Whether `_hand_over` is going to be called.
    _is_scheduled: bool
    #: How many calls wait or are in hand, and the bytes of their payloads.
    _calls: int
    _bytes: int

    def __init__(self, writer: JobWriter, announce: Callable[[NewJob, Written], None]) -> None:
        """`announce` is called on the loop for each job that was written, in the context of the call.

        It is called before the call returns, and also when the caller was cancelled meanwhile.
        """
        self._writer = writer
        self._announce = announce
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = Thread()
        self._inbox: SimpleQueue[_Batch | None] = SimpleQueue()
        self._is_closed = False
        #: Set when no call waits any more.
        self._emptied = asyncio.Event()
        self._forget()

    async def now(self, size: int) -> float:
        """Return PostgreSQL's time, in Unix seconds, for a job whose payload has `size` bytes.

        It nearly always follows from earlier answers; if not, the thread asks. Raises `TooBusy` and
        `DatabaseUnavailable`.
        """
        if (seconds := self._writer.time.estimate()) is None:
            answered: float = await self._call(None, size)
            # Read again, one caller after the other: times that the thread read at once may be equal.
            seconds = self._writer.time.estimate() or answered
        return seconds

    async def write(self, job: NewJob, size: int) -> Written | KeptAnswer:
        """Commit the job and publish it if it is due. Its payload has `size` bytes.

        Return the earlier answer instead if the job has an Idempotency-Key that was sent before.

        A caller that is cancelled meanwhile does not take the job back. Raises `TooBusy` when too many jobs wait,
        `DatabaseUnavailable` when the job was not confirmed, and what PostgreSQL refuses about this job.
        """
        written: Written | KeptAnswer = await self._call(job, size)
        return written

    def open(self) -> None:
        """Take calls, also after `close`: the loop may have begun anew."""
        if self._is_closed:
            # The previous thread may not have ended yet.
            self._is_closed, self._thread = False, Thread()

    async def close(self, *, seconds: float) -> None:
        """Write what waits, for at most `seconds`, and end the thread. Later calls raise `DatabaseUnavailable`."""
        self._is_closed = True
        if self._calls:
            self._emptied.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)
        self._fail([*self._batch, *self._waiting], "this process has stopped")
        self._forget()
        self._inbox.put(None)

    def _call(self, job: NewJob | None, size: int) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        self._begin(loop)
        self._check_room(size)
        call = _Call(job, size, loop.create_future(), copy_context())
        self._waiting.append(call)
        self._calls += 1
        self._bytes += size
        self._schedule()
        return call.future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare for a call from this loop: it may be the first, or the thread may have ended meanwhile."""
        if loop is not self._loop:
            self._forget()
            self._loop = loop
        elif self._batch and not self._thread.is_alive():
            batch, self._batch = self._batch, []
            self._fail(batch, "the thread that writes jobs has ended; another is started")

    def _check_room(self, size: int) -> None:
        if self._is_closed:
            raise DatabaseUnavailable("this process is stopping")
        # While one batch finds out whether PostgreSQL is back, others need not wait for that.
        if reason := self._writer.database.refusal():
            raise DatabaseUnavailable(reason)
        if self._calls >= MOST_JOBS or (self._calls and self._bytes + size > MOST_BYTES):
            raise TooBusy(f"{self._calls} jobs with {self._bytes} bytes of payloads wait to be written")

    def _schedule(self) -> None:
        """Hand over at the end of this turn of the loop, when all that are ready have made their calls."""
        if not self._batch and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._is_scheduled = False
        if self._batch or not self._waiting:
            return
        self._batch = self._next_batch()
        if not self._thread.is_alive() and (error := self._start()):
            batch, self._batch = self._batch, []
            self._fail(batch, error)
            self._schedule_further()
        else:
            self._inbox.put(self._batch)

    def _next_batch(self) -> _Batch:
        batch, size = [self._waiting.popleft()], 0
        while self._waiting and len(batch) < BATCH_JOBS:
            size += batch[-1].size
            if size + self._waiting[0].size > BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _start(self) -> str:
        """Start the thread. Return "", or why it cannot be started."""
        self._inbox = SimpleQueue()
        self._thread = Thread(target=self._run, args=(self._inbox,), name="intake", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            return f"the thread that writes jobs cannot be started: {error}"
        return ""

    def _run(self, inbox: "SimpleQueue[_Batch | None]") -> None:
        # The batch is a variable of `_carry_out` only, so that an idle thread keeps no payloads.
        while self._carry_out(inbox.get()):
            pass

    def _carry_out(self, batch: _Batch | None) -> bool:
        if batch is None:
            return False
        outcomes = self._outcomes(batch)
        # The loop may be closed: then no call waits any more.
        with suppress(RuntimeError):
            batch[0].future.get_loop().call_soon_threadsafe(self._resolve, batch, outcomes)
        return True

    def _outcomes(self, batch: _Batch) -> _Outcomes:
        try:
            # Statements and commands that calls share are in the trace of the first call.
            return batch[0].context.run(self._write, batch)
        except BaseException as error:  # without this thread no job could be submitted
            log.critical("Jobs not written: their thread was interrupted", exc_info=error)
            interrupted = DatabaseUnavailable(f"the thread that writes jobs was interrupted: {type(error).__name__}")
            return [interrupted] * len(batch)

    def _write(self, batch: _Batch) -> _Outcomes:
        written = iter(self._writer.write([call.job for call in batch if call.job is not None]))
        # After the jobs: their statement may have told the time.
        return [next(written) if call.job is not None else self._time() for call in batch]

    def _time(self) -> float | Exception:
        try:
            return self._writer.time.now()
        except Exception as error:  # noqa: BLE001 - it is raised to the caller
            return error

    def _resolve(self, batch: _Batch, outcomes: _Outcomes) -> None:
        """Give each call its outcome. Those of a batch that was given up have theirs already."""
        if batch is not self._batch:
            return
        self._batch = []
        with logs.batched():
            for call, outcome in zip(batch, outcomes, strict=True):
                self._settle(call, outcome)
        self._schedule_further()

    def _schedule_further(self) -> None:
        if self._waiting:
            # At the end of the next turn: those that were just answered may be back with their next job by then.
            self._schedule()
        else:
            self._emptied.set()

    def _settle(self, call: _Call, outcome: Any) -> None:  # noqa: ANN401 - Written, a time or an error
        self._calls -= 1
        self._bytes -= call.size
        if call.job is not None and isinstance(outcome, Written):
            call.context.run(self._announce, call.job, outcome)
        if call.future.done():
            return  # the client has gone away
        if isinstance(outcome, Exception):
            call.future.set_exception(outcome)
        else:
            call.future.set_result(outcome)

    def _fail(self, calls: _Batch, reason: str) -> None:
        for call in calls:
            self._settle(call, DatabaseUnavailable(reason))

    def _forget(self) -> None:
        """Begin without calls: there were none, or their loop or this intake has ended."""
        self._waiting = deque()
        self._batch = []
        self._is_scheduled = False
        self._calls = self._bytes = 0
