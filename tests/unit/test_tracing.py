"""Tracing costs nothing where it is off, and says nothing of what a job is about where it is on."""

import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from jobs_service import events
from jobs_service.config import Settings
from jobs_service.errors import SettingsError
from jobs_service.events import JobCompleted, JobReceived
from jobs_service.observability import otel, tracing

ROOT = Path(__file__).parents[2]
ENVIRON = {"DATABASE_URL": "postgresql://localhost/none", "REDIS_URL": "redis://localhost"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def exporter(monkeypatch):
    """Make spans in memory."""
    monkeypatch.setattr(events, "_subscribers", [])
    exporter, provider = InMemorySpanExporter(), otel.new_provider()
    provider.add_span_processor(SimpleSpanProcessor(otel.WithoutExceptionTexts(exporter)))
    tracing.use(provider)
    yield exporter
    tracing.end_attempt()
    tracing.use(None)


@pytest.fixture
def tracer(exporter):
    assert exporter
    return tracing._Process.provider.get_tracer("test")


def test_off_nothing_of_it_is_needed():
    """Python raises ImportError for a module that is None. redis-py looks for it too, and takes that for an answer."""
    code = """
import sys
sys.modules["opentelemetry"] = None
import jobs_service.asgi
from jobs_service.worker.assembly import boot
boot()
print([name for name in sys.modules if name.startswith("opentelemetry.")])
"""
    environ = {"PATH": "/usr/bin:/bin", **ENVIRON}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert "[]" == ran.stdout.strip()


def test_off_there_is_no_context():
    with tracing.sending(uuid4(), "t", "default") as traceparent:
        assert traceparent is None
    tracing.begin_attempt(uuid4(), "t", "default", 1, f"00-{TRACE}-00f067aa0ba902b7-01")

    assert tracing.current() is None
    assert tracing._attempt.get() is None


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jobs_service.observability.otel", None)
    monkeypatch.delattr("jobs_service.observability.otel")

    with pytest.raises(SettingsError, match=r"requirements-otel\.txt"):
        tracing.start(Settings.from_env({**ENVIRON, "OTEL_ENABLED": "true"}), service="app")


def test_the_text_of_an_exception_stays_here(exporter):
    job_id = uuid4()

    with pytest.raises(ValueError, match="alice"), tracing.sending(job_id, "t", "default"):
        raise ValueError("alice@example.com")

    [span] = exporter.get_finished_spans()
    assert "ValueError" == span.attributes[tracing.ERROR_TYPE]
    assert ["ValueError"] == [event.attributes["exception.type"] for event in span.events]
    assert "alice" not in span.to_json()


def test_an_attempt_of_a_job_without_a_trace_begins_one(exporter):
    tracing.begin_attempt(uuid4(), "t", "default", 1, None)
    context = tracing.current()
    tracing.end_attempt()

    [span] = exporter.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == context.split("-")[1]
    assert (None, ()) == (span.parent, span.links)
    assert tracing.current() is None


def test_what_an_attempt_had_open_is_not_the_next_ones(exporter):
    for number in (1, 2):
        tracing.begin_attempt(uuid4(), "t", "default", number, None)
    tracing.end_attempt()

    first, second = exporter.get_finished_spans()
    assert first.context.trace_id != second.context.trace_id


def test_an_outcome_told_elsewhere_is_not_this_threads(exporter):
    events.emit(JobCompleted(job_id="x", type="t", queue="default", attempt=1, seconds=0.5, age_seconds=0.7))
    tracing.begin_attempt(uuid4(), "t", "default", 1, None)
    events.emit(JobReceived(job_id="x", type="t"))
    tracing.end_attempt()

    [span] = exporter.get_finished_spans()
    assert tracing.OUTCOME not in span.attributes


def test_a_client_span_needs_somebody_who_asked(exporter, tracer):
    with tracer.start_as_current_span("SELECT", kind=SpanKind.CLIENT), tracer.start_as_current_span("inner"):
        pass
    with tracer.start_as_current_span("request", kind=SpanKind.SERVER):
        tracer.start_span("SELECT", kind=SpanKind.CLIENT).end()

    assert ["SELECT", "request"] == [span.name for span in exporter.get_finished_spans()]


def test_the_clients_wish_not_to_be_sampled_is_kept(exporter):
    tracing.begin_attempt(uuid4(), "t", "default", 1, f"00-{TRACE}-00f067aa0ba902b7-00")

    assert f"00-{TRACE}-" == tracing.current()[:36]
    tracing.end_attempt()
    assert () == exporter.get_finished_spans()


def test_the_page_names_every_attribute():
    page = (ROOT / "docs" / "tracing.md").read_text()
    names = {value for name, value in vars(tracing).items() if name.isupper() and isinstance(value, str)}

    assert names == set(re.findall(r"`((?:messaging|jobs|error|http|url)\.[a-z._]+)`", page))
