"""OpenTelemetry: one trace from the request to every attempt, received by a stand-in for a collector."""

import http.client
import json

import pytest
from otlp import Receiver

TRACE, CLIENT_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def traced(service, collector):
    """The service, which sends its spans when it is stopped and not before."""
    service.environ |= {
        "OTEL_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
    }
    return service


def submit(service, job_type, payload, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", service.api_port, timeout=20)
    body = json.dumps({"type": job_type, "payload": payload})
    connection.request("POST", "/jobs", body, {"Content-Type": "application/json", **headers})
    reply = json.loads(connection.getresponse().read())
    connection.close()
    return reply["job_id"]


def test_a_trace_goes_from_the_request_to_every_attempt(traced, collector, row):
    api, worker = traced.start_api(), traced.start_worker()
    job_id = submit(traced, "test-fail-times", {"times": 1}, traceparent=f"00-{TRACE}-{CLIENT_SPAN}-01")
    job = traced.when(job_id, "completed")
    traced.stop()

    [request] = collector.named("POST /jobs")
    assert (TRACE, CLIENT_SPAN, "SERVER") == (request.trace_id, request.parent_id, request.kind)
    [sent] = collector.named("send default")
    assert (TRACE, request.span_id, "PRODUCER") == (sent.trace_id, sent.parent_id, sent.kind)
    assert f"00-{TRACE}-{sent.span_id}-01" == row(job_id, "traceparent")
    attempts = sorted(collector.named("process default"), key=lambda span: span.attributes["jobs.attempt"])
    assert [(1, "retried", True), (2, "completed", False)] == [
        (span.attributes["jobs.attempt"], span.attributes["jobs.outcome"], span.is_error) for span in attempts
    ]
    assert "RuntimeError" == attempts[0].attributes["error.type"]
    for span in attempts:
        assert (TRACE, sent.span_id, "CONSUMER") == (span.trace_id, span.parent_id, span.kind)
        assert [(TRACE, sent.span_id)] == span.links
    for span, operation in [(sent, "send"), *((span, "process") for span in attempts)]:
        assert {
            "messaging.system": "dramatiq",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": "default",
            "messaging.message.id": job_id,
            "jobs.type": "test-fail-times",
        }.items() <= span.attributes.items()
    assert {"async-job-system-app", "async-job-system-worker"} == {span.service for span in collector.spans}
    assert TRACE == job["trace_id"]
    assert {TRACE} == {line["trace_id"] for line in traced.lines(api, job_id)}
    claimed = [line for line in traced.lines(worker, job_id) if "attempt" in line]
    assert {TRACE} == {line["trace_id"] for line in claimed}


def test_statements_and_commands_are_spans_where_somebody_asked_for_them(traced, collector):
    traced.start_api()
    traced.start_worker()
    job_id = submit(traced, "csv-generation", {"name": "Alice"})
    traced.when(job_id, "completed")
    traced.stop()

    [request] = collector.named("POST /jobs")
    [sent] = collector.named("send default")
    [attempt] = collector.named("process default")
    assert "" == request.parent_id
    assert request.trace_id == sent.trace_id == attempt.trace_id
    assert "INSERT INTO jobs" in _queries(collector, sent)
    assert "ZADD ? ? ? ?" in _queries(collector, sent)
    assert "SET status = 'completed'" in _queries(collector, attempt)
    # No heartbeats, sweeps or waits for messages.
    assert not [span for span in collector.spans if span.kind == "CLIENT" and not span.parent_id]
    assert not collector.named("GET /readyz")


def test_a_dead_collector_changes_nothing(traced):
    traced.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    traced.environ["OTEL_EXPORTER_OTLP_TIMEOUT"] = "1"
    traced.start_api(OTEL_BSP_SCHEDULE_DELAY="50")
    traced.start_worker(OTEL_BSP_SCHEDULE_DELAY="50")

    assert "completed" == traced.when(traced.post("csv-generation", {"a": 1}), "completed")["status"]


def _queries(collector, parent):
    children = [span for span in collector.spans if span.parent_id == parent.span_id]
    return "\n".join(span.attributes.get("db.query.text", "") for span in children)
