"""Many jobs in one request: all or none of them, or as many as are valid."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

import falcon.testing
import msgspec
import pytest
from eventually import eventually
from prometheus_client import REGISTRY
from proxy import Proxy

from jobs_service.api.app import create_app
from jobs_service.api.resources import batches as resource
from jobs_service.config import Settings
from jobs_service.events import JobSubmitted, MessageNotPublished
from jobs_service.submission import batches
from jobs_service.submission.batches import MAX_JOBS

CSV = {"type": "csv-generation", "payload": {"name": "Alice", "score": 95}}
WRONG = CSV | {"priority": 60}
JSON, NDJSON = "application/json", "application/x-ndjson"


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def broker(broker):
    broker.learn(["csv-generation"])
    return broker


def encoded(jobs, media_type=JSON):
    if media_type == NDJSON:
        return b"\n".join(json.dumps(job).encode() for job in jobs)
    return json.dumps(jobs).encode()


def post(client, jobs, *, media_type=JSON, mode="", **headers):
    body = jobs if isinstance(jobs, bytes) else encoded(jobs, media_type)
    headers = {"Content-Type": media_type} | headers
    return client.simulate_post(f"/jobs/batch{mode and f'?mode={mode}'}", body=body, headers=headers)


def jobs_in(database):
    return [job_id for (job_id,) in database.rows("SELECT id FROM jobs ORDER BY id")]


def pointers(reply):
    return [error["pointer"] for error in reply.json["errors"]]


@pytest.mark.parametrize("how", [{}, {"media_type": NDJSON}, {"mode": "atomic"}, {"mode": "partial"}], ids=str)
def test_all_jobs_are_submitted_in_their_order(client, database, broker, announced, how):
    jobs = [CSV | {"payload": {"number": number}, "tags": [f"n{number}"]} for number in range(1_201)]

    reply = post(client, jobs, **how)

    assert 201 == reply.status_code
    assert (1_201, 0) == (reply.json["submitted"], reply.json["refused"])
    ids = [UUID(result["job_id"]) for result in reply.json["results"]]
    assert {201} == {result["status"] for result in reply.json["results"]}
    # Ids are in the order of the batch, so lists are, too.
    assert sorted(ids) == ids == jobs_in(database)
    stored = database.rows("SELECT payload->>'number', tags FROM jobs ORDER BY id")
    assert [(str(number), [f"n{number}"]) for number in range(1_201)] == stored
    assert 1_201 == broker.waiting("default")
    told = [event.job_id for event in announced if isinstance(event, JobSubmitted)]
    assert told == [str(job_id) for job_id in ids]


def test_each_job_of_a_batch_is_counted(client):
    name, labels = "jobs_submitted_total", {"queue_name": "default", "actor_name": "csv-generation", "source": "api"}
    before = REGISTRY.get_sample_value(name, labels) or 0

    post(client, [CSV] * 3)

    assert 3 == REGISTRY.get_sample_value(name, labels) - before


def test_a_batch_is_a_transaction_with_a_statement_for_each_piece(settings, database, monkeypatch):
    app = create_app(settings)
    client = falcon.testing.TestClient(app)
    post(client, [CSV])
    statements = []
    run = type(database)._run
    monkeypatch.setattr(
        type(database), "_run", lambda self, sql, *rest: statements.append(sql) or run(self, sql, *rest)
    )

    post(client, [CSV] * (2 * batches.PIECE + 1))

    # The API's keys are read by the clock, whatever a client does.
    sent = [sql.split()[0] for sql in statements if "FROM api_keys" not in sql]
    assert ["BEGIN", "WITH", "WITH", "WITH", "COMMIT"] == sent


def test_one_invalid_job_is_enough_to_submit_none(client, database, broker):
    jobs = [CSV] * 9_999
    jobs[9_998] = {"type": "csv-generation", "payload": "text"}

    reply = post(client, jobs)

    assert (422, "invalid_request") == (reply.status_code, reply.json["code"])
    assert ["/9998/payload"] == pointers(reply)
    assert [] == jobs_in(database)
    assert 0 == broker.waiting("default")


def test_all_that_is_wrong_is_said_up_to_a_limit(client):
    reply = post(client, [WRONG, CSV, {"type": "nope", "payload": {}}, {}, CSV | {"surprise": 1}, 5])

    assert ["/0/priority", "/2/type", "/3/type", "/4/surprise", "/5"] == pointers(reply)
    assert "5 jobs" in reply.json["detail"]
    reply = post(client, [WRONG] * 300)
    assert (batches.MAX_PROBLEMS, True) == (len(pointers(reply)), "300 jobs" in reply.json["detail"])


def test_a_job_that_has_expired_counts_as_invalid(client, database):
    """Only PostgreSQL knows: its clock decides."""
    late = CSV | {"expires_at": "2020-01-01T00:00:00Z"}

    reply = post(client, [CSV, late])

    assert (422, ["/1/expires_at"]) == (reply.status_code, pointers(reply))
    assert [] == jobs_in(database)
    reply = post(client, [CSV, late], mode="partial")
    assert [201, 422] == [result["status"] for result in reply.json["results"]]
    assert [UUID(reply.json["results"][0]["job_id"])] == jobs_in(database)


def test_the_valid_jobs_are_submitted_if_that_is_asked_for(client, database):
    reply = post(client, [CSV, WRONG, CSV, {"type": "nope", "payload": {}}], mode="partial")

    assert (207, 2, 2) == (reply.status_code, reply.json["submitted"], reply.json["refused"])
    first, wrong, second, unknown = reply.json["results"]
    assert [UUID(first["job_id"]), UUID(second["job_id"])] == jobs_in(database)
    assert {"status", "problem"} == wrong.keys()
    assert (422, "invalid_request", "/docs/errors#invalid_request") == (
        wrong["problem"]["status"],
        wrong["problem"]["code"],
        wrong["problem"]["type"],
    )
    assert ["/1/priority"] == [error["pointer"] for error in wrong["problem"]["errors"]]
    assert ["/3/type"] == [error["pointer"] for error in unknown["problem"]["errors"]]


def test_a_batch_may_have_no_valid_job(client, database):
    reply = post(client, [WRONG, WRONG], mode="partial")

    assert (207, 0, 2) == (reply.status_code, reply.json["submitted"], reply.json["refused"])
    assert [] == jobs_in(database)


def test_a_line_that_is_no_json_is_one_invalid_job(client, database):
    lines = [
        encoded([CSV]),
        b'{"type":',
        b'{"type":"csv-generation","type":"EMAIL_SEND","payload":{}}',
        b"\xff",
        b"[" * 9_000,
    ]
    body = b"\r\n\n".join([*(line.strip(b"[]") if index == 0 else line for index, line in enumerate(lines)), b""])

    reply = post(client, body, media_type=NDJSON, mode="partial")

    assert [201, 400, 400, 400, 400] == [result["status"] for result in reply.json["results"]]
    assert {"malformed_body"} == {result["problem"]["code"] for result in reply.json["results"][1:]}
    assert 1 == len(jobs_in(database))
    reply = post(client, body, media_type=NDJSON)
    assert (400, "malformed_body", ["/1"]) == (reply.status_code, reply.json["code"], pointers(reply))
    assert 1 == len(jobs_in(database))


MANY = ",".join([json.dumps(CSV)] * 600).encode()


BROKEN = [
    b"",
    b" ",
    b"{",
    b"[",
    b"[" * 100_000,
    b"[" + MANY,
    b"[" + MANY + b",",
    b"[" + MANY + b",]",
    b"[" + MANY + b"]]",
    b"[" + MANY + b"] x",
    b"[" + MANY + b" " + MANY + b"]",
    b"[" + MANY + b',{"type":NaN}]',
    b"[" + MANY + b',{"type":"csv-generation","type":"x"}]',
    b"[" + MANY + b"," + b'{"payload":' * 50_000 + b"]",
    b"[" + MANY + b',"\xff"]',
]


@pytest.mark.parametrize("mode", ["atomic", "partial"])
def test_a_body_that_is_no_json_array_of_jobs_submits_none(client, database, mode):
    for body, status in [*((body, 400) for body in BROKEN), *((body, 422) for body in (b"[]", b"{}", b'"t"', b"null"))]:
        reply = post(client, body, mode=mode)

        assert status == reply.status_code, body[-20:]
        assert "application/problem+json" == reply.headers["Content-Type"]
    assert [] == jobs_in(database)


def test_blanks_and_a_byte_order_mark_do_not_matter(client, database):
    body = (
        b"\xef\xbb\xbf\n [ \t" + json.dumps(CSV, indent=2).encode() + b"\r\n ,\n" + json.dumps(CSV).encode() + b" ] \n"
    )

    assert 201 == post(client, body).status_code
    assert 201 == post(client, b"\xef\xbb\xbf" + encoded([CSV], NDJSON), media_type=NDJSON).status_code
    assert 3 == len(jobs_in(database))


def test_an_item_keeps_to_the_rules_of_a_single_job(client, settings):
    long = {"type": "csv-generation", "payload": {"a": "x" * settings.max_body_bytes}}
    deep = json.loads('{"type":"csv-generation","payload":{"a":' + "[" * 40 + "]" * 40 + "}}")
    for media_type in (JSON, NDJSON):
        reply = post(client, [CSV, long, CSV | {"payload": {"a": "\0"}}], media_type=media_type)
        assert (422, ["/1", "/2/payload/a"]) == (reply.status_code, pointers(reply))
        assert str(settings.max_body_bytes) in reply.json["errors"][0]["detail"]
        assert 400 == post(client, [CSV, deep], media_type=media_type).status_code


def test_a_payload_is_kept_as_it_was_sent(client):
    texts = ['{"b":1.50,"a":1e5}', '{"z":-0, "a" : "é\\u00e9"}']
    body = "[" + ",".join(f'{{"type":"csv-generation","payload":{text}}}' for text in texts) + "]"

    results = post(client, body.encode()).json["results"]

    shown = [client.simulate_get(f"/jobs/{result['job_id']}").text for result in results]
    assert '"payload":{"b":1.50,"a":1e5}' in shown[0]
    assert '"z":-0' in shown[1]


def test_a_batch_has_a_limit_of_jobs(client, database):
    assert 201 == post(client, [CSV] * MAX_JOBS).status_code
    reply = post(client, [CSV] * (MAX_JOBS + 1))

    assert (422, "invalid_request") == (reply.status_code, reply.json["code"])
    assert "10000" in reply.json["detail"]
    assert MAX_JOBS == len(jobs_in(database))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"headers": {"Content-Type": "text/plain"}, "body": b"[]"}, 415),
        ({"headers": {"Content-Type": JSON, "Content-Encoding": "gzip"}, "body": b"[]"}, 415),
        ({"headers": {"Content-Type": JSON}, "body": b" " * 17_000_000}, 413),
        ({"headers": {"Content-Type": JSON}, "body": b"[]", "query_string": "mode=some"}, 422),
        ({"headers": {"Content-Type": JSON}, "body": b"[]", "query_string": "limit=1"}, 422),
    ],
)
def test_what_is_no_batch_gets_its_own_4xx(client, request_, status):
    assert status == client.simulate_post("/jobs/batch", **request_).status_code


def test_the_route_has_no_other_method(client):
    reply = client.simulate_get("/jobs/batch")

    assert (405, "POST, OPTIONS") == (reply.status_code, reply.headers["Allow"])


def test_what_the_window_has_no_room_for_is_left_to_the_relay(environ, database, broker):
    client = falcon.testing.TestClient(create_app(Settings.from_env(environ | {"QUEUE_WINDOW": "10"})))

    results = post(client, [CSV] * 25).json["results"]

    assert 10 == broker.waiting("default")
    due = database.rows("SELECT id FROM jobs WHERE publish_at <= now() ORDER BY id")
    assert [result["job_id"] for result in results[10:]] == [str(job_id) for (job_id,) in due]


def test_without_redis_a_batch_is_left_to_the_relay(environ, database, announced, free_port):
    url = f"redis://127.0.0.1:{free_port()}"
    client = falcon.testing.TestClient(create_app(Settings.from_env(environ | {"REDIS_URL": url})))

    assert 201 == post(client, [CSV] * 30).status_code
    assert 30 == database.row("SELECT count(*) FROM jobs WHERE publish_at <= now()")[0]
    assert 1 == len([event for event in announced if isinstance(event, MessageNotPublished)])


def test_a_batch_is_replayed_byte_for_byte(client, database, announced):
    jobs = [CSV, WRONG, CSV]
    first, again = [post(client, jobs, mode="partial", **{"Idempotency-Key": '"b-1"'}) for _ in range(2)]

    assert 207 == first.status_code == again.status_code
    assert first.content == again.content
    assert (None, "true") == (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"])
    assert 2 == len(jobs_in(database)) == len([event for event in announced if isinstance(event, JobSubmitted)])
    for reply in (
        post(client, jobs, mode="atomic", **{"Idempotency-Key": '"b-1"'}),
        post(client, jobs[:1], mode="partial", **{"Idempotency-Key": '"b-1"'}),
        post(client, encoded([CSV], NDJSON), media_type=NDJSON, mode="partial", **{"Idempotency-Key": '"b-1"'}),
    ):
        assert 422 == reply.status_code
    assert 2 == len(jobs_in(database))


def test_a_key_belongs_to_a_path(client, database):
    headers = {"Content-Type": JSON, "Idempotency-Key": "same"}
    assert 201 == client.simulate_post("/jobs", body=json.dumps(CSV), headers=headers).status_code

    assert "Idempotent-Replayed" not in post(client, [CSV], **{"Idempotency-Key": "same"}).headers
    assert 2 == len(jobs_in(database))


def test_a_batch_that_was_refused_leaves_its_key_free(client, database):
    key = {"Idempotency-Key": "b-2"}
    assert 422 == post(client, [CSV, WRONG], **key).status_code
    assert 422 == post(client, [CSV, CSV | {"expires_at": "2020-01-01T00:00:00Z"}], **key).status_code

    assert 201 == post(client, [CSV, CSV], **key).status_code
    assert 2 == len(jobs_in(database))


@pytest.fixture
def behind_proxy(environ, postgres, database_url):
    with Proxy(postgres.port) as proxy:
        url = database_url.replace(str(postgres.port), str(proxy.port))
        # One for all, so that it is kept: on a new connection nothing is sent a second time.
        own = {"DATABASE_URL": url, "DATABASE_CONNECTIONS": "1"}
        yield falcon.testing.TestClient(create_app(Settings.from_env(environ | own))), proxy


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("lost", [b"COMMIT", b"INSERT INTO jobs"])
def test_a_lost_reply_submits_no_job_twice_and_none_in_part(behind_proxy, database, announced, lost, times):
    client, proxy = behind_proxy
    post(client, [CSV])
    proxy.lose_reply(lost, times=times)
    jobs, key = [CSV] * 700, {"Idempotency-Key": "b-3"}

    reply = post(client, jobs, **key)

    assert times == proxy.lost
    assert reply.status_code == (201 if times == 1 else 503)
    assert len(jobs_in(database)) in {1, 701}
    again = eventually(lambda: _confirmed(post(client, jobs, **key)), what="an answer")
    assert 701 == len(jobs_in(database))
    assert [result["job_id"] for result in again.json["results"]] == [str(job_id) for job_id in jobs_in(database)[1:]]
    if times == 1:
        assert reply.content == again.content
        assert 701 == len([event for event in announced if isinstance(event, JobSubmitted)])


def _confirmed(reply):
    return reply if reply.status_code == 201 else None


def test_a_lost_reply_without_a_key_submits_no_job_twice_either(behind_proxy, database):
    client, proxy = behind_proxy
    post(client, [CSV])
    proxy.lose_reply(b"COMMIT")

    assert 201 == post(client, [CSV] * 10).status_code
    assert 11 == len(jobs_in(database))


def test_without_postgresql_nothing_is_confirmed(behind_proxy):
    client, proxy = behind_proxy
    proxy.down()

    reply = post(client, [CSV])

    assert (503, "database_unavailable") == (reply.status_code, reply.json["code"])
    assert reply.headers["Retry-After"]


def test_single_jobs_do_not_wait_for_a_batch_and_further_batches_are_refused(service, database):
    """A batch stands still in its transaction, behind a lock that only jobs of its priority wait for."""
    service.start_api()
    database.rows(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$"
    )
    database.rows(
        "CREATE TRIGGER hold BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.priority = 1) EXECUTE FUNCTION hold()"
    )
    slow = [CSV | {"priority": 1}]
    with ThreadPoolExecutor(8) as pool:
        with database.atomic():
            database.rows("SELECT pg_advisory_xact_lock(7)")
            held = [pool.submit(send, service.api_port, slow) for _ in range(resource.MAX_WAITING + 1)]
            eventually(lambda: _waits_for_the_lock(database), what="a batch that waits")

            assert 201 == service.request("POST", "/jobs", CSV)[0]
            status, body = eventually(lambda: _refused(service.api_port), what="a refusal")
        statuses = [future.result()[0] for future in held]

    assert (503, "too_busy") == (status, body["code"])
    assert 201 in statuses


def _waits_for_the_lock(database):
    [(count,)] = database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return count


def _refused(port):
    status, body = send(port, [CSV | {"priority": 1}])
    return (status, body) if status == 503 and body["code"] == "too_busy" else None


def send(port, jobs, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/jobs/batch", encoded(jobs), {"Content-Type": JSON} | headers)
        reply = connection.getresponse()
        return reply.status, json.load(reply)
    finally:
        connection.close()


def test_batches_that_race_on_two_processes_are_submitted_once(service, database):
    service.start_api(API_PROCESSES="2")
    jobs = [CSV] * 300

    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: send(service.api_port, jobs, **{"Idempotency-Key": "race"}), range(12)))

    assert {201, 409, 503} >= {status for status, _ in replies}
    answers = {msgspec.json.encode(body) for status, body in replies if status == 201}
    assert 1 == len(answers)
    assert 300 == len(jobs_in(database))


def test_a_batch_outlives_the_api(service, database):
    """The process is killed after the commit, before it has answered; another one answers."""
    api = service.start_api(FAILPOINTS="api.after_commit=kill")
    with suppress(OSError, http.client.HTTPException):
        send(service.api_port, [CSV] * 40, **{"Idempotency-Key": "b-4"})
    ids = eventually(lambda: jobs_in(database), what="the committed jobs")
    api.kill()
    service.start_api()

    status, body = send(service.api_port, [CSV] * 40, **{"Idempotency-Key": "b-4"})

    assert 201 == status
    assert [str(job_id) for job_id in ids] == [result["job_id"] for result in body["results"]]
    assert ids == jobs_in(database)


def test_the_jobs_of_a_batch_run(service, database):
    """More of them than the window: the relay publishes the rest."""
    service.start_api(QUEUE_WINDOW="20")
    service.start_worker(QUEUE_WINDOW="20")

    status, _ = send(service.api_port, [CSV] * 60)

    assert 201 == status
    eventually(lambda: database.row("SELECT count(*) = 60 FROM jobs WHERE status = 'completed'")[0], what="all jobs")


def test_a_batch_may_be_larger_than_a_single_body_and_comes_in_chunks(service, database):
    service.start_api()
    connection = http.client.HTTPConnection("127.0.0.1", service.api_port, timeout=60)
    line = encoded([CSV | {"payload": {"a": "x" * 30_000}}], NDJSON) + b"\n"

    connection.request("POST", "/jobs/batch", (line for _ in range(100)), {"Content-Type": NDJSON}, encode_chunked=True)
    reply = connection.getresponse()

    assert (201, 100) == (reply.status, json.load(reply)["submitted"])
    connection.close()
    assert 100 == len(jobs_in(database))
