"""What the API refuses, as exceptions: one class for each `code` of a problem document (RFC 9457)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class FieldError(NamedTuple):
    """What is wrong with one field of a request."""

    #: JSON Pointer (RFC 6901) of a field of the body, or the name of a query parameter.
    pointer: str
    detail: str


class ApiError(Exception):
    """The API refused a request, or does not answer. Subclasses say why."""

    def __init__(
        self,
        detail: str,
        *,
        code: str = "",
        status: int | None = None,
        errors: Sequence[FieldError] = (),
        request_id: str | None = None,
        job_id: str | None = None,
        retry_after: float | None = None,
        was_repeated: bool = False,
    ) -> None:
        """`retry_after`: after how many seconds the API wants to be asked again.

        `was_repeated`: the request had been sent before, so that an earlier one may have been carried out.
        """
        self.detail = detail
        self.code = code
        self.status = status
        self.errors = tuple(errors)
        self.request_id = request_id
        self.job_id = job_id
        self.retry_after = retry_after
        self.was_repeated = was_repeated
        super().__init__(detail)

    def __str__(self) -> str:
        facts = [f"{name} {value}" for name, value in (("job", self.job_id), ("request", self.request_id)) if value]
        text = f"{self.code}: {self.detail}" if self.code else self.detail
        return f"{text} ({', '.join(facts)})" if facts else text


class Unavailable(ApiError):
    """The API does not answer, or cannot at present. A request with an idempotency key can be sent again."""


class InvalidRequest(ApiError):
    """A field or a parameter is wrong: `errors` names it."""


class AccessDenied(ApiError):
    """The key is missing, unknown, expired, or may not do this."""


class NotFound(ApiError):
    """There is no such thing."""


class Conflict(ApiError):
    """The state of the thing does not allow this."""


class PreconditionFailed(ApiError):
    """It is not any more what the request says that it is; nothing was changed."""


class LimitReached(ApiError):
    """Too many requests, or too many jobs wait: try again later."""


class JobNotFound(NotFound):
    """There is no job with this id."""


class JobTypeNotFound(NotFound):
    """There is no job type with this name."""


class QueueNotFound(NotFound):
    """No job type has this queue."""


class OutputNotFound(NotFound):
    """The job has no such file, or not any more."""


class WrongStatus(Conflict):
    """The job's status does not allow this."""


class NotFinished(Conflict):
    """The job has no output yet."""


class IdempotencyKeyInFlight(Conflict):
    """A request with this idempotency key is being carried out."""


class IdempotencyKeyReused(InvalidRequest):
    """The idempotency key was sent before with another request."""


class RateLimited(LimitReached):
    """The caller sends too many requests."""


class QueueFull(LimitReached):
    """The queue has as many waiting jobs as it may have."""


class WaitTimeout(TimeoutError):
    """A job has not ended in time. It goes on."""

    def __init__(self, job_id: object, seconds: float) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} has not ended within {seconds:g} s; it goes on")


class JobNotCompleted(Exception):
    """A job that was to be run has failed or was cancelled. `job` is the job."""

    def __init__(self, job: Any) -> None:  # noqa: ANN401 - `models` imports nothing of here, and shall not
        self.job = job
        reason = job.error or job.cancel_reason or job.end_reason or "no reason given"
        super().__init__(f"job {job.job_id} {job.status}: {reason}")


#: The class of each code that has one of its own; others have that of their status.
BY_CODE: Mapping[str, type[ApiError]] = {
    "job_not_found": JobNotFound,
    "job_type_not_found": JobTypeNotFound,
    "queue_not_found": QueueNotFound,
    "output_not_found": OutputNotFound,
    "output_gone": OutputNotFound,
    "wrong_status": WrongStatus,
    "not_finished": NotFinished,
    "idempotency_key_in_flight": IdempotencyKeyInFlight,
    "idempotency_key_reused": IdempotencyKeyReused,
    "rate_limited": RateLimited,
    "queue_full": QueueFull,
}

_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    412: PreconditionFailed,
    428: PreconditionFailed,
    429: LimitReached,
}


def class_of(code: str, status: int) -> type[ApiError]:
    """Return the class of an error with this code and HTTP status."""
    if found := BY_CODE.get(code) or _BY_STATUS.get(status):
        return found
    return Unavailable if status >= 500 else InvalidRequest  # noqa: PLR2004 - RFC 9110, section 15.6
