"""Sets up OpenTelemetry's SDK. Only `tracing.start` imports this module, because it needs requirements-otel.txt."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, Status

#: Defaults for the variables that the instrumentation reads: stable attribute names.
_DEFAULTS = {"OTEL_SEMCONV_STABILITY_OPT_IN": "database"}

#: These attributes may quote a payload.
_TEXTS = frozenset({"exception.message", "exception.stacktrace"})


class RequestedOnly(Sampler):
    """Drops the spans of the service's own background work.

    A statement or command outside of any request or attempt is a heartbeat, a sweep or a wait for messages. Each would
    be a trace of its own, thousands of them.
    """

    def __init__(self, inner: Sampler) -> None:
        self.inner = inner

    def should_sample(
        self,
        parent_context: Any,  # noqa: ANN401 - these arguments are passed on unchanged
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
        return f"RequestedOnly({self.inner.get_description()})"


class WithoutExceptionTexts(SpanExporter):
    """Exports spans without the texts of exceptions."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self.exporter.export([_without_texts(span) for span in spans])

    def shutdown(self) -> None:
        self.exporter.shutdown()


def provide(service: str) -> TracerProvider:
    """Instrument this process's libraries and return the tracer provider. OTEL_* variables configure the rest."""
    for name, value in {**_DEFAULTS, "OTEL_SERVICE_NAME": f"async-job-system-{service}"}.items():
        os.environ.setdefault(name, value)
    provider = new_provider()
    provider.add_span_processor(BatchSpanProcessor(WithoutExceptionTexts(OTLPSpanExporter())))
    # For job types that create spans of their own.
    trace.set_tracer_provider(provider)
    for instrumentor in (Psycopg2Instrumentor, RedisInstrumentor):
        instrumentor().instrument(tracer_provider=provider)
    return provider


def new_provider() -> TracerProvider:
    provider = TracerProvider()
    provider.sampler = RequestedOnly(provider.sampler)
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
