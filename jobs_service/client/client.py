"""The synchronous client."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import stamina
from typing_extensions import Unpack

from jobs_service.client import operations, retries
from jobs_service.client.errors import ApiError
from jobs_service.client.events import Feed
from jobs_service.client.models import BatchResult, Event, Job, Submitted
from jobs_service.client.operations import Filters, JobId, Options, Steps
from jobs_service.client.outputs import Download, OutputFacts, Pieces, target_of
from jobs_service.client.requests import Reply, Request, error_of, http_request
from jobs_service.client.settings import Target

T = TypeVar("T")


class Client:
    """Talks to the REST API. Thread-safe; keeps connections until `close`, or the end of its `with` block."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        budget_seconds: float = retries.BUDGET_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url` and `key` are by default what JOBS_URL and JOBS_KEY say, and the former http://localhost:3000.

        A request that may succeed later is sent again for `budget_seconds`. `transport` is httpx's, for tests.
        """
        target = Target.of(url, key, os.environ)
        self.url = target.url
        self._budget_seconds = budget_seconds
        self._http = httpx.Client(base_url=target.url, headers=target.headers, transport=transport)

    def submit(self, job_type: str, payload: object, **options: Unpack[Options]) -> Submitted:
        """Submit a job. When this returns, the job is committed. Raises `ApiError`."""
        return self._do(operations.submit(job_type, payload, options))

    def submit_many(self, jobs: Iterable[T]) -> Iterator[BatchResult[T]]:
        """Submit many jobs, and yield what became of each, in their order. An invalid job does not stop the others.

        A job is what `POST /jobs` takes: a mapping or a struct with `type`, `payload` and options. The iterable is
        read as the results are, a few thousand jobs at a time. Raises `ApiError` where a whole request is refused.
        """
        for piece in operations.pieces(jobs):
            yield from self._do(operations.submit_piece(piece))

    def run(self, job_type: str, payload: object, *, timeout: float | None = None, **options: Unpack[Options]) -> Job:
        """Submit a job and return it when it is completed. Its `result` is what its code returned.

        Raises `JobNotCompleted`, `WaitTimeout` after `timeout` seconds, and `ApiError`.
        """
        return self._do(operations.run(job_type, payload, options, timeout))

    def get(self, job: JobId) -> Job:
        """Read a job. Raises `JobNotFound` and other `ApiError`s."""
        return self._do(operations.find(job))

    def wait(self, job: JobId, *, timeout: float | None = None) -> Job:
        """Return the job when it has ended, however it ended. Raises `WaitTimeout` and `ApiError`."""
        return self._do(operations.wait(job, timeout))

    def wait_all(self, jobs: Iterable[JobId], *, timeout: float | None = None) -> list[Job]:
        """Return the jobs, in the given order, when all have ended. Raises `WaitTimeout` and `ApiError`."""
        left = operations.countdown(timeout)
        return [self.wait(job, timeout=left()) for job in jobs]

    def iter_jobs(self, *, cursor: str | None = None, limit: int = 100, **filters: Unpack[Filters]) -> "JobIterator":
        """Iterate over the jobs that match, newest first. `limit` is how many are read at a time."""
        return JobIterator(self, filters, cursor, limit)

    def stream(
        self,
        job: JobId | None = None,
        *,
        type: str | None = None,  # noqa: A002 - the API's name
        queue: str | None = None,
        status: str | None = None,
        last_event_id: str | None = None,
    ) -> Iterator[Event]:
        """Yield what happens to a job until it has ended, or to all jobs that match, without end.

        After a lost connection the stream goes on behind the last event: none is missed, none comes twice. To go on
        later, pass the `id` of the last event. Raises `ApiError`, also when the API cannot be reached for
        `budget_seconds`.
        """
        feed = operations.feed(job, {"type": type, "queue": queue, "status": status}, last_event_id)
        while not feed.is_over:
            yield from self._connection(feed)
            if not feed.is_over:
                time.sleep(feed.pause_seconds)

    def output(self, job: JobId) -> "Output":
        """Return the job's file as a stream, to be closed by the end of a `with` block.

        Raises `NotFinished`, `OutputNotFound` and other `ApiError`s.
        """
        return Output(self._open(operations.output(job)))

    def download(self, job: JobId, to: str | os.PathLike[str]) -> Path:
        """Write the job's file to a path, or into a folder, and return where it is. After a lost connection it goes on.

        The path has the whole file or is as it was. Raises `OSError` and what `output` raises.
        """
        request = operations.output(job)
        with closing(self._open(request)) as response:
            path = target_of(to, OutputFacts(response.headers))
        with Download(request, path) as download:
            self._receive(download)
            return download.finish()

    def cancel(self, job: JobId, *, reason: str | None = None) -> Submitted:
        """Cancel a job that has not ended. Raises `WrongStatus` for one that has, and other `ApiError`s."""
        return self._do(operations.cancel(job, reason))

    def retry(self, job: JobId, **changes: object) -> Submitted:
        """Run a finished job again. With `changes`, such as another payload, it is a new job that names this one."""
        return self._do(operations.retry_edited(job, changes) if changes else operations.retry(job))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, steps: Steps[T]) -> T:
        """Carry out the steps of an operation, and return its result."""
        try:
            request = next(steps)
            while True:
                try:
                    reply = self._send(request)
                except ApiError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _send(self, request: Request) -> Reply:
        for attempt in self._attempts(request):
            with attempt, closing(self._once(request, is_repeated=attempt.num > 1)) as response:
                return Reply(response.status_code, response.headers, response.read())
        raise AssertionError  # stamina raises the last error

    def _open(self, request: Request) -> httpx.Response:
        """Return an answer whose body is still to be read."""
        for attempt in self._attempts(request):
            with attempt:
                return self._once(request, is_repeated=attempt.num > 1)
        raise AssertionError  # as above

    def _attempts(self, request: Request) -> Iterator[Any]:
        """Yield stamina's attempts. Raises `Unavailable` when the last one had no answer."""
        on = retries.policy(request, self._budget_seconds)
        with retries.reachable(request):
            yield from stamina.retry_context(on, **retries.limits(self._budget_seconds))

    def _once(self, request: Request, *, is_repeated: bool) -> httpx.Response:
        response = self._http.send(http_request(self._http, request), stream=True)
        if response.status_code < httpx.codes.BAD_REQUEST:
            return response
        with closing(response):
            content = response.read()
        raise error_of(request, response.status_code, response.headers, content, is_repeated=is_repeated)

    def _connection(self, feed: Feed) -> Iterator[Event]:
        with closing(self._open(feed.request)) as response, suppress(httpx.TransportError):
            feed.connected(response.status_code)
            for data in response.iter_bytes():
                yield from feed.take(data)
                if feed.is_over:
                    return

    def _receive(self, download: Download) -> None:
        for attempt in self._attempts(download.request):
            with attempt, closing(self._once(download.request, is_repeated=False)) as response:
                download.begin(response.status_code, response.headers)
                for data in response.iter_bytes():
                    download.take(data)


class JobIterator(Iterator[Job]):
    """Jobs that match, newest first, read a page at a time. A job that matches all the time comes once."""

    def __init__(self, client: Client, filters: Filters, cursor: str | None, limit: int) -> None:
        #: The place of the page that the last job is on: pass it to `iter_jobs` to go on there, from its first job.
        self.cursor = cursor
        self._client = client
        self._filters = filters
        self._limit = limit
        self._jobs: list[Job] = []
        self._next: str | None = cursor
        self._is_last = False

    def __next__(self) -> Job:
        # A page may be empty, and not be the last one.
        while not self._jobs:
            if self._is_last:
                raise StopIteration
            self._read()
        return self._jobs.pop()

    def _read(self) -> None:
        self.cursor = self._next
        page = self._client._do(operations.page(self._filters, self._next, self._limit))  # noqa: SLF001 - its own
        self._jobs, self._next, self._is_last = page.jobs[::-1], page.next_cursor, page.next_cursor is None


class Output(OutputFacts):
    """The file of a job, to be read like a binary file. Raises httpx's errors when the connection is lost."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.headers)
        self._response = response
        self._source = response.iter_bytes()
        self._pieces = Pieces()

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end; all that are left, if `size` is negative."""
        while not self._pieces.has(size):
            piece = next(self._source, None)
            if piece is None:
                break
            self._pieces.add(piece)
        return self._pieces.take(size)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes in pieces as they come."""
        yield self._pieces.take(-1)
        yield from self._source

    def close(self) -> None:
        """Close the stream."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
