"""When a request is sent again, and after which pause."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from jobs_service.client.errors import ApiError, IdempotencyKeyInFlight, Unavailable
from jobs_service.client.requests import Request

#: Seconds during which a request is sent again and again.
BUDGET_SECONDS = 60.0

#: Pauses between two tries: they double from the first to the longest, plus a random part up to the last.
_PAUSES = {"wait_initial": 0.1, "wait_max": 5.0, "wait_jitter": 0.5}

#: The server has not received such a request.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

#: The service refused it before it did anything.
_NOT_BEGUN = frozenset({"too_busy", "rate_limited", "queue_full"})

#: Statuses after which the same request may succeed; 502 and 504 are those of proxies.
_TEMPORARY = frozenset({429, 502, 503, 504})


def limits(budget_seconds: float) -> dict[str, Any]:
    """Return stamina's limits and pauses. With no budget at all, a request is sent once."""
    return {"attempts": None if budget_seconds else 1, "timeout": budget_seconds or None, **_PAUSES}


def policy(request: Request, budget_seconds: float) -> Callable[[Exception], bool | float]:
    """Return what tells stamina whether to send a request again after an error: no, yes, or in so many seconds."""

    def decide(error: Exception) -> bool | float:
        if isinstance(error, ApiError):
            return _after_refusal(error, request, budget_seconds)
        return isinstance(error, httpx.TransportError) and (request.may_repeat or isinstance(error, _NOT_SENT))

    return decide


def _after_refusal(error: ApiError, request: Request, budget_seconds: float) -> bool | float:
    is_temporary = error.status in _TEMPORARY or isinstance(error, IdempotencyKeyInFlight)
    if not is_temporary or not (request.may_repeat or error.code in _NOT_BEGUN):
        return False
    if error.retry_after is None:
        return True
    return error.retry_after <= budget_seconds and error.retry_after


@contextmanager
def reachable(request: Request) -> Iterator[None]:
    """Raise `Unavailable` where the last try had no answer."""
    try:
        yield
    except httpx.TransportError as error:
        what = str(error) or type(error).__name__
        raise Unavailable(f"the API gives no answer: {what}", code="unreachable", job_id=request.job_id) from error
