"""Any body through the real application into a real PostgreSQL: accepted and kept as it was meant, or a 4xx."""

import json

import falcon.testing
import msgspec
import pytest
from hostile_json import ANY_PAYLOAD, BODIES, HOSTILE, NEAR_VALID
from hypothesis import HealthCheck, given, settings

from jobs_service.app import create_app
from jobs_service.registry import registry

REFUSALS = {400, 411, 413, 415, 422}

#: The database and the application serve all the examples of a test.
many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def check(client, row):
    """Post a body and check all that may be said of the answer."""

    def check(raw):
        reply = client.simulate_post("/jobs", body=raw, headers={"Content-Type": "application/json"})
        if reply.status_code == 201:
            assert_kept(client, row, reply.json["job_id"], json.loads(raw))
        else:
            assert reply.status_code in REFUSALS, (raw, reply.text)
            assert "application/problem+json" == reply.headers["Content-Type"]

    return check


def assert_kept(client, row, job_id, sent):
    reply = client.simulate_get(f"/jobs/{job_id}")
    assert same(sent["payload"], reply.json["payload"])
    job_type = registry.get(sent["type"])
    accepted, read = job_type.parse(sent["payload"]), job_type.decode(row(job_id, "payload"))
    assert same(msgspec.to_builtins(accepted), msgspec.to_builtins(read)), "the worker reads another value"


def same(sent, kept):
    """Compare as JSON does: no order of names, and a number may be written in another way, but never be another."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        return sent.keys() == kept.keys() and all(same(value, kept[name]) for name, value in sent.items())
    if isinstance(sent, list | tuple) and isinstance(kept, list | tuple):
        return len(sent) == len(kept) and all(map(same, sent, kept))
    if isinstance(sent, float) and not isinstance(kept, bool | str):
        return sent == float(kept)
    return type(sent) is type(kept) and sent == kept


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
