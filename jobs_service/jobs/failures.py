"""What is kept of an exception, and exceptions that stand for what was raised in another process."""

import traceback
from dataclasses import replace

from jobs_service.errors import InvalidRequest, JobsError, OutcomeUnknown, Rejected, Unavailable
from jobs_service.jobs.lifecycle import Failure

#: Bounds of what a failed attempt leaves on the row, in characters.
MESSAGE_KEPT = 1_000
TRACEBACK_KEPT = 4_000


class IsolatedFailure(JobsError):
    """Raised in an attempt's own process: this is what was kept of it there."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class IsolatedRejection(IsolatedFailure, Rejected):
    """It was a `Rejected`."""


class IsolatedRefusal(IsolatedFailure, InvalidRequest):
    """It was an `InvalidRequest`."""


class IsolatedDoubt(IsolatedFailure, OutcomeUnknown):
    """It was an `OutcomeUnknown`."""


class ProcessLost(JobsError):
    """An attempt's own process ended without a word."""


class ProcessBroken(JobsError):
    """The process in which the attempt ran can open no file any more. Whose fault that is cannot be told from here."""


def failure_of(exception: BaseException, seconds: float, *, is_ambiguous: bool = False) -> Failure:
    """Return what is kept of an exception: bounded, and free of what PostgreSQL's text cannot hold."""
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
    """Return the end of the traceback. Where a server is away it tells nothing, and the history may hold many."""
    if isinstance(exception, Unavailable):
        return ""
    return storable("".join(traceback.format_exception(exception, limit=-10)), TRACEBACK_KEPT)


def storable(text: str, kept: int) -> str:
    """Keep the end of a traceback and the whole of most messages; NUL and lone surrogates have no place in UTF-8."""
    clean = text.replace("\0", "").encode("utf-8", "replace").decode()
    return clean if len(clean) <= kept else "…" + clean[-kept:]


def _text(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception:  # noqa: BLE001 - job code's own __str__, which may do anything
        return ""
