"""What the exit code of a command says, and what it prints for an error."""

from enum import IntEnum

from jobs_service.client.errors import (
    ApiError,
    Conflict,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    Unavailable,
    WaitTimeout,
)


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    JOB_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


#: The first class that an error belongs to says its code; a refusal of another kind is one of usage.
_OF_ERRORS: tuple[tuple[type[BaseException], Exit], ...] = (
    (NotFound, Exit.NOT_FOUND),
    (Conflict, Exit.CONFLICT),
    (PreconditionFailed, Exit.CONFLICT),
    (InvalidRequest, Exit.USAGE),
    (Unavailable, Exit.UNAVAILABLE),
    (ApiError, Exit.UNAVAILABLE),
    (WaitTimeout, Exit.UNAVAILABLE),
)


def code_of(error: BaseException) -> Exit | None:
    """Return the exit code for an error; None for one that is none of ours."""
    return next((code for kind, code in _OF_ERRORS if isinstance(error, kind)), None)


def sentence_of(error: BaseException, url: str) -> str:
    """Return what is printed for an error of ours, with what to do next where that is known."""
    match error:
        case ApiError(code="unreachable"):
            return f"{error.detail}. Is the API at {url}? Set --url or JOBS_URL"
        case ApiError(code="unauthenticated"):
            return f"{url} needs an API key: set JOBS_KEY, or add a context with one"
        case ApiError(errors=errors) if errors:
            return "\n".join(f"{item.pointer or 'the request'}: {item.detail}" for item in errors)
    return str(error)
