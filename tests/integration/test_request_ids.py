"""A request's id and trace context: in the answer, on the row, and on every log line up to the last attempt's."""

import http.client
import json
from contextlib import suppress
from uuid import uuid4

import pytest
from eventually import eventually
from rows import Sweeps, claim_one

from jobs_service import events
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.jobs import lifecycle
from jobs_service.jobs.lifecycle import OnAmbiguous
from jobs_service.maintenance.expirer import Expirer
from jobs_service.maintenance.liveness import Liveness
from jobs_service.maintenance.service import Turn
from jobs_service.maintenance.strays import Strays
from jobs_service.observability import logs

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

LAST_WORDS = {"Job completed", "Job failed"}


@pytest.fixture
def ask(service):
    """Send a request and return (status, headers, body)."""

    def ask(method, path, *, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", service.api_port, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json", **named})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, reply.headers, json.loads(content)

    return ask


def records(service, child):
    found = []
    for line in service.log(child).splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def test_a_job_is_followed_by_its_request_through_every_attempt(service, ask):
    api = service.start_api()
    worker = service.start_worker()

    status, headers, body = ask(
        "POST", "/jobs", body={"type": "test-log", "payload": {}}, X_Request_ID="my-request", traceparent=TRACEPARENT
    )

    assert (201, "my-request") == (status, headers["X-Request-ID"])
    job = service.when(body["job_id"], "completed")
    assert ("my-request", TRACE) == (job["request_id"], job["trace_id"])
    [accepted] = service.lines(api, body["job_id"])
    assert ("my-request", TRACE) == (accepted["request_id"], accepted["trace_id"])
    lines = eventually(lambda: _whole_story(service, worker, body["job_id"]), what="the last word in the log")
    claimed = [line for line in lines if line["event"] not in {"Job received", "Job not claimed"}]
    said = [line["event"] for line in claimed]
    attempt = ["Job marked as processing", "Said through structlog", "Said through logging"]
    assert [*attempt, "Job retried", *attempt, "Job completed"] == said
    for line in claimed:
        assert ("my-request", TRACE, "test-log", "default") == tuple(
            line[name] for name in ("request_id", "trace_id", "type", "queue")
        )
    assert [1] * 4 + [2] * 4 == [line["attempt"] for line in claimed]
    assert 1 == len({line["worker_id"] for line in lines})


def test_a_request_without_an_id_gets_one_and_errors_have_it_too(service, ask):
    service.start_api()

    answers = [ask("GET", "/jobs"), ask("GET", "/nowhere"), ask("POST", "/jobs", body={"type": "x"}, X_Request_ID="é")]

    assert [200, 404, 422] == [status for status, _, _ in answers]
    assert 3 == len({headers["X-Request-ID"] for _, headers, _ in answers})
    assert all(36 == len(headers["X-Request-ID"]) for _, headers, _ in answers)


def test_what_a_request_leaves_bound_is_not_on_the_next_ones_lines(service, ask, database):
    api = service.start_api(API_THREADS="1")
    ask("GET", "/jobs", X_Request_ID="the-first")
    database.rows("ALTER TABLE jobs RENAME TO elsewhere")

    status, headers, _ = ask("GET", "/jobs", X_Request_ID="the-second")

    assert (503, "the-second") == (status, headers["X-Request-ID"])
    assert ["the-second"] == [line.get("request_id") for line in records(service, api) if line["level"] == "error"]


def _whole_story(service, worker, job_id):
    lines = service.lines(worker, job_id)
    return lines if lines and lines[-1]["event"] in LAST_WORDS else None


@pytest.fixture
def log_events(log_lines, monkeypatch):
    """Return a function that returns the log lines of events."""
    monkeypatch.setattr(events, "_subscribers", [("logs", logs.log_event)])
    return log_lines


def test_the_words_about_a_lost_worker_say_whose_request_it_was(database, dead_letters, submit, log_events):
    job_id = submit(request_id="my-request", traceparent=TRACEPARENT, on_ambiguous=OnAmbiguous.HOLD)
    lifecycle.begin_effect(database, claim_one(database, job_id, uuid4()))

    assert 1 == Sweeps(database, dead_letters).sweep_until_silent()

    lines = log_events()
    assert ["Job rescued", "Outcome unknown", "Job failed"] == [line["event"] for line in lines]
    assert [("my-request", TRACE)] * 3 == [(line["request_id"], line["trace_id"]) for line in lines]


def expire(database, broker):
    database.rows("UPDATE jobs SET expires_at = now() - interval '1 second'")
    Expirer(database, DeadLetterList(broker.client, broker.keys), interval_seconds=1).run_once(Turn())


def fail_strays(database, broker):
    database.rows("UPDATE jobs SET run_at = now() - interval '1 hour'")
    liveness = Liveness(lease_seconds=15, heartbeat_interval_seconds=5)
    dead_letters = DeadLetterList(broker.client, broker.keys)
    Strays(database, broker, dead_letters, interval_seconds=1, liveness=liveness).run_once(Turn())


@pytest.mark.parametrize("fail", [expire, fail_strays])
def test_the_words_about_a_job_that_maintenance_fails_say_whose_request_it_was(
    database, broker, submit, log_events, fail
):
    submit(queue="abandoned", type="forgotten", request_id="my-request", traceparent=TRACEPARENT)

    fail(database, broker)

    [line] = log_events()
    assert ("Job failed", "my-request", TRACE) == (line["event"], line["request_id"], line["trace_id"])
