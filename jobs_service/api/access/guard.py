"""Middleware that finds out who sends a request, and refuses what the sender may not do, or does too often."""

import math
import time

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.access.exposure import may_be_open
from jobs_service.api.access.known_keys import FRESH_SECONDS, Keyring, KnownKey, KnownKeys
from jobs_service.api.access.origins import check_origin
from jobs_service.api.access.rate_limits import Rate, RateLimits, tag_of_address
from jobs_service.api.access.sessions import COOKIE, Sessions
from jobs_service.api.callers import ANONYMOUS, CALLER, Caller, Scope
from jobs_service.api.operations import operation_of
from jobs_service.config import Settings
from jobs_service.observability import logs

#: RFC 6750, section 3: without a key the challenge has no error code.
_CHALLENGE = 'Bearer realm="jobs"'

#: The console's paths are below it.
CONSOLE = "/console"


def is_console(req: Request) -> bool:
    """Tell whether a request is for the console, which a browser's cookie signs in."""
    path: str = req.path
    return path == CONSOLE or path.startswith(f"{CONSOLE}/")


class Guard:
    """Checks a request's API key, its scope and its caller's rate, before anything else of the request is looked at.

    While there is no key at all, and the service may be open, everyone may do everything. An operation without a scope
    is for everyone, and not limited.
    """

    def __init__(self, known_keys: KnownKeys, sessions: Sessions, settings: Settings) -> None:
        self.known_keys = known_keys
        self.sessions = sessions
        self.rate_limits = RateLimits()
        self._may_be_open = may_be_open(settings)
        self._burst = settings.rate_limit_burst
        self._rate = _rate(settings.rate_limit_per_second, self._burst)

    async def process_resource(self, req: Request, resp: Response, resource: object, params: object) -> None:  # noqa: ARG002
        # The router takes //console for /console, and the rules below look at the path.
        if (req.uri_template or "").startswith(CONSOLE) and not is_console(req):
            raise falcon.HTTPNotFound
        declared = operation_of(resource, req.method)
        if declared is None or declared.scope is None:
            return
        req.context.caller = req.scope.get(CALLER) or await self._caller(req, resp)
        _check_scope(req.context.caller, declared.scope)

    async def _caller(self, req: Request, resp: Response) -> Caller:
        keyring = self.known_keys.fresh or await self.known_keys.current()
        is_of_console = is_console(req)
        if anonymous := self._anonymous(req, resp, keyring, is_from_a_browser=is_of_console):
            return anonymous
        key = await self.session_key(req, keyring) if is_of_console else self.valid_key(keyring, _credentials(req))
        return self._key_holder(resp, key)

    async def session_key(self, req: Request, keyring: Keyring) -> KnownKey:
        """Return the key of a session of the console. Raises 401, 403, or `DatabaseUnavailable`."""
        check_origin(req, is_from_a_browser=True)
        token = (req.get_cookie_values(COOKIE) or [""])[0]
        key = keyring.keys.get(token.partition(".")[0])
        if key is None and token and keyring.age_seconds > FRESH_SECONDS:
            raise self.known_keys.failure
        if key is None or not await self.sessions.is_open(token, key):
            raise _refusal("unauthenticated", "Sign in with an API key.")
        return self._still_valid(keyring, key)

    def _anonymous(self, req: Request, resp: Response, keyring: Keyring, *, is_from_a_browser: bool) -> Caller | None:
        """Return the caller of a service that needs no key; None if it needs one."""
        if not self.is_open(keyring):
            return None
        # With keys there is no such danger, as browsers add none by themselves: on this machine, any page could reach
        # an open service.
        check_origin(req, is_from_a_browser=is_from_a_browser)
        if self._rate:
            self._limit(resp, tag_of_address(req.remote_addr), self._rate)
        return ANONYMOUS

    def is_open(self, keyring: Keyring) -> bool:
        """Tell whether requests need no key."""
        return not keyring.keys and self._may_be_open

    @property
    def was_open(self) -> bool:
        """Whether requests needed no key when the keys were read last, however long ago."""
        return self.is_open(self.known_keys.last)

    def _key_holder(self, resp: Response, key: KnownKey) -> Caller:
        self.known_keys.note_use(key)
        logs.bind(caller=key.caller.name)
        if rate := _rate(key.rate_limit, self._burst) if key.rate_limit else self._rate:
            self._limit(resp, key.tag, rate)
        return key.caller

    def valid_key(self, keyring: Keyring, text: str) -> KnownKey:
        """Return the key that a client sent. Raises 401, or `DatabaseUnavailable` where it may be new."""
        return self._still_valid(keyring, keyring.find(text))

    def _still_valid(self, keyring: Keyring, key: KnownKey | None) -> KnownKey:
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
