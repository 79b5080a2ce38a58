"""/job-types shows every type with a payload that it accepts, and needs no server."""

import falcon.asgi
import falcon.testing
import msgspec
import pytest

from jobs_service.api import problems
from jobs_service.api.operations import Contract
from jobs_service.api.resources.job_types import JobTypeCollection, JobTypeItem, info
from jobs_service.config import Settings
from jobs_service.jobs.job_types import JobType, load, noop, registry

ENVIRON = {
    "DATABASE_URL": "postgresql://x@localhost/x",
    "REDIS_URL": "redis://localhost",
    "MAX_RUNNING": "email_send=3",
}


@pytest.fixture(scope="module")
def client():
    """Without the middleware that asks PostgreSQL for API keys."""
    app = falcon.asgi.App(middleware=[Contract()])
    problems.install(app)
    app.add_route("/job-types", JobTypeCollection(load(), Settings.from_env(ENVIRON)))
    app.add_route("/job-types/{name}", JobTypeItem(load(), Settings.from_env(ENVIRON)))
    return falcon.testing.TestClient(app)


def test_every_type_is_listed_and_no_canary(client):
    shown = client.simulate_get("/job-types").json

    assert ["EMAIL_SEND", "csv-generation"] == [job_type["name"] for job_type in shown["job_types"]]
    assert (1_048_576, 32, 200) == tuple(shown["limits"][name] for name in ("body_bytes", "body_depth", "page_jobs"))


@pytest.mark.parametrize("name", ["EMAIL_SEND", "csv-generation"])
def test_a_type_says_what_it_takes_and_how_it_runs(client, name):
    shown = client.simulate_get(f"/job-types/{name}").json

    assert registry.get(name).decode(msgspec.json.encode(shown["example"]))
    assert shown["description"]
    assert shown["payload_schema"]
    assert (8, 60.0, "default") == (shown["max_attempts"], shown["time_limit_seconds"], shown["queue"])
    assert shown == next(kind for kind in client.simulate_get("/job-types").json["job_types"] if kind["name"] == name)


def test_the_limit_of_running_jobs_is_that_of_the_settings(client):
    shown = {kind["name"]: kind["max_running"] for kind in client.simulate_get("/job-types").json["job_types"]}

    assert {"EMAIL_SEND": 3, "csv-generation": 15} == shown


def test_a_type_says_whether_it_is_sensitive():
    quiet = JobType("quiet", dict, noop, is_sensitive=True)
    settings = Settings.from_env(ENVIRON)

    assert [True, False] == [info(kind, settings).is_sensitive for kind in (quiet, registry.get("csv-generation"))]


def test_the_limits_say_how_long_jobs_are_kept(client):
    kept = client.simulate_get("/job-types").json["limits"]["retention_seconds"]

    assert {"completed": 604_800, "failed": 7_776_000, "cancelled": 604_800} == kept


def test_a_type_is_found_in_any_spelling(client):
    assert "EMAIL_SEND" == client.simulate_get("/job-types/email-send").json["name"]


@pytest.mark.parametrize("name", ["nope", "canary-default", "%00"])
def test_an_unknown_type_is_404(client, name):
    reply = client.simulate_get(f"/job-types/{name}")

    assert (404, "job_type_not_found") == (reply.status_code, reply.json["code"])
