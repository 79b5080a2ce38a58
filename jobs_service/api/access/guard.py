"""Middleware that finds out who sends a request, and refuses what the sender may not do, or does too often."""

import math
import time

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.access.exposure import may_be_open
from jobs_service.api.access.known_keys import FRESH_SECONDS, Keyring, KnownKey, KnownKeys
from jobs_service.api.access.rate_limits import Rate, RateLimits, tag_of_address
from jobs_service.api.callers import ANONYMOUS, Caller, Scope
from jobs_service.api.operations import operation_of
from jobs_service.config import Settings
from jobs_service.observability import logs

#: Methods that change nothing (RFC 9110, section 9.2.1).
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

#: RFC 6750, section 3: without a key the challenge has no error code.
_CHALLENGE = 'Bearer realm="jobs"'


class Guard:
    """Checks a request's API key, its scope and its caller's rate, before anything else of the request is looked at.

    While there is no key at all, and the service may be open, everyone may do everything. An operation without a scope
    is for everyone, and not limited.
    """

    def __init__(self, known_keys: KnownKeys, settings: Settings) -> None:
        self.known_keys = known_keys
        self.rate_limits = RateLimits()
        self._may_be_open = may_be_open(settings)
        self._burst = settings.rate_limit_burst
        self._rate = _rate(settings.rate_limit_per_second, self._burst)

    async def process_resource(self, req: Request, resp: Response, resource: object, params: object) -> None:  # noqa: ARG002
        declared = operation_of(resource, req.method)
        if declared is None or declared.scope is None:
            return
        keyring = self.known_keys.fresh or await self.known_keys.current()
        req.context.caller = self._anonymous(req, resp, keyring) or self._key_holder(req, resp, keyring)
        _check_scope(req.context.caller, declared.scope)

    def _anonymous(self, req: Request, resp: Response, keyring: Keyring) -> Caller | None:
        """Return the caller of a service that needs no key; None if it needs one."""
        if keyring.keys or not self._may_be_open:
            return None
        _check_origin(req)
        if self._rate:
            self._limit(resp, tag_of_address(req.remote_addr), self._rate)
        return ANONYMOUS

    def _key_holder(self, req: Request, resp: Response, keyring: Keyring) -> Caller:
        key = self._valid_key(req, keyring)
        self.known_keys.note_use(key)
        logs.bind(caller=key.caller.name)
        if rate := _rate(key.rate_limit, self._burst) if key.rate_limit else self._rate:
            self._limit(resp, key.tag, rate)
        return key.caller

    def _valid_key(self, req: Request, keyring: Keyring) -> KnownKey:
        """Return the key of a request. Raises 401, or `DatabaseUnavailable` where it may be new."""
        key = keyring.find(_credentials(req))
        if key is None and keyring.age_seconds > FRESH_SECONDS:
            raise self.known_keys.failure
        if key is None or key.is_revoked:
            raise _refusal("invalid_key", "There is no such API key, or it was revoked. Ask an operator for another.")
        if key.expires_at <= time.monotonic():
            raise _refusal("key_expired", "This API key has expired. Ask an operator for another.")
        return key

    def _limit(self, resp: Response, tag: bytes, rate: Rate) -> None:
        decision = self.rate_limits.take(tag, rate)
        resp.set_header("RateLimit-Policy", rate.policy)
        resp.set_header("RateLimit", f'"default";r={decision.remaining};t={math.ceil(decision.reset_seconds)}')
        if not decision.is_allowed:
            raise falcon.HTTPTooManyRequests(
                title="rate_limited",
                description=f"This caller may send {rate.per_second} requests per second. Wait as Retry-After says.",
                headers={"Retry-After": str(max(1, math.ceil(decision.retry_seconds)))},
            )


def _rate(per_second: int, burst: int) -> Rate | None:
    return Rate.of(per_second, burst) if per_second else None


def _credentials(req: Request) -> str:
    """Return what a request has as its key (RFC 6750, section 2.1). Raises 401."""
    scheme, _, credentials = (req.get_header("Authorization") or "").partition(" ")
    if scheme.lower() != "bearer":
        raise falcon.HTTPUnauthorized(
            title="unauthenticated",
            description="Send an API key, in the header: Authorization: Bearer <key>. "
            "An operator makes one with: python -m jobs_service keys create",
            challenges=[_CHALLENGE],
        )
    return credentials.strip(" ")


def _refusal(code: str, description: str) -> falcon.HTTPUnauthorized:
    challenge = f'{_CHALLENGE}, error="invalid_token", error_description="{description}"'
    return falcon.HTTPUnauthorized(title=code, description=description, challenges=[challenge])


def _check_scope(caller: Caller, scope: Scope) -> None:
    if scope not in caller.scopes:
        raise falcon.HTTPForbidden(
            title="scope_missing",
            description=f"This needs an API key with the scope {scope}.",
            headers={"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"'},
        )


def _check_origin(req: Request) -> None:
    """Refuse what a page of another site makes a browser send: on this machine, it could reach an open service.

    By Sec-Fetch-Site, which every current browser sends, or else by comparing Origin with Host. Other clients send
    neither. With keys there is no such danger, as browsers add none by themselves.
    """
    if req.method in _SAFE:
        return
    site = req.get_header("Sec-Fetch-Site")
    origin = req.get_header("Origin")
    is_own = origin is None or origin.rpartition("//")[2].lower() == (req.get_header("Host") or "").lower()
    if site not in {"same-origin", "none"} if site else not is_own:
        raise falcon.HTTPForbidden(
            title="cross_origin", description="Pages of other sites may change nothing here. Use an API key."
        )
