"""The spans of a job and the names of their attributes, when OpenTelemetry is installed and enabled.

When it is disabled, nothing of OpenTelemetry is imported and each function here returns at once. The names follow the
semantic conventions for messaging. A submission is the `send` span, whose context is stored on the row; every attempt
is a `process` span of the same trace, linked to it. A statement shared by several calls is in the trace of the first
one.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from jobs_service import events
from jobs_service.config import Settings
from jobs_service.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
JOB_TYPE = "jobs.type"
ATTEMPT = "jobs.attempt"
OUTCOME = "jobs.outcome"
ERROR_TYPE = "error.type"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
URL_PATH = "url.path"

#: Health checks and scrapes.
_UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})

#: The events that say how an attempt ended, and the outcome that its span gets.
_OUTCOMES: dict[type[events.Event], str] = {
    events.JobCompleted: "completed",
    events.JobRetried: "retried",
    events.JobFailed: "failed",
    events.JobSnoozed: "snoozed",
    events.JobDeferred: "deferred",
    events.JobReleased: "released",
    events.VerdictRefused: "refused",
    events.AttemptInterrupted: "interrupted",
}


class _Process:
    """What this process creates spans with; None while tracing is disabled."""

    provider: "TracerProvider | None" = None
    tracer: "Tracer | None" = None


#: The span of this context's attempt, and the token that detaches it as the current span.
_attempt: ContextVar[Any] = ContextVar("attempt", default=None)


def start(settings: Settings, *, service: str) -> None:
    """Enable tracing in this process if OTEL_ENABLED is true. Raises `SettingsError` when the packages are missing."""
    if settings.otel_enabled == "false":
        return
    try:
        from jobs_service.observability import otel
    except ImportError as error:
        raise SettingsError(
            [f"OTEL_ENABLED=true needs OpenTelemetry: pip install -r requirements-otel.txt ({error})"]
        ) from None
    use(otel.provide(service))


def use(provider: "TracerProvider | None") -> None:
    """Create the spans of this process with `provider`. None disables tracing."""
    _Process.provider = provider
    _Process.tracer = provider.get_tracer("jobs_service") if provider else None
    if provider:
        events.subscribe("tracing", _note_ending)


def stop() -> None:
    """Export the remaining spans. For processes that end without running Python's exit handlers."""
    if _Process.provider:
        _Process.provider.shutdown()


def current() -> str | None:
    """Return this thread's trace context as a `traceparent` header, or None without one."""
    if _Process.tracer is None:
        return None
    from opentelemetry.trace import get_current_span

    span = get_current_span().get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 1:02x}" if span.is_valid else None


def begin_request(method: str, path: str, traceparent: str | None) -> Any:  # noqa: ANN401 - OpenTelemetry may be missing
    """Begin the span of a request and make it the current one. Returns what `end_request` needs, None while disabled.

    Health checks and scrapes get none.
    """
    if _Process.tracer is None or path in _UNTRACED:
        return None
    from opentelemetry.context import attach
    from opentelemetry.trace import SpanKind, set_span_in_context

    attributes = {HTTP_METHOD: method, URL_PATH: path}
    span = _Process.tracer.start_span(method, _remote(traceparent), SpanKind.SERVER, attributes)
    return span, attach(set_span_in_context(span))


def end_request(begun: Any, route: str, status: int) -> None:  # noqa: ANN401 - as above
    """End the span of a request. `route` is the template of its path."""
    if begun is None:
        return
    from opentelemetry.context import detach
    from opentelemetry.trace import StatusCode

    span, token = begun
    span.update_name(f"{span.attributes[HTTP_METHOD]} {route}")
    span.set_attributes({HTTP_ROUTE: route, HTTP_STATUS: status})
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.set_attribute(ERROR_TYPE, str(status))
        span.set_status(StatusCode.ERROR)
    detach(token)
    span.end()


def sending(job_id: object, job_type: str, queue: str) -> AbstractContextManager[str | None]:
    """Return a context manager for a submission's span. Its value is the trace context to store on the row."""
    return nullcontext() if _Process.tracer is None else _sending(_Process.tracer, str(job_id), job_type, queue)


@contextmanager
def _sending(tracer: "Tracer", job_id: str, job_type: str, queue: str) -> Iterator[str | None]:
    from opentelemetry.trace import SpanKind

    attributes = _attributes("send", job_id, job_type, queue)
    with tracer.start_as_current_span(f"send {queue}", kind=SpanKind.PRODUCER, attributes=attributes) as span:
        try:
            yield current()
        except Exception as error:
            span.set_attribute(ERROR_TYPE, type(error).__name__)
            raise


def begin_attempt(job_id: object, job_type: str, queue: str, number: int, traceparent: str | None) -> None:
    """Begin the span of this thread's attempt. `end_attempt` ends it."""
    if _Process.tracer is None:
        return
    from opentelemetry.context import attach
    from opentelemetry.trace import Link, SpanKind, get_current_span, set_span_in_context

    end_attempt()
    submission = _remote(traceparent)
    sent = get_current_span(submission).get_span_context()
    span = _Process.tracer.start_span(
        f"process {queue}",
        submission,
        SpanKind.CONSUMER,
        {**_attributes("process", str(job_id), job_type, queue), ATTEMPT: number},
        [Link(sent)] if sent.is_valid else [],
    )
    _attempt.set((span, attach(set_span_in_context(span))))


def end_attempt() -> None:
    """End the span of this thread's attempt, if there is one."""
    if span := leave_attempt():
        span.end()


def leave_attempt() -> Any:  # noqa: ANN401 - OpenTelemetry may be absent
    """Leave this thread's attempt without ending its span, and return the span, or None.

    A copy of the context made before still has it: `end_copied_attempt`, called there, ends it.
    """
    attempt = _attempt.get()
    if attempt is None:
        return None
    from opentelemetry.context import detach

    span, token = attempt
    _attempt.set(None)
    detach(token)
    return span


def end_copied_attempt() -> None:
    """End the span of an attempt in a copy of its thread's context, in which its token means nothing."""
    attempt = _attempt.get()
    if attempt is not None:
        span, _ = attempt
        span.end()


def _remote(traceparent: str | None) -> "Context":
    """Return the context of another process, in which a span of this one continues."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent or ""}, Context())


def _note_ending(event: events.Event) -> None:
    attempt = _attempt.get()
    if attempt is None or type(event) not in _OUTCOMES:
        return
    from opentelemetry.trace import StatusCode

    span, _ = attempt
    span.set_attribute(OUTCOME, _OUTCOMES[type(event)])
    if isinstance(event, events.JobRetried | events.JobFailed | events.JobDeferred):
        span.set_attribute(ERROR_TYPE, event.error)
        span.set_status(StatusCode.ERROR)


def _attributes(operation: str, job_id: str, job_type: str, queue: str) -> dict[str, str]:
    return {
        SYSTEM: "dramatiq",
        OPERATION_NAME: operation,
        OPERATION_TYPE: operation,
        DESTINATION: queue,
        MESSAGE_ID: job_id,
        JOB_TYPE: job_type,
    }
