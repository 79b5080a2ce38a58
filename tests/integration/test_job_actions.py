"""Cancel with a reason, retry with changes, and a patch that is made only if the job is what the client has seen."""

import json
from datetime import UTC, datetime, timedelta

import falcon.testing
import pytest
from rows import claim_one, complete_one
from time_travel import HOUR, set_dates

from jobs_service.api.app import create_app
from jobs_service.jobs import lifecycle

ALICE = {"name": "Alice", "score": 95}
PATCH = "application/merge-patch+json"


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def post(client):
    def post(**wishes):
        body = {"type": "csv-generation", "payload": ALICE, **wishes}
        return client.simulate_post("/jobs", json=body).json["job_id"]

    return post


@pytest.fixture
def finished(post, database, worker_id):
    """Post a job, complete it, and return its id."""

    def finished(**wishes):
        job_id = post(**wishes)
        complete_one(database, claim_one(database, job_id, worker_id), "1")
        return job_id

    return finished


@pytest.fixture
def patch(client):
    """Patch a job as it is now, unless `if_match` says otherwise."""

    def patch(job_id, body, *, if_match=None, media_type=PATCH):
        if_match = if_match or client.simulate_get(f"/jobs/{job_id}").headers["etag"]
        headers = {"If-Match": if_match, "Content-Type": media_type}
        return client.simulate_patch(f"/jobs/{job_id}", json=body, headers=headers)

    return patch


def test_the_reason_of_a_cancel_is_kept_and_shown(client, post):
    job_id = post()

    assert 200 == client.simulate_post(f"/jobs/{job_id}/cancel", json={"reason": "ordered twice"}).status_code

    job = client.simulate_get(f"/jobs/{job_id}").json
    assert ("ordered twice", "anonymous") == (job["cancel_reason"], job["cancelled_by"])


def test_a_cancel_with_a_wrong_body_cancels_nothing(client, post, row):
    job_id = post()

    for body in ({"reason": 1}, {"reason": ""}, {"why": "x"}, {"reason": "x" * 1001}):
        reply = client.simulate_post(f"/jobs/{job_id}/cancel", json=body)
        assert (422, f"/{next(iter(body))}") == _refusal(reply)

    assert "pending" == row(job_id, "status")


def test_a_job_that_is_redriven_after_its_cancel_is_not_shown_as_cancelled(client, post):
    job_id = post()
    client.simulate_post(f"/jobs/{job_id}/cancel", json={"reason": "too early"})

    client.simulate_post(f"/jobs/{job_id}/retry")

    job = client.simulate_get(f"/jobs/{job_id}").json
    assert ("pending", None, None) == (job["status"], job["cancel_reason"], job["cancelled_by"])


def test_a_retry_with_another_payload_is_a_new_job_that_names_its_origin(client, finished):
    first = finished(priority=8, max_attempts=7)
    before = client.simulate_get(f"/jobs/{first}").json

    reply = client.simulate_post(f"/jobs/{first}/retry", json={"payload": {"name": "Bob", "score": 1}})

    assert 201 == reply.status_code
    assert f"/jobs/{reply.json['job_id']}" == reply.headers["location"]
    job = client.simulate_get(reply.headers["location"]).json
    assert (first, "pending", {"name": "Bob", "score": 1}) == (job["retry_of"], job["status"], job["payload"])
    assert ("csv-generation", 8, 7) == (job["type"], job["priority"], job["max_attempts"])
    assert before == client.simulate_get(f"/jobs/{first}").json


def test_a_retry_with_changes_that_is_sent_again_makes_one_job(client, finished, database):
    first = finished()

    def retry(payload=ALICE, key="a-key"):
        headers = {"Idempotency-Key": key}
        return client.simulate_post(f"/jobs/{first}/retry", json={"payload": payload}, headers=headers)

    made = retry()
    assert (201, None) == (made.status_code, made.headers.get("idempotent-replayed"))
    assert first == client.simulate_get(made.headers["location"]).json["retry_of"]
    again = retry()
    assert (201, "true") == (again.status_code, again.headers["idempotent-replayed"])
    assert (made.content, made.headers["location"]) == (again.content, again.headers["location"])
    # Also when the first job runs once more, or is gone.
    client.simulate_post(f"/jobs/{first}/retry")
    assert (201, made.content) == (retry().status_code, retry().content)
    database.rows("DELETE FROM jobs WHERE id = %s", (first,))
    assert (201, made.content) == (retry().status_code, retry().content)
    assert (422, "idempotency_key_reused") == _code(retry(payload={"name": "Bob"}))
    assert (404, "job_not_found") == _code(retry(key="another"))
    assert [(1,)] == database.rows("SELECT count(*) FROM jobs")


def _code(reply):
    return reply.status_code, reply.json["code"]


def test_a_retry_that_changes_another_field_keeps_the_payload_as_it_was_sent(client, row):
    body = b'{"type":"csv-generation","payload":{"price":1.50,"a":1e5}}'
    first = client.simulate_post("/jobs", body=body, headers={"Content-Type": "application/json"}).json["job_id"]
    client.simulate_post(f"/jobs/{first}/cancel")

    reply = client.simulate_post(f"/jobs/{first}/retry", json={"max_attempts": 2})

    assert '{"price":1.50,"a":1e5}' == row(reply.json["job_id"], "payload_text::text")
    assert 2 == row(reply.json["job_id"], "max_attempts")


def test_a_retry_whose_fields_are_null_is_one_without_changes(client, finished):
    job_id = finished()

    reply = client.simulate_post(f"/jobs/{job_id}/retry", json={"payload": None, "max_attempts": None})

    assert (200, {"job_id": job_id, "status": "pending"}) == _answer(reply)


def test_a_retry_with_an_empty_body_is_one_without_changes(client, finished):
    job_id = finished()

    assert (200, {"job_id": job_id, "status": "pending"}) == _answer(
        client.simulate_post(f"/jobs/{job_id}/retry", json={})
    )


def test_a_retry_is_checked_like_a_submission(client, finished, database):
    job_id = finished()

    for body, pointer in (
        ({"payload": 3}, "/payload"),
        ({"type": "EMAIL_SEND"}, "/type"),
        ({"max_attempts": 0}, "/max_attempts"),
        ({"payload": ALICE, "surprise": 1}, "/surprise"),
        ({"run_at": "2020-01-01T00:00:00Z"}, "/run_at"),
    ):
        assert (422, pointer) == _refusal(client.simulate_post(f"/jobs/{job_id}/retry", json=body))

    assert [(1,)] == database.rows("SELECT count(*) FROM jobs")


def test_a_job_that_is_not_finished_is_not_retried_with_changes(client, post):
    reply = client.simulate_post(f"/jobs/{post()}/retry", json={"payload": ALICE})

    assert (409, "wrong_status") == (reply.status_code, reply.json["code"])


@pytest.mark.parametrize("media_type", [PATCH, "application/json"])
def test_a_pending_job_is_changed(patch, post, media_type):
    job_id = post(delay_seconds=3_600)
    later = (datetime.now(UTC) + timedelta(days=2)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    wanted = {"run_at": later, "priority": 9, "max_attempts": 20, "tags": ["a", "b"]}
    reply = patch(job_id, wanted, media_type=media_type)

    assert 200 == reply.status_code, reply.json
    assert wanted == {name: reply.json[name] for name in wanted}


def test_the_answer_has_the_tag_for_the_next_change(client, patch, post):
    job_id = post(delay_seconds=3_600)

    first = patch(job_id, {"priority": 9})
    second = patch(job_id, {"priority": 8}, if_match=first.headers["etag"])

    assert client.simulate_get(f"/jobs/{job_id}").headers["etag"] == second.headers["etag"] != first.headers["etag"]


def test_tags_are_removed_by_null_and_other_fields_are_not(patch, post):
    job_id = post(delay_seconds=3_600)
    patch(job_id, {"tags": ["a"]})

    assert [] == patch(job_id, {"tags": None}).json["tags"]
    assert (422, "/priority") == _refusal(patch(job_id, {"priority": None}))


def test_a_patch_of_a_job_that_was_changed_meanwhile_changes_nothing(client, patch, post, row):
    job_id = post(delay_seconds=3_600)
    seen = client.simulate_get(f"/jobs/{job_id}").headers["etag"]
    patch(job_id, {"priority": 1})

    reply = patch(job_id, {"priority": 9}, if_match=seen)

    assert (412, "precondition_failed") == (reply.status_code, reply.json["code"])
    assert 1 == row(job_id, "priority")


def test_a_change_between_the_look_and_the_write_is_seen(database, submit, row):
    """The relay, or another client, writes the row after it was compared."""
    job_id = submit()
    version = lifecycle.version(database, job_id)
    lifecycle.publish_soon(database, [job_id])

    assert lifecycle.change(database, job_id, lifecycle.Changes(priority=9), version=version) is None
    assert 5 == row(job_id, "priority")


def test_a_patch_without_a_precondition_is_refused(client, post):
    reply = client.simulate_patch(f"/jobs/{post()}", json={"priority": 9})

    assert (428, "precondition_required") == (reply.status_code, reply.json["code"])


def test_a_star_matches_any_job_that_exists(patch, post):
    assert 200 == patch(post(delay_seconds=3_600), {"priority": 9}, if_match="*").status_code
    assert 404 == patch("0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41", {}, if_match="*").status_code


def test_a_weak_tag_matches_nothing(client, patch, post):
    job_id = post(delay_seconds=3_600)
    tag = client.simulate_get(f"/jobs/{job_id}").headers["etag"]

    assert 412 == patch(job_id, {"priority": 9}, if_match=f"W/{tag}").status_code
    assert 200 == patch(job_id, {"priority": 9}, if_match=f'"other", {tag}').status_code


def test_a_job_that_is_not_pending_is_not_changed(patch, finished):
    reply = patch(finished(), {"priority": 9})

    assert (409, "wrong_status") == (reply.status_code, reply.json["code"])


def test_a_wrong_patch_is_refused_by_name(patch, post, database):
    job_id = post(max_attempts=5)
    database.rows("UPDATE jobs SET attempts = 1")

    for body, pointer in (
        ({"priority": 10}, "/priority"),
        ({"max_attempts": 1}, "/max_attempts"),
        ({"tags": ["a", "a"]}, "/tags"),
        ({"tags": [""]}, "/tags/0"),
        ({"run_at": "2100-01-01T00:00:00Z"}, "/run_at"),
        ({"run_at": "2026-01-01T00:00:00"}, "/run_at"),
        ({"status": "completed"}, "/status"),
        ([], ""),
    ):
        assert (422, pointer) == _refusal(patch(job_id, body))


def test_a_job_cannot_be_put_off_beyond_its_end(patch, post):
    now = datetime.now(UTC)
    job_id = post(delay_seconds=60, expires_at=(now + timedelta(hours=1)).isoformat())

    reply = patch(job_id, {"run_at": (now + timedelta(hours=2)).isoformat()})

    assert (422, "/run_at") == (reply.status_code, reply.json["errors"][0]["pointer"])


def test_a_message_follows_its_job_to_its_new_place(patch, post, broker):
    """Jobs of one priority: the last becomes the first, then goes behind the others."""
    broker.learn(["csv-generation"])
    line = broker.line("default", "csv-generation")
    first, second = post(), post()
    assert [first, second] == _ids(broker, line)

    patch(second, {"priority": 9})
    assert [second, first] == _ids(broker, line)
    patch(second, {"priority": 0})
    assert [first, second] == _ids(broker, line)


def test_a_job_that_is_put_off_has_no_message_and_is_not_claimed_by_an_old_one(
    patch, post, broker, database, worker_id
):
    broker.learn(["csv-generation"])
    job_id = post()

    patch(job_id, {"run_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat()})

    assert [] == _ids(broker, broker.line("default", "csv-generation"))
    assert claim_one(database, job_id, worker_id) is None


def test_a_job_that_is_brought_forward_is_due_for_the_relay(patch, post, row):
    job_id = post(delay_seconds=3_600)

    patch(job_id, {"run_at": datetime.now(UTC).isoformat()})

    assert row(job_id, "run_at <= now() AND publish_at <= now()")


def test_a_patch_of_other_fields_keeps_the_jobs_place(patch, post, database, row):
    job_id = post()
    set_dates(database.rows, "jobs", run_at=-HOUR)
    before = row(job_id, "run_at")

    patch(job_id, {"tags": ["a"]})

    assert before == row(job_id, "run_at")


def _answer(reply):
    return reply.status_code, reply.json


def _refusal(reply):
    return reply.status_code, reply.json["errors"][0]["pointer"]


def _ids(broker, line):
    return [json.loads(member)["args"][0] for member in broker.client.zrange(line, 0, -1)]
