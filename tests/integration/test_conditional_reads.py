"""`GET /jobs/{id}` with an entity tag."""

import falcon.testing
import pytest
from rows import claim_one, complete_one

from jobs_service.api.app import create_app


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


def read(client, job_id, method="GET", **headers):
    return client.simulate_request(method, f"/jobs/{job_id}", headers=headers)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_job_that_has_not_changed_is_not_sent_again(client, submit, method):
    job_id = submit()
    etag = read(client, job_id).headers["ETag"]

    same = read(client, job_id, method, **{"If-None-Match": f'"other", W/{etag}'})

    assert (304, b"", etag) == (same.status_code, same.content, same.headers["ETag"])
    assert 304 == read(client, job_id, method, **{"If-None-Match": "*"}).status_code
    assert etag == read(client, job_id, method).headers["ETag"]


def test_a_job_that_has_changed_has_another_tag(client, database, submit, worker_id):
    job_id = submit()
    etag = read(client, job_id).headers["ETag"]
    complete_one(database, claim_one(database, job_id, worker_id), "1")

    changed = read(client, job_id, **{"If-None-Match": etag})

    assert (200, "completed") == (changed.status_code, changed.json["status"])
    assert etag != changed.headers["ETag"]


def test_a_tag_that_is_none_gets_the_job(client, submit):
    assert 200 == read(client, submit(), **{"If-None-Match": "no quotes"}).status_code


def test_no_such_job_has_no_tag(client):
    reply = read(client, "x", **{"If-None-Match": "*"})

    assert (404, None) == (reply.status_code, reply.headers.get("ETag"))
