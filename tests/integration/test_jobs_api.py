"""The API in process, on a real PostgreSQL and Valkey."""

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import falcon.testing
import pytest
from time_travel import set_dates

from jobs_service.api.app import create_app
from jobs_service.jobs.queries import Job
from jobs_service.maintenance.expirer import Expirer
from jobs_service.maintenance.service import Turn

CSV = {"type": "csv-generation", "payload": {"name": "Alice", "score": 95}}


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def broker(broker):
    broker.learn(["csv-generation", "EMAIL_SEND"])
    return broker


def post(client, body, **options):
    return client.simulate_post("/jobs", json=body, **options)


def test_a_job_is_accepted_and_published(client, broker):
    reply = post(client, CSV)

    assert 201 == reply.status_code
    assert {"job_id", "status"} == reply.json.keys()
    assert "pending" == reply.json["status"]
    assert f"/jobs/{reply.json['job_id']}" == reply.headers["Location"]
    assert 1 == broker.waiting("default")


def test_an_accepted_job_can_be_read(client):
    job_id = post(client, CSV | {"priority": 7, "max_attempts": 5}).json["job_id"]

    job = client.simulate_get(f"/jobs/{job_id}").json

    assert (job_id, "csv-generation", "pending", None) == tuple(job[k] for k in ("job_id", "type", "status", "result"))
    assert CSV["payload"] == job["payload"]
    assert (0, 5, 7) == (job["attempts"], job["max_attempts"], job["priority"])
    assert ([], 0) == (job["history"], job["history_omitted"])
    assert job["created_at"].endswith("Z")


@pytest.mark.parametrize(
    ("spelling", "stored"),
    [
        ("csv-generation", "csv-generation"),
        ("CSV_GENERATION", "csv-generation"),
        ("email-send", "EMAIL_SEND"),
        ("EMAIL_SEND", "EMAIL_SEND"),
    ],
)
def test_both_spellings_are_the_same_type(client, spelling, stored):
    payload = {"to": "test@example.com", "subject": "s", "body": "b"} if "mail" in spelling.lower() else {"a": 1}

    job_id = post(client, {"type": spelling, "payload": payload}).json["job_id"]

    assert stored == client.simulate_get(f"/jobs/{job_id}").json["type"]
    assert 1 == len(client.simulate_get(f"/jobs?type={spelling}").json["jobs"])


@pytest.mark.parametrize("seconds", [60, 3600.5])
def test_a_delayed_job_is_accepted_and_not_published(client, broker, seconds):
    assert 201 == post(client, CSV | {"delay_seconds": seconds}).status_code
    assert 0 == broker.waiting("default")


def test_a_job_for_a_date_is_accepted_and_shows_it(client, broker):
    run_at = (datetime.now(UTC) + timedelta(days=1)).astimezone(timezone(timedelta(hours=5, minutes=30)))

    job_id = post(client, CSV | {"run_at": run_at.isoformat()}).json["job_id"]

    shown = client.simulate_get(f"/jobs/{job_id}").json["run_at"]
    assert run_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") == shown
    assert 0 == broker.waiting("default")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"payload": {}}, "/type"),
        ({"type": "csv-generation"}, "/payload"),
        (CSV | {"type": "nope"}, "/type"),
        (CSV | {"type": 5}, "/type"),
        (CSV | {"surprise": 1}, "/surprise"),
        (CSV | {"payload": "text"}, "/payload"),
        (CSV | {"priority": 10}, "/priority"),
        (CSV | {"priority": 1.5}, "/priority"),
        (CSV | {"max_attempts": 0}, "/max_attempts"),
        (CSV | {"delay_seconds": -1}, "/delay_seconds"),
        (CSV | {"delay_seconds": 1, "run_at": "2026-01-01T00:00:00Z"}, "/delay_seconds"),
        (CSV | {"run_at": "tomorrow"}, "/run_at"),
        (CSV | {"run_at": "2999-01-01T00:00:00Z"}, "/run_at"),
        (CSV | {"run_at": "2026-01-01T00:00:00"}, "/run_at"),
        ({"type": "EMAIL_SEND", "payload": {"to": "a@b.example", "subject": "s"}}, "/payload/body"),
        (
            {"type": "EMAIL_SEND", "payload": {"to": "a@b.example, c@d.example", "subject": "s", "body": "b"}},
            "/payload/to",
        ),
        (
            {"type": "EMAIL_SEND", "payload": {"to": "a@b.example", "subject": "s\nBcc: x@y.example", "body": "b"}},
            "/payload/subject",
        ),
        ([], ""),
        ("text", ""),
    ],
)
def test_a_bad_field_is_named(client, body, pointer):
    reply = post(client, body)

    assert 422 == reply.status_code
    assert "application/problem+json" == reply.headers["Content-Type"]
    assert [pointer] == [error["pointer"] for error in reply.json["errors"]]
    assert {"type", "title", "status", "detail", "instance", "code"} <= reply.json.keys()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"body": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"body": b'{"a":NaN}', "headers": {"Content-Type": "application/json"}}, 400),
        ({"body": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400),
        ({"headers": {"Content-Type": "application/json"}}, 411),
        ({"body": b"a=1", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
        ({"body": b"{}"}, 415),
        ({"body": b" " * 2_000_000, "headers": {"Content-Type": "application/json"}}, 413),
    ],
)
def test_a_body_that_is_none_gets_its_own_4xx(client, request_, status):
    reply = client.simulate_post("/jobs", **request_)

    assert status == reply.status_code
    assert "application/problem+json" == reply.headers["Content-Type"]


def test_what_a_job_says_about_its_own_limits_is_kept_and_shown(client):
    expires_at = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    job_id = post(client, CSV | {"expires_at": expires_at.isoformat(), "on_ambiguous": "hold"}).json["job_id"]

    job = client.simulate_get(f"/jobs/{job_id}").json

    assert "hold" == job["on_ambiguous"]
    assert expires_at == datetime.fromisoformat(job["expires_at"])


@pytest.mark.parametrize(
    ("wish", "pointer"),
    [
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2999-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "/expires_at"),
        ({"on_ambiguous": "perhaps"}, "/on_ambiguous"),
    ],
)
def test_a_limit_that_makes_no_sense_is_named(client, wish, pointer):
    reply = post(client, CSV | wish)

    assert (422, pointer) == (reply.status_code, reply.json["errors"][0]["pointer"])


def test_nobody_can_keep_a_canary_waiting(client):
    reply = post(client, {"type": "canary-default", "payload": {}, "delay_seconds": 31_000_000})

    assert (422, "/delay_seconds") == (reply.status_code, reply.json["errors"][0]["pointer"])


def test_a_job_cannot_expire_before_it_may_begin(client):
    begin = datetime.now(UTC) + timedelta(hours=2)
    wish = {"run_at": begin.isoformat(), "expires_at": (begin - timedelta(hours=1)).isoformat()}

    assert "/expires_at" == post(client, CSV | wish).json["errors"][0]["pointer"]


def test_a_waiting_job_is_cancelled_once(client):
    job_id = post(client, CSV).json["job_id"]

    assert {"job_id": job_id, "status": "cancelled"} == client.simulate_post(f"/jobs/{job_id}/cancel").json
    again = client.simulate_post(f"/jobs/{job_id}/cancel")

    assert (409, "wrong_status") == (again.status_code, again.json["code"])
    job = client.simulate_get(f"/jobs/{job_id}").json
    assert ("cancelled", "cancelled_by_operator") == (job["status"], job["end_reason"])


def test_a_dead_letter_is_retried_and_leaves_the_list(client, database, dead_letters):
    job_id = post(client, CSV | {"expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}).json["job_id"]
    set_dates(database.rows, "jobs", expires_at=-1)
    Expirer(database, dead_letters, interval_seconds=1).run_once(Turn())
    assert [job_id] == dead_letters.ids()

    reply = client.simulate_post(f"/jobs/{job_id}/retry")

    assert {"job_id": job_id, "status": "pending"} == reply.json
    assert [] == dead_letters.ids()
    job = client.simulate_get(f"/jobs/{job_id}").json
    assert ("pending", 0, None) == (job["status"], job["attempts"], job["end_reason"])


def test_a_job_that_is_not_finished_cannot_be_retried(client):
    job_id = post(client, CSV).json["job_id"]

    reply = client.simulate_post(f"/jobs/{job_id}/retry")

    assert (409, "wrong_status") == (reply.status_code, reply.json["code"])


@pytest.mark.parametrize("verb", ["cancel", "retry"])
@pytest.mark.parametrize("job_id", ["0190aaaa-0000-7000-8000-000000000000", "nonsense"])
def test_a_job_that_is_not_there_can_be_neither(client, verb, job_id):
    assert 404 == client.simulate_post(f"/jobs/{job_id}/{verb}").status_code


def test_a_method_that_is_not_there_is_405_with_allow(client):
    reply = client.simulate_delete("/jobs")

    assert 405 == reply.status_code
    assert "POST" in reply.headers["Allow"]
    assert "application/problem+json" == reply.headers["Content-Type"]


@pytest.mark.parametrize(("path", "status"), [("/jobs", 200), ("/jobs/nope", 404), ("/livez", 200), ("/metrics", 200)])
def test_head_answers_like_get_without_a_body(client, path, status):
    reply = client.simulate_head(path)

    assert status == reply.status_code
    assert b"" == reply.content
    assert client.simulate_get(path).headers["Content-Type"] == reply.headers["Content-Type"]


@pytest.mark.parametrize("path", ["/jobs/01a20e7c-c682-7586-8ed8-78a477572b4b", "/jobs/nope", "/jobs/%00", "/nowhere"])
def test_what_is_not_there_is_404(client, path):
    reply = client.simulate_get(path)

    assert 404 == reply.status_code
    assert "application/problem+json" == reply.headers["Content-Type"]


def test_the_list_is_newest_first_and_pages_by_cursor(client):
    ids = [post(client, CSV).json["job_id"] for _ in range(5)]

    first = client.simulate_get("/jobs?limit=2")
    second = client.simulate_get("/jobs", params={"limit": 2, "cursor": first.json["next_cursor"]})
    third = client.simulate_get("/jobs", params={"limit": 2, "cursor": second.json["next_cursor"]})

    listed = [job["job_id"] for page in (first, second, third) for job in page.json["jobs"]]
    assert sorted(ids) == sorted(listed)
    assert listed == sorted(listed, reverse=True)
    assert third.json["next_cursor"] is None
    assert 'rel="next"' in first.headers["Link"].replace("rel=next", 'rel="next"')


def test_the_list_is_filtered_by_status(client):
    post(client, CSV)

    assert 1 == len(client.simulate_get("/jobs?status=pending").json["jobs"])
    assert [] == client.simulate_get("/jobs?status=failed").json["jobs"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=nope", "status"),
        ("type=nope", "type"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=201", "limit"),
        ("cursor=!", "cursor"),
        ("cursor=AAAA", "cursor"),
        ("surprise=1", "surprise"),
        ("status=pending&status=failed", "status"),
    ],
)
def test_a_bad_parameter_is_named(client, query, named):
    reply = client.simulate_get(f"/jobs?{query}")

    assert 422 == reply.status_code
    assert [named] == [error["pointer"] for error in reply.json["errors"]]


def test_without_redis_a_job_is_accepted_all_the_same(settings, free_port, database):
    away = dataclasses.replace(settings, redis_url=f"redis://127.0.0.1:{free_port()}")
    client = falcon.testing.TestClient(create_app(away))

    replies = [post(client, CSV) for _ in range(3)]

    assert [201] * 3 == [reply.status_code for reply in replies]
    due = database.rows("SELECT publish_at <= now() FROM jobs")
    assert [(True,)] * 3 == due
    assert "degraded" == client.simulate_get("/readyz").json["status"]


def test_without_postgresql_it_is_503_with_retry_after(settings, free_port):
    away = dataclasses.replace(settings, database_url=f"postgresql://user:password@127.0.0.1:{free_port()}/jobs_db")
    client = falcon.testing.TestClient(create_app(away))

    for reply in (post(client, CSV), client.simulate_get("/jobs"), client.simulate_get("/readyz")):
        assert 503 == reply.status_code
        assert reply.headers["Retry-After"]
    assert 200 == client.simulate_get("/livez").status_code
    assert 200 == client.simulate_get("/metrics").status_code


def test_before_the_migration_it_is_503_too(client, database):
    database.rows("ALTER TABLE jobs RENAME TO old_jobs")

    for reply in (post(client, CSV), client.simulate_get("/jobs")):
        assert (503, "database_not_migrated") == (reply.status_code, reply.json["code"])


def test_a_full_window_leaves_the_job_to_the_relay(settings, database):
    narrow = dataclasses.replace(settings, queue_window=10)
    first, second = (falcon.testing.TestClient(create_app(narrow)) for _ in range(2))
    for _ in range(10):
        post(first, CSV)

    assert 201 == post(second, CSV).status_code

    assert (1,) == database.row("SELECT count(*) FROM jobs WHERE publish_at <= now()")


def test_a_full_window_has_room_for_an_urgent_job(settings, broker):
    narrow = falcon.testing.TestClient(create_app(dataclasses.replace(settings, queue_window=10)))
    for _ in range(10):
        post(narrow, CSV)

    assert 201 == post(narrow, CSV | {"priority": 9}).status_code

    assert 11 == broker.waiting("default")


def test_the_model_has_a_field_for_every_column_that_is_shown(database):
    columns = {
        name
        for (name,) in database.rows("SELECT column_name FROM information_schema.columns WHERE table_name = 'jobs'")
    }

    # What the last attempt said of its progress is a column of another table.
    assert set(Job._meta.fields) - {"progress"} <= columns


def test_a_full_window_of_one_type_has_room_for_another(settings, broker):
    narrow = falcon.testing.TestClient(create_app(dataclasses.replace(settings, queue_window=10)))
    for _ in range(15):
        post(narrow, CSV)

    post(narrow, {"type": "EMAIL_SEND", "payload": {"to": "ann@example.com", "subject": "s", "body": "b"}})

    assert 1 == broker.client.zcard(broker.line("default", "EMAIL_SEND"))
