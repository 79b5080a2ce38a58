"""What proxies, caches, balancers and generated clients need of HTTP: written against the wire, not the framework."""

import gzip
import http.client
import json

import pytest

JOB = {"type": "csv-generation", "payload": {"name": "Alice"}}


@pytest.fixture(scope="module")
def prefix():
    return "/jobs-api"


@pytest.fixture
def api(service, prefix):
    service.start_api(API_PREFIX=prefix, API_KEEPALIVE_SECONDS="600")
    return service


class Answer:
    """An answer, read to its end."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        content = response.read()
        self.body = json.loads(content) if content else None


def ask(api, method, path, body=None, *, host="localhost", **headers):
    """Send a request as it is: only what is named here is in its head. A `host` of None sends no such field."""
    connection = http.client.HTTPConnection("127.0.0.1", api.api_port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"host": host, **headers}.items():
        if value is not None:
            connection.putheader(name.replace("_", "-"), value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    try:
        return Answer(connection.getresponse())
    finally:
        connection.close()


def post(api, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(api, "POST", "/jobs", content, **{"content_type": "application/json", **headers})


def test_an_encoded_body_is_refused_and_the_answer_says_what_would_be_taken(api):
    plain = json.dumps(JOB).encode()

    for body in (gzip.compress(plain), plain):
        refused = post(api, body, content_encoding="gzip")
        assert (415, "identity") == (refused.status, refused.headers["Accept-Encoding"])
        assert "Content-Encoding" in refused.body["detail"]
    assert 201 == post(api, plain, content_encoding="identity").status


def test_a_byte_order_mark_is_ignored(api):
    assert 201 == post(api, json.dumps(JOB).encode("utf-8-sig")).status


@pytest.mark.parametrize("host", [None, "a b", "one,two", "host/path", "user@host"])
def test_a_request_without_one_host_is_refused(api, host):
    refused = ask(api, "GET", "/livez", host=host)

    assert (400, "bad_request") == (refused.status, refused.body["code"])
    assert "Host" in refused.body["detail"]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:3000", "127.0.0.1:3000", "[::1]:3000", "jobs_api.internal", ""]
)
def test_every_form_of_host_is_served(api, host):
    assert 200 == ask(api, "GET", "/livez", host=host).status


def test_no_cache_keeps_an_answer(api):
    job_id = post(api, JOB).body["job_id"]
    answers = [
        ask(api, "GET", path)
        for path in (f"/jobs/{job_id}", "/jobs", "/livez", "/readyz", "/no-such-route", "/jobs/no-such-job")
    ]
    answers += [
        post(api, JOB),
        post(api, {}),
        ask(api, "DELETE", f"/jobs/{job_id}"),
        ask(api, "GET", "/livez", host=None),
    ]

    assert {"no-store"} == {answer.headers["Cache-Control"] for answer in answers}


NULLS = ("run_at", "delay_seconds", "max_attempts", "priority", "expires_at", "on_ambiguous")


@pytest.mark.parametrize("field", NULLS)
def test_null_means_absent(api, field):
    accepted = post(api, {**JOB, field: None})

    assert 201 == accepted.status, accepted.body
    assert {"priority": 5, "on_ambiguous": "resend", "max_attempts": 3}.items() <= api.job(
        accepted.body["job_id"]
    ).items()


@pytest.mark.parametrize("field", ["html", "cc", "bcc", "reply_to"])
def test_null_in_a_mail_means_absent(api, field):
    mail = {"to": "a@example.com", "subject": "s", "body": "b", field: None}

    assert 201 == post(api, {"type": "email-send", "payload": mail}).status


@pytest.mark.parametrize("field", ["type", "payload"])
def test_null_in_a_required_field_is_refused(api, field):
    refused = post(api, {**JOB, field: None})

    assert 422 == refused.status
    assert f"/{field}" == refused.body["errors"][0]["pointer"]


def test_null_in_free_form_data_is_data(api):
    accepted = post(api, {"type": "csv-generation", "payload": {"a": None}})

    assert {"a": None} == api.job(accepted.body["job_id"])["payload"]


def test_links_lead_below_the_path_of_a_proxy(api, prefix):
    accepted = post(api, JOB)
    post(api, JOB)
    page = ask(api, "GET", "/jobs?limit=1")
    missing = ask(api, "GET", "/jobs/no-such-job")

    assert f"{prefix}/jobs/{accepted.body['job_id']}" == accepted.headers["Location"]
    assert page.headers["Link"].startswith(f"<{prefix}/jobs?")
    assert f"{prefix}/jobs/no-such-job" == missing.body["instance"]


def test_a_proxy_that_says_so_gets_no_metrics(api):
    assert 200 == ask(api, "GET", "/livez", x_forwarded_for="10.0.0.1").status
    assert 403 == ask(api, "GET", "/metrics", x_forwarded_for="10.0.0.1").status
