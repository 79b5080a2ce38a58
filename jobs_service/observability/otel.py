"""OpenTelemetry's SDK as this service sets it up. Imported by `tracing.start` alone: it needs requirements-otel.txt."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.falcon import FalconInstrumentor
from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, Status

#: For what reads the environment, where it does not say otherwise: the stable names of attributes, and no spans for
#: those who only look whether we are there.
_DEFAULTS = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http,database",
    "OTEL_PYTHON_FALCON_EXCLUDED_URLS": "/livez$,/readyz$,/metrics$",
}

#: These may quote what a job is about.
_TEXTS = frozenset({"exception.message", "exception.stacktrace"})


class Asked(Sampler):
    """Leaves out the service's own housekeeping.

    A statement or command outside of any request or attempt is a heartbeat, a sweep or a wait for messages: thousands
    of traces nobody asked for.
    """

    def __init__(self, inner: Sampler) -> None:
        self.inner = inner

    def should_sample(
        self,
        parent_context: Any,  # noqa: ANN401 - this and the rest is handed on as it is
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        *rest: Any,  # noqa: ANN401
        **named: Any,  # noqa: ANN401
    ) -> SamplingResult:
        if kind is SpanKind.CLIENT and not trace.get_current_span(parent_context).get_span_context().is_valid:
            return SamplingResult(Decision.DROP)
        return self.inner.should_sample(parent_context, trace_id, name, kind, *rest, **named)

    def get_description(self) -> str:
        return f"Asked({self.inner.get_description()})"


class Discreet(SpanExporter):
    """Passes spans on without the texts of exceptions."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self.exporter.export([_without_texts(span) for span in spans])

    def shutdown(self) -> None:
        self.exporter.shutdown()


def provide(service: str) -> TracerProvider:
    """Instrument this process's libraries and return what spans are made with. OTEL_* variables say the rest."""
    for name, value in {**_DEFAULTS, "OTEL_SERVICE_NAME": f"async-job-system-{service}"}.items():
        os.environ.setdefault(name, value)
    provider = new_provider()
    provider.add_span_processor(BatchSpanProcessor(Discreet(OTLPSpanExporter())))
    # For what job types instrument themselves.
    trace.set_tracer_provider(provider)
    for instrumentor in (FalconInstrumentor, Psycopg2Instrumentor, RedisInstrumentor):
        instrumentor().instrument(tracer_provider=provider)
    return provider


def new_provider() -> TracerProvider:
    provider = TracerProvider()
    provider.sampler = Asked(provider.sampler)
    return provider


def _without_texts(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        span.attributes,
        [Event(event.name, _kept(event.attributes or {}), event.timestamp) for event in span.events],
        span.links,
        span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _kept(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in _TEXTS}
