"""Who may do what: every operation of the OpenAPI document, with no key, with the wrong one, and with the right one."""

import dataclasses
import re
import threading
import time
from contextlib import contextmanager

import falcon
import falcon.testing
import pytest

from jobs_service.api import openapi
from jobs_service.api.access import keys, known_keys
from jobs_service.api.app import create_app
from jobs_service.api.callers import Scope
from jobs_service.config import Settings
from jobs_service.errors import DatabaseUnavailable

JOB = {"type": "csv-generation", "payload": {"name": "Alice"}}


class PastTheGuard:
    """Middleware behind the guard: answers 418 in place of the resource."""

    async def process_resource(self, req, *_):
        raise falcon.HTTPError(418, title="internal_error", description=req.context.caller.name)


def app_routes(app):
    """Yield (path template, resource) of each route of a Falcon application."""

    def below(nodes):
        for node in nodes:
            if node.resource is not None:
                yield node.uri_template, node.resource
            yield from below(node.children)

    yield from below(app._router._roots)


def documented():
    """Yield (method, path, scope) of each operation of the document; those of GET also for HEAD."""
    settings = Settings.from_env({"DATABASE_URL": "postgresql://x@localhost/x", "REDIS_URL": "redis://localhost"})
    routes = [openapi.Route(*route) for route in app_routes(create_app(settings))]
    # A browser needs a session for the console's: tests/integration/test_console_access.py.
    routes = [route for route in routes if not route.path.startswith("/console")]
    for path, methods in openapi.document(routes, [])["paths"].items():
        for method, declared in methods.items():
            scope = declared["security"][0][openapi.KEY][0] if declared["security"] else None
            yield method.upper(), path, scope
            if method == "get":
                yield "HEAD", path, scope


OPERATIONS = list(documented())
GUARDED = [(method, path, Scope(scope)) for method, path, scope in OPERATIONS if scope]
PUBLIC = [(method, path) for method, path, scope in OPERATIONS if not scope]


@pytest.fixture
def key(database):
    def key(*scopes, **limits):
        return keys.create(database, "alice", scopes, **limits)

    return key


@pytest.fixture
def ask(settings):
    """Send a request to an API whose resources are replaced by 418."""
    app = create_app(settings)
    app.add_middleware(PastTheGuard())
    client = falcon.testing.TestClient(app)

    def ask(method, path, key=None, **headers):
        path = re.sub(r"\{\w+\}", "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41", path)
        return client.simulate_request(
            method, path, headers=({"Authorization": f"Bearer {key}"} if key else {}) | headers
        )

    return ask


def test_every_operation_is_refused_without_a_key_and_with_all_other_scopes(ask, key):
    right = {scope: key(scope) for scope in Scope}
    others = {scope: key(*(other for other in Scope if other != scope)) for scope in Scope}

    assert GUARDED
    for method, path, scope in GUARDED:
        without, wrong, allowed = ask(method, path), ask(method, path, others[scope]), ask(method, path, right[scope])
        where = f"{method} {path}"
        assert (401, 403, 418) == (without.status_code, wrong.status_code, allowed.status_code), where
        assert without.headers["WWW-Authenticate"] == 'Bearer realm="jobs"', where
        assert f'error="insufficient_scope", scope="{scope}"' in wrong.headers["WWW-Authenticate"], where
        if method != "HEAD":
            assert ("unauthenticated", "scope_missing") == (without.json["code"], wrong.json["code"]), where
            assert scope in wrong.json["detail"], where
            assert "alice" == allowed.json["detail"], where


def test_what_needs_no_scope_is_public_on_purpose(ask, key):
    key()

    assert {"/", "/livez", "/readyz", "/metrics", "/openapi.json"} >= {path for _, path in PUBLIC if "docs" not in path}
    assert {418} == {ask(method, path).status_code for method, path in PUBLIC}


def test_every_responder_declares_its_operation(settings):
    for path, resource in app_routes(create_app(settings)):
        responders = [name for name in dir(resource) if name.startswith("on_") and name != "on_websocket"]
        assert responders
        for name in responders:
            assert hasattr(getattr(resource, name), "operation"), f"{path} {name}"


def test_without_any_key_the_api_is_open_on_this_machine(ask):
    assert {(418, "anonymous")} == {
        (answer.status_code, answer.json["detail"])
        for answer in (ask("POST", "/jobs"), ask("GET", "/jobs"), ask("GET", "/jobs", "no-such-key"))
    }


@pytest.mark.parametrize(
    ("host", "allowed", "status"),
    [
        ("127.0.0.1", "false", 418),
        ("::1", "false", 418),
        ("0.0.0.0", "false", 401),
        ("10.0.0.1", "false", 401),
        ("0.0.0.0", "true", 418),
    ],
)
def test_where_others_can_reach_it_it_is_open_only_if_that_is_set(settings, host, allowed, status):
    app = create_app(dataclasses.replace(settings, api_host=host, allow_anonymous=allowed))
    app.add_middleware(PastTheGuard())

    assert status == falcon.testing.TestClient(app).simulate_get("/jobs").status_code


def test_with_a_key_nothing_is_open_whatever_is_set(settings, database, key):
    prefix = key(Scope.JOBS_READ).partition(".")[0]
    client = falcon.testing.TestClient(create_app(dataclasses.replace(settings, allow_anonymous="true")))
    assert 401 == client.simulate_get("/jobs").status_code

    # Nor when the last one is revoked.
    keys.revoke(database, prefix)
    client = falcon.testing.TestClient(create_app(dataclasses.replace(settings, allow_anonymous="true")))
    assert 401 == client.simulate_get("/jobs").status_code


GARBAGE = (
    "",
    "Bearer",
    "Bearer ",
    "Basic dXNlcjpwYXNz",
    "bearer x",
    "Bearer x.y",
    "Bearer \t",
    "Bearer a b c",
    "Token {key}",
    "{key}",
    "Bearer {key}x",
    "Bearer x{key}",
    "Bearer {key},Bearer {key}",
    "Bearer " + "A" * 8_000,
    "Bearer \xff\xfe",
    "Bearer ajs_'; DROP TABLE api_keys;--.x",
    "Bearer %00.%00",
    "\r\nX: y",
)


def test_garbage_is_refused(ask, key):
    right = key(*Scope)

    for header in GARBAGE:
        answer = ask("GET", "/jobs", Authorization=header.replace("{key}", right))
        assert 401 == answer.status_code, header
        assert answer.json["code"] in {"unauthenticated", "invalid_key"}, header
        assert right.partition(".")[2] not in answer.text + str(answer.headers), header
    assert 418 == ask("GET", "/jobs", right).status_code


def test_the_scheme_is_written_in_any_case(ask, key):
    right = key(Scope.JOBS_READ)

    assert {418} == {
        ask("GET", "/jobs", Authorization=f"{scheme} {right}").status_code for scheme in ("Bearer", "bearer", "BEARER")
    }


def test_expired_and_revoked_keys_are_told_apart(ask, key, database):
    expired, revoked = key(Scope.JOBS_READ, expires_seconds=0.0), key(Scope.JOBS_READ)
    keys.revoke(database, revoked.partition(".")[0])

    answers = [ask("GET", "/jobs", each) for each in (expired, revoked)]

    assert [(401, "key_expired"), (401, "invalid_key")] == [(a.status_code, a.json["code"]) for a in answers]
    assert all('error="invalid_token"' in answer.headers["WWW-Authenticate"] for answer in answers)


def test_an_expired_key_with_a_wrong_secret_is_not_told_that_it_expired(ask, key):
    expired = key(Scope.JOBS_READ, expires_seconds=0.0)

    assert "invalid_key" == ask("GET", "/jobs", expired[:-1] + "!").json["code"]


def test_a_scope_of_a_later_version_is_no_scope(ask, key, database):
    right = key(Scope.JOBS_READ)
    database.rows("UPDATE api_keys SET scopes = '{jobs:read,jobs:paint}'")

    assert 418 == ask("GET", "/jobs", right).status_code
    assert 403 == ask("POST", "/jobs", right).status_code


def test_only_the_hash_of_a_secret_is_stored(key, database):
    prefix, _, secret = key(Scope.JOBS_READ).partition(".")

    ((row,),) = database.rows("SELECT row_to_json(api_keys)::text FROM api_keys")
    assert prefix in row
    assert secret not in row


def test_the_use_of_a_key_is_written_once_an_hour(database, key):
    used, unused = key(Scope.JOBS_READ), key(Scope.JOBS_READ)
    known = known_keys.KnownKeys(database)

    def use():
        known.refresh()
        for number in range(20):
            known.note_use(known._keyring.find(used))
            assert number or known._used <= {used.partition(".")[0]}
        known.refresh()
        return dict(database.rows("SELECT prefix, last_used_at FROM api_keys"))

    first, second = use(), use()
    assert first == second
    assert first[used.partition(".")[0]] is not None
    assert first[unused.partition(".")[0]] is None
    database.rows("UPDATE api_keys SET last_used_at = last_used_at - interval '61 minutes'")
    assert first[used.partition(".")[0]] <= use()[used.partition(".")[0]]


OWN = f"http://{falcon.testing.DEFAULT_HOST}"
CROSS_SITE = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": OWN},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
)
SAME_SITE = (
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://known.to.the.proxy"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": OWN},
)


def test_pages_of_other_sites_change_nothing_in_an_open_service(ask):
    for headers in CROSS_SITE:
        refused = ask("POST", "/jobs", **headers)
        assert (403, "cross_origin") == (refused.status_code, refused.json["code"]), headers
        assert 418 == ask("GET", "/jobs", **headers).status_code, headers


def test_pages_of_the_service_and_programs_may(ask):
    for headers in SAME_SITE:
        assert 418 == ask("POST", "/jobs", **headers).status_code, headers


def test_a_page_that_has_a_key_may_too(ask, key):
    right = key(Scope.JOBS_WRITE)

    for headers in CROSS_SITE:
        assert 418 == ask("POST", "/jobs", right, **headers).status_code, headers


def test_rates_are_limited_by_address(settings):
    limited = dataclasses.replace(settings, rate_limit_per_second=1, rate_limit_burst=3)
    app = create_app(limited)
    app.add_middleware(PastTheGuard())
    client = falcon.testing.TestClient(app)

    def statuses(**options):
        return [client.simulate_get("/jobs", **options).status_code for _ in range(4)]

    # No request takes as long as another one is worth.
    assert {418} == set(statuses(remote_addr="192.0.2.1")[:3])
    assert 418 == client.simulate_get("/livez", remote_addr="192.0.2.1").status_code
    answer = next(
        a for a in iter(lambda: client.simulate_get("/jobs", remote_addr="192.0.2.1"), None) if a.status_code == 429
    )
    assert "rate_limited" == answer.json["code"]
    assert "1" == answer.headers["Retry-After"]
    assert '"default";q=3;w=3' == answer.headers["RateLimit-Policy"]
    assert re.fullmatch(r'"default";r=0;t=[23]', answer.headers["RateLimit"])
    assert {418} == set(statuses(remote_addr="192.0.2.2")[:3])


def test_a_key_may_have_a_limit_of_its_own(settings, key):
    own, other = key(Scope.JOBS_READ, rate_limit=7), key(Scope.JOBS_READ)
    app = create_app(settings)
    app.add_middleware(PastTheGuard())
    client = falcon.testing.TestClient(app)

    def ask(key):
        return client.simulate_get("/jobs", headers={"Authorization": f"Bearer {key}"}).headers.get("RateLimit-Policy")

    assert ('"default";q=7;w=1', None) == (ask(own), ask(other))


class Away:
    """A database that answers as often as it is told."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = 0

    def refusal(self):
        return ""

    def rows(self, *_):
        self.asked += 1
        if self.asked > self.answers:
            raise DatabaseUnavailable("away")
        return [("ajs_a", keys.digest("secret"), "alice", ["jobs:read"], None, None, False, False)]


@contextmanager
def answering(settings, monkeypatch, database, *, age):
    """Ask an API that read its keys from this database so many seconds ago, if it could."""
    app = create_app(settings)
    known = next(part.known_keys for part in app._unprepared_middleware if hasattr(part, "known_keys"))
    known._database = database
    app.add_middleware(PastTheGuard())
    known.refresh()
    real = time.monotonic
    with monkeypatch.context() as patched:
        patched.setattr(known_keys.time, "monotonic", lambda: real() + age)
        client = falcon.testing.TestClient(app)
        yield lambda key: client.simulate_get("/jobs", headers={"Authorization": f"Bearer {key}"})


def answer_of(settings, monkeypatch, *, answers, age, key):
    """Return the answer of an API that read its keys so many seconds ago, and then PostgreSQL did not answer."""
    with answering(settings, monkeypatch, Away(answers), age=age) as ask:
        return ask(key)


def test_while_postgresql_is_away_known_keys_go_on_and_others_are_not_let_in(settings, monkeypatch):
    known = answer_of(settings, monkeypatch, answers=1, age=known_keys.KEPT_SECONDS / 2, key="ajs_a.secret")
    unknown = answer_of(settings, monkeypatch, answers=1, age=known_keys.KEPT_SECONDS / 2, key="ajs_b.secret")

    assert (418, 503) == (known.status_code, unknown.status_code)
    assert "database_unavailable" == unknown.json["code"]


def test_no_request_waits_for_keys_that_do_not_come(settings, monkeypatch):
    """As where lists keep all connections busy: new jobs have one of their own, and must not wait for a key."""
    is_answered = threading.Event()

    class Busy(Away):
        def rows(self, *arguments):
            assert not self.asked or is_answered.wait(60)
            return super().rows(*arguments)

    monkeypatch.setattr(known_keys, "WAIT_SECONDS", 0.01)
    with answering(settings, monkeypatch, Busy(9), age=known_keys.KEPT_SECONDS / 2) as ask:
        assert [418, 418] == [ask("ajs_a.secret").status_code for _ in range(2)]
        is_answered.set()


def test_for_a_bounded_time(settings, monkeypatch):
    answer = answer_of(settings, monkeypatch, answers=1, age=known_keys.KEPT_SECONDS + 1, key="ajs_a.secret")

    assert (503, "database_unavailable") == (answer.status_code, answer.json["code"])


def test_before_the_keys_were_ever_read_nobody_is_let_in(settings, monkeypatch):
    for key in ("ajs_a.secret", ""):
        assert 503 == answer_of(settings, monkeypatch, answers=0, age=0, key=key).status_code


def test_an_old_schema_is_named(settings, database):
    database.rows("DROP TABLE api_keys CASCADE")

    answer = falcon.testing.TestClient(create_app(settings)).simulate_get("/jobs")

    assert (503, "database_not_migrated") == (answer.status_code, answer.json["code"])
