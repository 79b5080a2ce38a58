"""The console's safety: who may do what there, from where, and for how long. By HTTP, without a browser."""

import dataclasses
import http.cookies
import json
import re
from urllib.parse import parse_qs, urlencode, urlsplit

import falcon
import falcon.testing
import pytest

from jobs_service.api.access import keys, known_keys, sessions
from jobs_service.api.app import create_app
from jobs_service.api.callers import CALLER, Scope
from jobs_service.api.console import calls
from jobs_service.api.console.calls import CallRefused
from jobs_service.database.connection import open_database
from jobs_service.errors import DatabaseUnavailable

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
FORM = "application/x-www-form-urlencoded"
OWN = {"Sec-Fetch-Site": "same-origin"}
HOST = falcon.testing.DEFAULT_HOST
SIGNING = {"/console/sign-in", "/console/sign-out"}


class Browser:
    """Sends requests as a browser does, with the cookies that it was given."""

    def __init__(self, app, **headers):
        self._client = falcon.testing.TestClient(app, headers={"Accept": HTML, **headers})
        self.cookies = {}

    def get(self, path, **headers):
        return self._send("GET", path, headers)

    def post(self, path, form=None, **headers):
        sent = {"Content-Type": FORM, **OWN, **headers}
        return self._send("POST", path, {k: v for k, v in sent.items() if v}, body=urlencode(form or {}))

    def sign_in(self, key, wanted="/console/jobs"):
        return self.post("/console/sign-in", {"key": key, "next": wanted})

    def _send(self, method, path, headers, **options):
        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        answer = self._client.simulate_request(
            method, path, headers={**headers, **(cookie if self.cookies else {})}, **options
        )
        for name, value in answer.cookies.items():
            self.cookies[name] = value.value
        return answer


@pytest.fixture
def app(settings):
    return create_app(settings)


@pytest.fixture
def browser(app):
    return Browser(app)


@pytest.fixture
def key(database):
    def key(*scopes, **limits):
        return keys.create(database, "alice", scopes or tuple(Scope), **limits)

    return key


@pytest.fixture
def signed_in(app, key):
    """Return a browser that is signed in with a key of these scopes."""

    def signed_in(*scopes, app=app):
        browser = Browser(app)
        assert 303 == browser.sign_in(key(*scopes)).status_code
        return browser

    return signed_in


def routes(app):
    """Yield (path template, resource) of the console."""

    def below(nodes):
        for node in nodes:
            if node.resource is not None and node.uri_template.startswith("/console"):
                yield node.uri_template, node.resource
            yield from below(node.children)

    return list(below(app._router._roots))


def actions(app):
    """Return the path of each route that changes something, with an id that nothing has."""
    paths = {path for path, resource in routes(app) if hasattr(resource, "on_post")}
    return sorted(re.sub(r"\{\w+\}", "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41", path) for path in paths - SIGNING)


def is_sign_in(answer):
    return answer.status_code == 303 and answer.headers["Location"].startswith("/console/sign-in?")


# What every answer says.


def test_every_answer_has_the_policy_word_for_word(app, browser, signed_in):
    file = next(iter(re.findall(r'"(/console/files/[^"]+\.js)"', browser.get("/console").text)))
    answers = [
        browser.get("/console"),
        browser.get("/console/jobs?notice=cancelled"),
        browser.get(file),
        browser.get("/console/nothing"),
        browser.get("/console/files/nothing.css"),
        browser.get("/console/jobs?type=nope"),
        browser.get("/console", Accept="application/json"),
        browser.get("/console/nothing", Accept="application/json"),
        browser.get("/console/sign-out"),
        browser.get("/console/jobs/none/output"),
        browser.post("/console/sign-out", **{"Sec-Fetch-Site": "cross-site"}),
        browser.post("/console/sign-out"),
    ]
    signed = signed_in()
    stranger = Browser(app)
    answers += [
        signed.get("/console"),
        signed.get("/console/sign-in"),
        stranger.get("/console"),
        stranger.get("/console/sign-in"),
        stranger.get("/console/events", Accept="text/event-stream"),
        stranger.sign_in("wrong"),
    ]
    statuses = [answer.status_code for answer in answers]
    assert [200, 200, 200, 404, 404, 422, 200, 404, 405, 404, 403, 303, 200, 303, 303, 200, 401, 401] == statuses
    api_own = answers[16]
    assert api_own.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    for answer in answers:
        if answer is not api_own:
            assert POLICY == answer.headers["Content-Security-Policy"]
            assert "same-origin" == answer.headers["Referrer-Policy"]
        assert "nosniff" == answer.headers["X-Content-Type-Options"]


def test_no_cache_keeps_a_page_and_every_cache_a_file(browser):
    page = browser.get("/console")
    files = re.findall(r'"(/console/files/[^"]+)"', page.text)

    assert "no-store" == page.headers["Cache-Control"]
    assert 4 == len(files)
    for file in files:
        assert "public, max-age=31536000, immutable" == browser.get(file).headers["Cache-Control"]


# Where requests may come from.

FROM_ELSEWHERE = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HOST}"},
    {"Sec-Fetch-Site": "same-site", "Origin": f"http://{HOST}"},
    {"Sec-Fetch-Site": None},
    {"Sec-Fetch-Site": None, "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": None, "Origin": "null"},
    {"Sec-Fetch-Site": None, "Origin": f"http://{HOST}.evil.example"},
    {"Sec-Fetch-Site": None, "Origin": f"http://evil.example/{HOST}"},
    {"Sec-Fetch-Site": None, "Origin": f"http://{HOST}:81"},
    {"Sec-Fetch-Site": None, "Origin": ""},
)
FROM_HERE = (OWN, {**OWN, "Origin": "https://known.to.the.proxy"}, {"Sec-Fetch-Site": None, "Origin": f"http://{HOST}"})


def test_no_other_page_acts_whether_keys_are_needed_or_not(browser, app, signed_in):
    def check(browser):
        for path in [*actions(app), *SIGNING]:
            assert 404 == browser.post(f"/{path}").status_code
            for headers in FROM_ELSEWHERE:
                refused = browser.post(path, **headers)
                assert 403 == refused.status_code, (path, headers)
                assert "cross_origin" in refused.text, (path, headers)

    check(browser)
    signed = signed_in()
    check(signed)
    # Nobody was signed out.
    assert 200 == signed.get("/console").status_code


def test_the_consoles_own_pages_act(app, signed_in):
    for headers in FROM_HERE:
        browser = signed_in()
        for path in actions(app):
            assert "cross_origin" not in browser.post(path, **headers).text, (path, headers)
        assert "/console/sign-in?notice=signed-out" == browser.post("/console/sign-out", **headers).headers["Location"]


def test_other_pages_may_link_to_the_console(browser):
    for site in ("cross-site", "same-site", "none"):
        assert 200 == browser.get("/console", **{"Sec-Fetch-Site": site}).status_code


def test_a_link_of_another_site_finds_who_is_signed_in(app, signed_in):
    """It comes without the strict cookie: a page of the console follows, whose own link brings it."""
    browser, stranger = signed_in(), Browser(app)
    elsewhere = {"Sec-Fetch-Site": "cross-site"}

    sent = stranger.get("/console/jobs?status=failed", **elsewhere).headers["Location"]
    forwarding = stranger.get(sent, **elsewhere)
    [forward] = re.findall(r'http-equiv="refresh" content="0; url=([^"]+)"', forwarding.text)

    assert "/console/jobs?status=failed" == browser.get(forward, **OWN).headers["Location"]
    signing_in = stranger.get(forward, **OWN)
    assert (200, True) == (signing_in.status_code, 'name="key"' in signing_in.text)
    assert "http-equiv" not in signing_in.text


# Signing in and out.


def test_whoever_has_no_session_signs_in_and_sees_what_they_asked_for(app, key):
    browser, right = Browser(app), key(Scope.JOBS_READ)

    sent = browser.get("/console/jobs?status=failed&notice=cancelled").headers["Location"]
    assert {"next": ["/console/jobs?status=failed"], "why": ["unauthenticated"]} == parse_qs(urlsplit(sent).query)
    form = browser.get(sent)
    assert 'value="/console/jobs?status=failed"' in form.text
    done = browser.sign_in(f"  {right}\n", "/console/jobs?status=failed")

    assert (303, "/console/jobs?status=failed") == (done.status_code, done.headers["Location"])
    assert 200 == browser.get("/console/jobs?status=failed").status_code
    # There is nothing to sign in for.
    assert "/console" == browser.get("/console/sign-in").headers["Location"]


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example",
        "https://evil.example/console/jobs",
        "//evil.example",
        "//evil.example/console/",
        "///evil.example",
        "/\\evil.example",
        "/console\\@evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "/jobs",
        "/consolex",
        "/console/sign-in?next=/console",
        "/console/sign-out",
        "http:/console/jobs",
        "http:///console/jobs",
        "console/jobs",
        "//[",
        "",
    ],
)
def test_nobody_is_sent_elsewhere(browser, key, wanted):
    assert "/console" == browser.sign_in(key(), wanted).headers["Location"]


@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ("/console/jobs/a\r\nSet-Cookie: x=1", "/console/jobs/aSet-Cookie:%20x=1"),
        ("/console/jobs?q=\r\nX: 1", "/console/jobs?q=X:%201"),
        ("/console//evil.example", "/console//evil.example"),
        ("/console/jobs?q=%2F%2Fevil&tag=ü", "/console/jobs?q=%2F%2Fevil&tag=%C3%BC"),
        ("/console/queues/größe", "/console/queues/gr%C3%B6%C3%9Fe"),
        ("/console/\\evil.example", "/console/%5Cevil.example"),
        ('/console/jobs?q="><script>', "/console/jobs?q=%22%3E%3Cscript%3E"),
    ],
)
def test_what_is_no_part_of_an_address_does_not_get_into_the_header(browser, key, wanted, location):
    answer = browser.sign_in(key(), wanted)

    assert location == answer.headers["Location"]
    assert {"console_session"} == set(answer.cookies)


@pytest.mark.parametrize(
    ("headers", "prefix", "is_secure"),
    [
        ({}, "", False),
        ({"X-Forwarded-Proto": "http"}, "", False),
        ({"X-Forwarded-Proto": "https"}, "", True),
        ({"Forwarded": "for=192.0.2.1;proto=https"}, "", True),
        ({"X-Forwarded-Proto": "https"}, "/jobs-api", True),
    ],
)
def test_the_cookie_is_for_the_console_alone(settings, key, headers, prefix, is_secure):
    browser = Browser(create_app(dataclasses.replace(settings, api_prefix=prefix)), **headers)
    answer = browser.sign_in(key())
    [given] = http.cookies.SimpleCookie(answer.headers["Set-Cookie"]).values()

    assert ("Strict", True, f"{prefix}/console", str(12 * 3600)) == (
        given["samesite"],
        given["httponly"],
        given["path"],
        given["max-age"],
    )
    assert is_secure == bool(given["secure"])
    assert not given["domain"]
    assert f"{prefix}/console/jobs" == answer.headers["Location"]


def test_neither_key_nor_token_is_shown_stored_or_logged(browser, key, database, log_lines):
    right = key()
    secret = right.partition(".")[2]
    answers = [
        browser.sign_in(f"{right}x"),
        browser.post("/console/sign-in", {"key": right}, **{"Sec-Fetch-Site": "cross-site"}),
        browser.sign_in(right),
    ]
    token = browser.cookies["console_session"]
    answers += [browser.get("/console"), browser.get("/console/nothing"), browser.get("/console/jobs?type=nope")]

    assert [401, 403, 303, 200, 404, 422] == [answer.status_code for answer in answers]
    stored = database.rows("SELECT row_to_json(console_sessions)::text FROM console_sessions")
    assert 1 == len(stored)
    nonce, seal = token.split(".")[1:]
    for text in (secret, nonce, seal):
        assert not [answer for answer in answers if text in answer.text]
        assert text not in str(stored)
        assert text not in json.dumps(log_lines())
    assert secret not in str([answer.headers for answer in answers])


@pytest.mark.parametrize("given", ["", "x", "ajs_none.x", "\x00", "ü", "x" * 10_000, "Bearer {key}", "{key}x"])
def test_what_is_no_key_signs_nobody_in(browser, key, given):
    answer = browser.sign_in(given.replace("{key}", key()))

    assert (401, {}) == (answer.status_code, browser.cookies)
    assert 'role="alert"' in answer.text


@pytest.mark.parametrize("body", ["key", "key=%ff", "key=\xff", "&".join(f"a{n}=1" for n in range(2_000)), "=&=&"])
def test_what_is_no_form_is_refused(app, body):
    client = falcon.testing.TestClient(app)
    answer = client.simulate_post("/console/sign-in", headers={**OWN, "Content-Type": FORM, "Accept": HTML}, body=body)

    assert answer.status_code in {400, 401}
    assert "text/html" in answer.headers["Content-Type"]


# The end of a session.


def test_it_ends_when_somebody_signs_out(browser, key, database):
    browser.sign_in(key())
    token = dict(browser.cookies)

    answer = browser.post("/console/sign-out")

    assert "/console/sign-in?notice=signed-out" == answer.headers["Location"]
    assert "You are signed out." in browser.get(answer.headers["Location"]).text
    assert [] == database.rows("SELECT * FROM console_sessions")
    browser.cookies = token
    assert is_sign_in(browser.get("/console"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("UPDATE api_keys SET revoked_at = now()", "invalid_key"),
        ("UPDATE api_keys SET expires_at = now()", "key_expired"),
        ("DELETE FROM api_keys WHERE name = 'alice'", "unauthenticated"),
        ("DELETE FROM console_sessions", "unauthenticated"),
        ("UPDATE console_sessions SET expires_at = now()", "unauthenticated"),
    ],
)
def test_it_ends_with_its_key_and_after_its_time_in_every_process(settings, app, signed_in, change, why):
    browser, other, database = signed_in(), Browser(create_app(settings)), open_database(settings, service="test")
    # Another key, so that the service is not open.
    keys.create(database, "bob", [Scope.JOBS_READ])
    other.cookies = browser.cookies
    assert 200 == other.get("/console").status_code

    database.rows(change)

    for process in (app, create_app(settings)):
        guard = next(part for part in process._unprepared_middleware if hasattr(part, "sessions"))
        # As after some seconds.
        guard.known_keys.refresh()
        guard.sessions._found.clear()
        stranger = Browser(process)
        stranger.cookies = dict(browser.cookies)
        answer = stranger.get("/console")
        assert is_sign_in(answer), answer.status_code
        assert [why] == parse_qs(urlsplit(answer.headers["Location"]).query)["why"]


def test_it_lasts_twelve_hours_by_postgresqls_clock(signed_in, database):
    signed_in()

    ((seconds,),) = database.rows("SELECT extract(epoch FROM expires_at - created_at) FROM console_sessions")
    assert 12 * 3600 == sessions.VALID_SECONDS == seconds


def test_a_token_is_of_one_key_and_all_of_it_counts(signed_in, app, monkeypatch):
    browser, other = signed_in(), signed_in()
    token, foreign = browser.cookies["console_session"], other.cookies["console_session"]
    guard = next(part for part in app._unprepared_middleware if hasattr(part, "sessions"))
    asked = []
    monkeypatch.setattr(guard.sessions._database, "row", lambda *statement: asked.append(statement))
    prefix, nonce, seal = token.split(".")

    for wrong in (
        "",
        "x",
        prefix,
        f"{prefix}.",
        f"{prefix}..",
        f"{prefix}.{nonce}",
        f"{prefix}.{nonce}.{seal[:-1]}",
        f"{prefix}.{nonce}.{foreign.split('.')[2]}",
        f"{foreign.split('.')[0]}.{nonce}.{seal}",
        token.upper(),
        "\xff" * 10,
        "x" * 100_000,
        "'; DROP TABLE console_sessions; --",
    ):
        browser.cookies = {"console_session": wrong}
        assert is_sign_in(browser.get("/console")), wrong
    # Nor was PostgreSQL asked.
    assert [] == asked


def test_a_key_has_a_hundred_sessions_at_most(app, database, key):
    browser, right = Browser(app), key()
    for _ in range(sessions.MAX_OF_A_KEY + 3):
        browser.sign_in(right)
        browser.cookies.clear()

    assert [(sessions.MAX_OF_A_KEY,)] == database.rows("SELECT count(*) FROM console_sessions")


def test_while_postgresql_is_away_a_known_session_goes_on_for_a_while(app, signed_in, monkeypatch):
    browser, unknown = signed_in(), signed_in()
    assert 200 == browser.get("/console").status_code
    guard = next(part for part in app._unprepared_middleware if hasattr(part, "sessions"))
    real = sessions.time.monotonic

    class Away:
        def row(self, *_):
            raise DatabaseUnavailable("away")

    monkeypatch.setattr(guard.sessions, "_database", Away())
    monkeypatch.setattr(sessions.time, "monotonic", lambda: real() + sessions.FRESH_SECONDS + 1)
    # Its keys are read as ever.
    assert 200 == browser.get("/console").status_code
    assert 503 == unknown.get("/console").status_code
    monkeypatch.setattr(sessions.time, "monotonic", lambda: real() + known_keys.KEPT_SECONDS + 1)
    assert 503 == browser.get("/console").status_code


def test_sessions_are_found_by_an_index_however_many_there_are(database, key):
    for _ in range(20):
        key()
    database.rows(
        "INSERT INTO console_sessions (token_hash, key_prefix, expires_at)"
        " SELECT sha256(i::text::bytea), prefix, now() + interval '1 hour'"
        " FROM api_keys, generate_series(1, 100) AS i WHERE prefix = (SELECT min(prefix) FROM api_keys)"
        " UNION ALL SELECT sha256((prefix || i)::bytea), prefix, now() + interval '1 hour'"
        " FROM api_keys, generate_series(1, 500) AS i"
    )
    database.rows("ANALYZE console_sessions")
    [(prefix,)] = database.rows("SELECT max(prefix) FROM api_keys")

    for statement, given in ((sessions._FIND, (b"\x00" * 32, prefix)), (sessions._END, (b"\x00" * 32,))):
        plan = "\n".join(line for (line,) in database.rows(f"EXPLAIN {statement}", given))
        assert re.search(r"Index Cond: .*token_hash = ", plan), plan
        assert "Seq Scan" not in plan
    values = {"prefix": prefix, "hash": b"\x00" * 32, "seconds": 1, "others": 99}
    plan = "\n".join(line for (line,) in database.rows(f"EXPLAIN {sessions._BEGIN}", values))
    assert "Index Cond: (key_prefix = " in plan


# Cookies and keys.


def test_a_key_in_a_header_opens_no_page_and_a_cookie_nothing_else(app, signed_in, key):
    right, browser = key(), signed_in()

    assert is_sign_in(Browser(app).get("/console", Authorization=f"Bearer {right}"))
    for path in ("/jobs", "/stats", "/queues", "/events", "//console", "/jobs/../console", "/%63onsole/../jobs"):
        assert browser.get(path).status_code in {401, 404}, path
    assert 401 == browser.post("/jobs", {}).status_code


@pytest.mark.parametrize(
    "path",
    [
        "//console",
        "//console/jobs",
        "/console/../jobs",
        "/console/./jobs",
        "/console/%2e%2e/jobs",
        "/console/..%2fjobs",
        "/console%2f..%2fjobs",
        "/CONSOLE",
        "/console;/jobs",
        "/console%00",
        "/console%5cjobs",
        "/console/files/..%2f..%2fpages.py",
        "/console/files/%2e%2e/pages.py",
        "/console/files/",
        "/consolejobs",
    ],
)
def test_no_other_spelling_of_a_path_leads_anywhere(browser, signed_in, path):
    assert 404 == browser.get(path).status_code
    assert 404 == signed_in().get(path).status_code


def test_no_client_can_say_who_it_is(app, key):
    key()
    names = (CALLER, CALLER.replace("_", "-"), "Caller", "X-Caller")

    for name in names:
        assert 401 == Browser(app).get("/jobs", **{name: "admin"}).status_code
        assert is_sign_in(Browser(app).get("/console", **{name: "admin"}))


# Scopes.


def test_a_page_needs_the_scope_to_read(app, signed_in):
    browser = signed_in(*(scope for scope in Scope if scope != Scope.JOBS_READ))

    for path, resource in routes(app):
        if not hasattr(resource, "on_get") or path in SIGNING or "/files/" in path:
            continue
        answer = browser.get(re.sub(r"\{\w+\}", "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41", path))
        assert 403 == answer.status_code, path
        assert "jobs:read" in answer.text, path


def test_every_route_declares_who_may_use_it(app):
    found = routes(app)
    assert len(found) > 5
    for path, resource in found:
        responders = [name for name in dir(resource) if name.startswith("on_") and name != "on_websocket"]
        for name in responders:
            declared = getattr(resource, name).operation
            is_public = path in SIGNING or "/files/" in path
            assert is_public == (declared.scope is None), f"{path} {name}"
        # What changes something is a form's POST.
        assert set(responders) <= {"on_get", "on_head", "on_post"}, path


#: What a form may have, so that an action does not end before it acts.
ANY_FORM = {
    "job_id": "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41",
    "type": "csv-generation",
    "payload": "{}",
    "reason": "because",
    "idempotency_key": "k",
    "key": "k",
    "action": "cancel",
    "confirm": "yes",
}


def test_every_action_is_a_call_of_the_api_that_checks_its_scope(app, signed_in, monkeypatch):
    """With a key that may read only, none ends well, and nothing that it calls changes anything."""
    browser = signed_in(Scope.JOBS_READ)
    changed = []
    answer_of = calls.ApiCalls.call

    async def call(self, req, method, path, **options):
        try:
            reply = await answer_of(self, req, method, path, **options)
        except CallRefused as error:
            changed.append((method, error.reply.status))
            raise
        changed.append((method, reply.status))
        return reply

    monkeypatch.setattr(calls.ApiCalls, "call", call)
    for path in actions(app):
        changed.clear()
        answer = browser.post(path, ANY_FORM)
        assert not [(method, status) for method, status in changed if method != "GET" and status < 400], path
        assert answer.status_code != 303 or {403} & {status for _, status in changed}, path


# Rates.


def test_a_page_counts_once_and_a_refused_one_is_a_page(settings):
    limited = dataclasses.replace(settings, rate_limit_per_second=1, rate_limit_burst=3)
    browser = Browser(create_app(limited))

    answers = [browser.get("/console") for _ in range(3)]
    # Each is made of calls of the API, which count no further.
    assert {200} == {answer.status_code for answer in answers}
    refused = next(answer for answer in iter(lambda: browser.get("/console"), None) if answer.status_code != 200)
    assert 429 == refused.status_code
    assert "1" == refused.headers["Retry-After"]
    assert "text/html" in refused.headers["Content-Type"]
    assert "Try again" in refused.text


def test_a_number_in_a_notice_is_a_number(browser):
    for n in ("x", "-1", "9" * 40, "²", "<b>"):
        answer = browser.get(f"/console?{urlencode({'notice': 'cancelled', 'n': n})}")
        assert 200 == answer.status_code
    for notice in ("nope", "<script>", "{n.__class__}"):
        assert "notice good" not in browser.get(f"/console?{urlencode({'notice': notice})}").text


def test_head_answers_what_get_does(browser):
    for path in ("/console", "/console/jobs", "/console/nothing"):
        head = browser._send("HEAD", path, {})
        assert (browser.get(path).status_code, "") == (head.status_code, head.text)
