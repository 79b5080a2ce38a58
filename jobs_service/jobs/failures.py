"""What is stored of an exception, and the exceptions that represent one raised in another process."""

import traceback
from dataclasses import replace

from jobs_service.errors import InvalidRequest, JobsError, OutcomeUnknown, Rejected, Unavailable
from jobs_service.jobs.lifecycle import Failure

#: Characters of an exception's text and of its traceback that are stored on the row.
MESSAGE_KEPT = 1_000
TRACEBACK_KEPT = 4_000


class IsolatedFailure(JobsError):
    """An exception that was raised in an attempt's own process, and what was kept of it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class IsolatedRejected(IsolatedFailure, Rejected):
    """`Rejected` was raised."""


class IsolatedInvalidRequest(IsolatedFailure, InvalidRequest):
    """`InvalidRequest` was raised."""


class IsolatedOutcomeUnknown(IsolatedFailure, OutcomeUnknown):
    """`OutcomeUnknown` was raised."""


class ProcessLost(JobsError):
    """An attempt's own process ended without reporting a result."""


class ProcessBroken(JobsError):
    """The process of the attempt can open no more files. Which job caused it is unknown."""


def failure_of(exception: BaseException, seconds: float, *, is_ambiguous: bool = False) -> Failure:
    """Return what is stored of an exception: limited in length, and without characters that PostgreSQL cannot store."""
    if isinstance(exception, IsolatedFailure):
        return replace(exception.failure, seconds=seconds, is_ambiguous=is_ambiguous)
    return Failure(
        error=type(exception).__name__,
        message=storable(_text(exception) or type(exception).__name__, MESSAGE_KEPT),
        traceback=_trace(exception),
        seconds=seconds,
        is_ambiguous=is_ambiguous,
    )


def _trace(exception: BaseException) -> str:
    """Return the end of the traceback, or "" for `Unavailable`, where it would only fill the history."""
    if isinstance(exception, Unavailable):
        return ""
    return storable("".join(traceback.format_exception(exception, limit=-10)), TRACEBACK_KEPT)


def storable(text: str, kept: int) -> str:
    """Return the last `kept` characters of a text, without NUL and lone surrogates, which PostgreSQL cannot store."""
    clean = text.replace("\0", "").encode("utf-8", "replace").decode()
    return clean if len(clean) <= kept else "…" + clean[-kept:]


def _text(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception:  # noqa: BLE001 - __str__ may be job code, and may raise anything
        return ""
