"""Idempotency-Key: one job however often a request is sent, to whichever process, and the same answer each time."""

import asyncio
import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

import falcon.testing
import pytest
from eventually import eventually
from proxy import Proxy

from jobs_service.api.app import create_app
from jobs_service.api.idempotency import parsed
from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.events import JobSubmitted
from jobs_service.jobs import idempotency
from jobs_service.maintenance.idempotency_keys import IdempotencyKeys
from jobs_service.maintenance.service import Turn

CSV = {"type": "csv-generation", "payload": {"name": "Alice", "score": 95}}
#: In the statement that writes the job with its key, and in the look for a key that was there before.
KEYED = b"order-1"


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def behind_proxy(environ, postgres, database_url):
    """A client of an API whose replies from PostgreSQL can be lost, and the proxy."""
    with Proxy(postgres.port) as proxy:
        url = database_url.replace(str(postgres.port), str(proxy.port))
        quick = {"DATABASE_STATEMENT_TIMEOUT_SECONDS": "2", "DATABASE_CONNECT_TIMEOUT_SECONDS": "1"}
        yield falcon.testing.TestClient(create_app(Settings.from_env(environ | quick | {"DATABASE_URL": url}))), proxy


def post(client, body=CSV, *, key="order-1", path="/jobs", **headers):
    headers = {"Content-Type": "application/json", "Idempotency-Key": key} | headers
    return client.simulate_post(path, body=body if isinstance(body, bytes) else json.dumps(body), headers=headers)


def jobs_in(database):
    return [job_id for (job_id,) in database.rows("SELECT id FROM jobs ORDER BY id")]


def answer_of(reply):
    return reply.status_code, reply.content, reply.headers["Location"], reply.headers["Content-Type"]


def test_the_same_request_gets_the_same_answer_and_makes_one_job(client, database, announced):
    first, *others = [post(client) for _ in range(3)]

    assert (201, "pending") == (first.status_code, first.json["status"])
    assert "Idempotent-Replayed" not in first.headers
    assert [answer_of(first)] * 2 == [answer_of(reply) for reply in others]
    assert ["true"] * 2 == [reply.headers["Idempotent-Replayed"] for reply in others]
    assert [UUID(first.json["job_id"])] == jobs_in(database)
    assert 1 == len([event for event in announced if isinstance(event, JobSubmitted)])


def test_a_replay_has_a_request_id_of_its_own(client):
    post(client)

    assert "again" == post(client, **{"X-Request-ID": "again"}).headers["X-Request-ID"]


@pytest.mark.parametrize(
    "other",
    [
        {"body": CSV | {"priority": 6}},
        {"body": json.dumps(CSV, separators=(",", ":")).encode()},
    ],
)
def test_another_request_with_the_key_is_refused(client, database, other):
    post(client)

    reply = post(client, **other)

    assert (422, "idempotency_key_reused") == (reply.status_code, reply.json["code"])
    assert 1 == len(jobs_in(database))


def test_another_key_is_another_request(client, database):
    assert 2 == len({post(client, key=key).json["job_id"] for key in ("a", "b")})
    assert 2 == len(jobs_in(database))


def test_a_request_that_was_refused_leaves_its_key_free(client):
    assert 422 == post(client, CSV | {"priority": 60}).status_code
    assert 422 == post(client, CSV | {"expires_at": "2020-01-01T00:00:00Z"}).status_code

    assert 201 == post(client).status_code


def test_a_request_whose_job_has_expired_meanwhile_is_answered_as_before(client, database):
    """The job was submitted in time; the request is sent again too late for another."""
    body = CSV | {"expires_at": "2999-01-01T00:00:00Z"}
    body["expires_at"] = database.row("SELECT (now() + interval '1 second')::text")[0].replace(" ", "T") + ":00"
    first = post(client, body)
    assert 201 == first.status_code
    eventually(lambda: database.row("SELECT expires_at < now() FROM jobs")[0], what="its end")

    assert answer_of(first) == answer_of(post(client, body))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (r'"a \"b\" \\ c"', r'a "b" \ c'),
        ('"a";v=1;w', "a"),
        ("Zm9v+/==", "Zm9v+/=="),
        ('"' + "x" * 255 + '"', "x" * 255),
        ("x" * 255, "x" * 255),
        (' "a" ', "a"),
    ],
)
def test_a_key_is_read(value, text):
    assert text == parsed(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        '""',
        "x" * 256,
        '"' + "x" * 256 + '"',
        '"a',
        'a"',
        '"a", "b"',
        "a, b",
        "a b",
        '"a\\b"',
        '"é"',
        "é",
        '"\t"',
        "a;b",
    ],
)
def test_a_key_that_is_not_valid_is_refused(client, database, value):
    reply = post(client, key=value)

    assert (400, "idempotency_key_invalid") == (reply.status_code, reply.json["code"])
    assert [] == jobs_in(database)


def test_a_request_in_flight_is_told_of_and_a_retry_gets_its_answer(client, database, settings):
    """Another process has begun with it: its transaction holds the key's lock."""
    first = post(client)
    key = idempotency.Key("anonymous", "/jobs", "order-1", b"")
    database.rows("TRUNCATE idempotency_keys")
    holder = open_database(settings, service="other")
    with holder.atomic():
        holder.rows("SELECT pg_advisory_xact_lock(%s)", (key.lock_id,))

        reply = post(client)

    holder.discard()
    assert (409, "idempotency_key_in_flight") == (reply.status_code, reply.json["code"])
    assert int(reply.headers["Retry-After"]) > 0
    second = post(client)
    assert 201 == second.status_code
    assert [first.json["job_id"], second.json["job_id"]] == [str(job_id) for job_id in jobs_in(database)]


def test_requests_with_one_key_in_one_batch_make_one_job(settings, database):
    """They arrive in the same turn of the event loop, among others without a key."""

    async def send():
        conductor = falcon.testing.ASGIConductor(create_app(settings))
        async with conductor:
            keyed = {"Idempotency-Key": "one", "Content-Type": "application/json"}
            plain = {"Content-Type": "application/json"}
            return await asyncio.gather(
                *(
                    conductor.simulate_post("/jobs", body=json.dumps(CSV), headers=headers)
                    for headers in (keyed, plain, keyed, plain, keyed)
                )
            )

    replies = asyncio.run(send())

    assert [201] * 5 == [reply.status_code for reply in replies]
    assert 1 == len({replies[index].content for index in (0, 2, 4)})
    assert 3 == len(jobs_in(database))


@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_reply_costs_no_second_job(behind_proxy, database, announced, times):
    """PostgreSQL commits, its reply is lost; at the second time the client gets 503, and sends the request again."""
    client, proxy = behind_proxy
    assert 201 == post(client, key="before").status_code
    proxy.lose_reply(KEYED, times=times)

    reply = post(client)

    assert times == proxy.lost
    assert (201 if times == 1 else 503) == reply.status_code
    again = post(client)
    assert 201 == again.status_code
    assert 2 == len(jobs_in(database))
    assert again.json["job_id"] == str(jobs_in(database)[-1])
    if times == 1:
        assert answer_of(reply) == answer_of(again)
        assert 2 == len([event for event in announced if isinstance(event, JobSubmitted)])


def test_a_database_that_says_nothing_confirms_nothing(behind_proxy, database):
    """Whether or not the statement arrived, a retry finds the truth."""
    client, proxy = behind_proxy
    post(client, key="before")
    proxy.blackhole(requests=False)

    reply = post(client)

    assert (503, "database_unavailable") == (reply.status_code, reply.json["code"])
    proxy.heal()
    again = eventually(lambda: _confirmed(post(client)), what="an answer")
    assert {"before", "order-1"} == {key for (key,) in database.rows("SELECT key FROM idempotency_keys")}
    assert str(jobs_in(database)[-1]) == again.json["job_id"]
    assert 2 == len(jobs_in(database))


def _confirmed(reply):
    return reply if reply.status_code == 201 else None


def test_keys_are_deleted_when_their_time_is_over(client, database):
    for key in ("old", "new"):
        post(client, key=key)
    database.rows("UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'")
    service = IdempotencyKeys(database, interval_seconds=1, kept_seconds=86_400)

    assert {"deleted": 1} == service.run_once(Turn())
    assert [("new",)] == database.rows("SELECT key FROM idempotency_keys")
    assert "Idempotent-Replayed" not in post(client, key="old").headers


def test_a_leader_that_has_lost_its_lease_deletes_no_keys(client, database):
    post(client)
    database.rows("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")

    assert {"deleted": 0} == IdempotencyKeys(database, interval_seconds=1, kept_seconds=86_400).run_once(Turn(fence=5))


def test_a_request_without_a_key_sends_no_further_statement(settings, monkeypatch):
    """And one with a key sends one, too."""
    app = create_app(settings)
    client = falcon.testing.TestClient(app)
    plain = {"Content-Type": "application/json"}
    client.simulate_post("/jobs", body=json.dumps(CSV), headers=plain)
    statements = []
    run = type(open_database(settings))._run
    monkeypatch.setattr(
        type(open_database(settings)), "_run", lambda self, sql, *rest: statements.append(sql) or run(self, sql, *rest)
    )

    client.simulate_post("/jobs", body=json.dumps(CSV), headers=plain)
    post(client)

    # The API's keys are read by the clock, whatever a client does.
    without, with_key = (sql for sql in statements if "FROM api_keys" not in sql)
    assert "idempotency" not in without
    assert "idempotency" in with_key


def send_to(port, key, body=CSV):
    """Send a request, and return the status, the body and what is said about it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        connection.request("POST", "/jobs", json.dumps(body), headers)
        reply = connection.getresponse()
        return reply.status, reply.read(), reply.headers.get("Location"), reply.headers.get("Idempotent-Replayed")
    finally:
        connection.close()


def test_requests_that_race_on_two_processes_make_one_job(service, database):
    service.start_api(API_PROCESSES="2")

    with ThreadPoolExecutor(16) as pool:
        for number in range(20):
            replies = list(pool.map(lambda _, key=f"race-{number}": send_to(service.api_port, key), range(16)))
            assert {201, 409} >= {status for status, *_ in replies}
            confirmed = [reply for reply in replies if reply[0] == 201]
            assert 1 == len({reply[:3] for reply in confirmed})
            assert 1 == len([reply for reply in confirmed if reply[3] is None])

    assert 20 == len(jobs_in(database))


def test_an_answer_outlives_the_api(service, database):
    """The process is killed after the commit, before it has answered; another one answers."""
    api = service.start_api(FAILPOINTS="api.after_commit=kill")
    with suppress(OSError, http.client.HTTPException):
        send_to(service.api_port, "order-1")
    [job_id] = eventually(lambda: jobs_in(database), what="the committed job")
    api.kill()
    service.start_api()

    status, body, location, is_replayed = send_to(service.api_port, "order-1")

    assert (201, "true", f"/jobs/{job_id}") == (status, is_replayed, location)
    assert {"job_id": str(job_id), "status": "pending"} == json.loads(body)
    assert [job_id] == jobs_in(database)
