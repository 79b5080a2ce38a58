"""The asynchronous client. Its methods do what those of `Client` do, under the same names."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, suppress
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


class AsyncClient:
    """Talks to the REST API. Keeps connections until `close`, or the end of its `async with` block."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        budget_seconds: float = retries.BUDGET_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take what `Client` takes."""
        target = Target.of(url, key, os.environ)
        self.url = target.url
        self._budget_seconds = budget_seconds
        self._http = httpx.AsyncClient(base_url=target.url, headers=target.headers, transport=transport)

    async def submit(self, job_type: str, payload: object, **options: Unpack[Options]) -> Submitted:
        """Submit a job, like `Client.submit`."""
        return await self._do(operations.submit(job_type, payload, options))

    async def submit_many(self, jobs: Iterable[T]) -> AsyncIterator[BatchResult[T]]:
        """Submit many jobs, and yield what became of each, like `Client.submit_many`."""
        for piece in operations.pieces(jobs):
            for result in await self._do(operations.submit_piece(piece)):
                yield result

    async def run(
        self,
        job_type: str,
        payload: object,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as `Client` has it
        **options: Unpack[Options],
    ) -> Job:
        """Submit a job and return it when it is completed, like `Client.run`."""
        return await self._do(operations.run(job_type, payload, options, timeout))

    async def get(self, job: JobId) -> Job:
        """Read a job, like `Client.get`."""
        return await self._do(operations.find(job))

    async def wait(self, job: JobId, *, timeout: float | None = None) -> Job:  # noqa: ASYNC109 - as `Client` has it
        """Return the job when it has ended, like `Client.wait`."""
        return await self._do(operations.wait(job, timeout))

    async def wait_all(self, jobs: Iterable[JobId], *, timeout: float | None = None) -> list[Job]:  # noqa: ASYNC109
        """Return the jobs when all have ended, like `Client.wait_all`."""
        left = operations.countdown(timeout)
        return [await self.wait(job, timeout=left()) for job in jobs]

    def iter_jobs(
        self, *, cursor: str | None = None, limit: int = 100, **filters: Unpack[Filters]
    ) -> "AsyncJobIterator":
        """Iterate over the jobs that match, like `Client.iter_jobs`."""
        return AsyncJobIterator(self, filters, cursor, limit)

    async def stream(
        self,
        job: JobId | None = None,
        *,
        type: str | None = None,  # noqa: A002 - the API's name
        queue: str | None = None,
        status: str | None = None,
        last_event_id: str | None = None,
    ) -> AsyncIterator[Event]:
        """Yield what happens to a job, or to all jobs that match, like `Client.stream`."""
        feed = operations.feed(job, {"type": type, "queue": queue, "status": status}, last_event_id)
        while not feed.is_over:
            async for event in self._connection(feed):
                yield event
            if not feed.is_over:
                await asyncio.sleep(feed.pause_seconds)

    async def output(self, job: JobId) -> "AsyncOutput":
        """Return the job's file as a stream, like `Client.output`."""
        return AsyncOutput(await self._open(operations.output(job)))

    async def download(self, job: JobId, to: str | os.PathLike[str]) -> Path:
        """Write the job's file to a path, like `Client.download`."""
        request = operations.output(job)
        async with _closing(await self._open(request)) as response:
            path = target_of(to, OutputFacts(response.headers))
        with Download(request, path) as download:
            await self._receive(download)
            return download.finish()

    async def cancel(self, job: JobId, *, reason: str | None = None) -> Submitted:
        """Cancel a job that has not ended, like `Client.cancel`."""
        return await self._do(operations.cancel(job, reason))

    async def retry(self, job: JobId, **changes: object) -> Submitted:
        """Run a finished job again, like `Client.retry`."""
        return await self._do(operations.retry_edited(job, changes) if changes else operations.retry(job))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _do(self, steps: Steps[T]) -> T:
        """Carry out the steps of an operation, and return its result."""
        try:
            request = next(steps)
            while True:
                try:
                    reply = await self._send(request)
                except ApiError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _send(self, request: Request) -> Reply:
        with retries.reachable(request):
            async for attempt in self._attempts(request):
                with attempt:
                    async with _closing(await self._once(request, is_repeated=attempt.num > 1)) as response:
                        return Reply(response.status_code, response.headers, await response.aread())
        raise AssertionError  # stamina raises the last error

    async def _open(self, request: Request) -> httpx.Response:
        """Return an answer whose body is still to be read."""
        with retries.reachable(request):
            async for attempt in self._attempts(request):
                with attempt:
                    return await self._once(request, is_repeated=attempt.num > 1)
        raise AssertionError  # as above

    def _attempts(self, request: Request) -> Any:  # noqa: ANN401 - stamina names no type
        on = retries.policy(request, self._budget_seconds)
        return stamina.retry_context(on, **retries.limits(self._budget_seconds))

    async def _once(self, request: Request, *, is_repeated: bool) -> httpx.Response:
        response = await self._http.send(http_request(self._http, request), stream=True)
        if response.status_code < httpx.codes.BAD_REQUEST:
            return response
        async with _closing(response):
            content = await response.aread()
        raise error_of(request, response.status_code, response.headers, content, is_repeated=is_repeated)

    async def _connection(self, feed: Feed) -> AsyncIterator[Event]:
        async with _closing(await self._open(feed.request)) as response:
            feed.connected(response.status_code)
            with suppress(httpx.TransportError):
                async for data in response.aiter_bytes():
                    for event in feed.take(data):
                        yield event
                    if feed.is_over:
                        return

    async def _receive(self, download: Download) -> None:
        with retries.reachable(download.request):
            async for attempt in self._attempts(download.request):
                with attempt:
                    async with _closing(await self._once(download.request, is_repeated=False)) as response:
                        download.begin(response.status_code, response.headers)
                        async for data in response.aiter_bytes():
                            await asyncio.to_thread(download.take, data)


class AsyncJobIterator(AsyncIterator[Job]):
    """Jobs that match, newest first, like `JobIterator`."""

    def __init__(self, client: AsyncClient, filters: Filters, cursor: str | None, limit: int) -> None:
        #: The place of the page that the last job is on: pass it to `iter_jobs` to go on there, from its first job.
        self.cursor = cursor
        self._client = client
        self._filters = filters
        self._limit = limit
        self._jobs: list[Job] = []
        self._next: str | None = cursor
        self._is_last = False

    async def __anext__(self) -> Job:
        while not self._jobs:
            if self._is_last:
                raise StopAsyncIteration
            await self._read()
        return self._jobs.pop()

    async def _read(self) -> None:
        self.cursor = self._next
        page = await self._client._do(operations.page(self._filters, self._next, self._limit))  # noqa: SLF001 - its own
        self._jobs, self._next, self._is_last = page.jobs[::-1], page.next_cursor, page.next_cursor is None


class AsyncOutput(OutputFacts):
    """The file of a job, like `Output`."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.headers)
        self._response = response
        self._source = response.aiter_bytes()
        self._pieces = Pieces()

    async def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end; all that are left, if `size` is negative."""
        while not self._pieces.has(size):
            piece = await anext(self._source, None)
            if piece is None:
                break
            self._pieces.add(piece)
        return self._pieces.take(size)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes in pieces as they come."""
        yield self._pieces.take(-1)
        async for piece in self._source:
            yield piece

    async def close(self) -> None:
        """Close the stream."""
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _closing(response: httpx.Response) -> Any:  # noqa: ANN401 - contextlib's type needs an `aclose` that returns it
    return aclosing(response)
