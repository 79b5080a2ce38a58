"""The client of the REST API: `Client`, and `AsyncClient` with the same methods. docs/client.md shows how to use it.

It imports nothing of the service.
"""

from jobs_service.client.aio import AsyncClient, AsyncJobIterator, AsyncOutput
from jobs_service.client.client import Client, JobIterator, Output
from jobs_service.client.errors import ApiError, FieldError, JobNotCompleted, WaitTimeout
from jobs_service.client.fake import FakeApi, fake, fake_async
from jobs_service.client.models import BatchResult, Event, Job, Status, Submitted

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJobIterator",
    "AsyncOutput",
    "BatchResult",
    "Client",
    "Event",
    "FakeApi",
    "FieldError",
    "Job",
    "JobIterator",
    "JobNotCompleted",
    "Output",
    "Status",
    "Submitted",
    "WaitTimeout",
    "fake",
    "fake_async",
]
