"""Any body through the real application into a real PostgreSQL: accepted and kept as it was sent, or a 4xx."""

from uuid import UUID, uuid4

import falcon.testing
import msgspec
import pytest
from as_sent import spelled
from hostile_json import ANY_PAYLOAD, BODIES, HOSTILE, NEAR_VALID
from hypothesis import HealthCheck, given, settings
from rows import claim_one
from time_travel import set_dates

from jobs_service.api.app import create_app
from jobs_service.jobs.job_types import registry

REFUSALS = {400, 411, 413, 415, 422}

#: The database and the application serve all the examples of a test.
many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def check(client, database):
    """Post a body and check all that may be said of the answer."""

    def check(raw):
        reply = client.simulate_post("/jobs", body=raw, headers={"Content-Type": "application/json"})
        if reply.status_code == 201:
            assert_kept(client, database, reply.json["job_id"], members(raw.removeprefix(b"\xef\xbb\xbf")))
        else:
            assert reply.status_code in REFUSALS, (raw, reply.text)
            assert "application/problem+json" == reply.headers["Content-Type"]

    return check


def members(raw):
    return {name: bytes(text) for name, text in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items()}


def assert_kept(client, database, job_id, sent):
    reply = client.simulate_get(f"/jobs/{job_id}")
    assert spelled(sent["payload"]) == spelled(members(reply.content)["payload"])
    set_dates(database.rows, "jobs", [job_id], run_at=0, expires_at=None)
    read = claim_one(database, UUID(job_id), uuid4()).payload
    assert spelled(sent["payload"]) == spelled(read), "the worker reads something else"
    job_type = registry.get(msgspec.json.decode(sent["type"]))
    assert repr(job_type.decode(sent["payload"])) == repr(job_type.decode(read))


@many
@given(raw=BODIES)
def test_any_bytes(check, raw):
    check(raw)


@many
@given(text=ANY_PAYLOAD)
def test_a_payload_of_any_shape(check, text):
    check(text.encode("utf-8", "surrogatepass"))


@many
@given(text=NEAR_VALID)
def test_a_good_body_with_a_hostile_field(check, text):
    check(text.encode("utf-8", "surrogatepass"))


def test_every_hostile_value_as_a_value_and_as_a_name_of_the_payload(check):
    for value in HOSTILE:
        check(b'{"type":"csv-generation","payload":{"a":%b}}' % value.encode())
        check(b'{"type":"csv-generation","payload":[{"a":[%b]}]}' % value.encode())
        check(b'{"type":"csv-generation","payload":{%b:1}}' % value.encode())
