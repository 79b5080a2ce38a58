"""Requests and answers of the API, without a network: the part that is the same for both clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import msgspec

from jobs_service.client import errors

#: Seconds in which a connection is opened.
CONNECT_SECONDS = 5.0

#: Seconds in which the API answers what it does not let wait.
ANSWER_SECONDS = 30.0

# Numbers as numbers: a payload has its digits.
_ENCODER = msgspec.json.Encoder(decimal_format="number")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """A request. One that `may_repeat` is sent again when its answer does not arrive."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    may_repeat: bool = True
    #: The job that it is about, for error messages.
    job_id: str | None = None
    #: Seconds to wait for the answer.
    seconds: float = ANSWER_SECONDS


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is not an error."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def decode(self, form: type[T]) -> T:
        """Return the JSON of the answer as a `form`."""
        return msgspec.json.decode(self.content, type=form)


def get(path: str, *, job_id: object = None, seconds: float = ANSWER_SECONDS, **query: object) -> Request:
    """Return a GET request. Parameters that are None are left out."""
    return Request("GET", path, _given(query), job_id=_text(job_id), seconds=seconds)


def post(
    path: str, body: object = None, *, job_id: object = None, key: str | None = None, may_repeat: bool = True
) -> Request:
    """Return a POST request with a JSON body. `key` is its idempotency key."""
    content = b"" if body is None else encoded(body)
    headers = {"Content-Type": "application/json"} if content else {}
    if key is not None:
        headers["Idempotency-Key"] = f'"{key}"'
    return Request("POST", path, content=content, headers=headers, may_repeat=may_repeat, job_id=_text(job_id))


def encoded(value: object) -> bytes:
    """Return JSON. Structs of msgspec, dataclasses, dates, UUIDs and decimals have one."""
    return _ENCODER.encode(value)


def new_key() -> str:
    """Return an idempotency key that no other request has."""
    return str(uuid4())


def http_request(client: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    """Return the request as httpx sends it."""
    return client.build_request(
        request.method,
        request.path,
        params=request.query,
        content=request.content,
        headers=request.headers,
        timeout=httpx.Timeout(request.seconds, connect=CONNECT_SECONDS),
    )


def error_of(
    request: Request, status: int, headers: Mapping[str, str], content: bytes, *, is_repeated: bool
) -> errors.ApiError:
    """Return the error that an answer of 400 or more means. `is_repeated`: the request had been sent before."""
    problem = {"detail": f"HTTP status {status}", **_problem(content), "status": status}
    return problem_error(
        problem,
        request_id=headers.get("x-request-id"),
        job_id=request.job_id,
        retry_after=_seconds(headers.get("retry-after")),
        was_repeated=is_repeated,
    )


def problem_error(problem: Mapping[str, Any], **facts: Any) -> errors.ApiError:  # noqa: ANN401 - those of `ApiError`
    """Return the error that a problem document means."""
    code, status = str(problem.get("code", "")), problem["status"]
    found = [errors.FieldError(item["pointer"], item["detail"]) for item in problem.get("errors", [])]
    return errors.class_of(code, status)(problem["detail"], code=code, status=status, errors=found, **facts)


def _problem(content: bytes) -> dict[str, Any]:
    """Return a problem document; {} for what a proxy may have answered instead."""
    try:
        problem = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _seconds(retry_after: str | None) -> float | None:
    # The API sends seconds; a proxy may send a date, which is then ignored.
    return float(retry_after) if retry_after and retry_after.isdecimal() else None


def _given(query: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _text(job_id: object) -> str | None:
    return None if job_id is None else str(job_id)
