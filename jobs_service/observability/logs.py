"""Structured logs: one line per event, readable in a terminal, JSON elsewhere. Also logs the events of `events.py`."""

import logging
import math
import sys
import time
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, suppress
from typing import Any, TextIO, cast

import msgspec
import structlog

from jobs_service import events

#: The level of each event that is not "info". What the service recovers from is a warning; what a person must act on is
#: an error.
LEVELS: dict[type[events.Event], str] = {
    events.JobRetried: "warning",
    events.JobRescued: "warning",
    events.VerdictRefused: "warning",
    events.AttemptAmbiguous: "warning",
    events.BreakerOpened: "warning",
    events.MessageNotPublished: "warning",
    events.JobFailed: "error",
    events.MessageQuarantined: "error",
    events.SubscriberFailed: "error",
    events.JobNotClaimed: "debug",
}


def configure(*, form: str, level: str, service: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process. `form` is console, json, or auto: console in a terminal, else json."""
    # Not sys.stderr: Dramatiq replaces it by a pipe to its parent process, and a full pipe would block the workers.
    stream = stream or sys.__stderr__ or sys.stderr
    console = form == "console" or (form == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _observed,
            structlog.processors.TimeStamper(fmt="iso", utc=not console),
            *_rendering(stream, console=console, service=service),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _IgnoringErrors(stream))),
        cache_logger_on_first_use=True,
    )
    _take_in_standard_logging(level)


def bind_anew(**fields: object) -> None:
    """Add these fields to every further line of this thread, and drop those that were bound before."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**fields)


def bind(**fields: object) -> None:
    """Add these fields to every further line of this thread."""
    structlog.contextvars.bind_contextvars(**fields)


def bound(**fields: object) -> AbstractContextManager[None]:
    """Add these fields to the lines of a `with` block."""
    return structlog.contextvars.bound_contextvars(**fields)


def take_in(module: str) -> None:
    """Log what a module writes through the standard `logging` at this service's level, not at that of libraries."""
    logging.getLogger(module).setLevel(_level)


#: Called with the level and the module of each line of level warning or above.
_observers: list[Callable[[str, str], None]] = []


def observe(observer: Callable[[str, str], None]) -> None:
    """Call `observer` for each line of level warning or above. The module of a job's events is "events"."""
    if observer not in _observers:
        _observers.append(observer)


def _observed(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if fields["level"] in {"warning", "error", "critical"}:
        for observer in _observers:
            with suppress(Exception):
                observer(fields["level"], fields.get("module") or "events")
    return fields


#: Seconds between two lines about the failures of a subscriber, which may fail at each event. The metric counts all.
SUBSCRIBER_FAILED_SECONDS = 60.0

#: When the last such line was written, by subscriber and the monotonic clock.
_failures_logged_at: dict[str, float] = {}


def log_event(event: events.Event) -> None:
    """Write an event as a line. Subscribed to `events`."""
    if isinstance(event, events.SubscriberFailed) and not _is_time_to_log(event):
        return
    getattr(structlog.get_logger(), LEVELS.get(type(event), "info"))(event.text, **msgspec.to_builtins(event))


def _is_time_to_log(failed: events.SubscriberFailed) -> bool:
    now = time.monotonic()
    if now < _failures_logged_at.get(failed.subscriber, -math.inf) + SUBSCRIBER_FAILED_SECONDS:
        return False
    _failures_logged_at[failed.subscriber] = now
    return True


_level = logging.INFO

#: Tracebacks leave out local variables, which may hold payloads, addresses and passwords.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _rendering(stream: TextIO, *, console: bool, service: str) -> list[Any]:
    if console:
        return [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), pad_event_to=28, exception_formatter=structlog.dev.plain_traceback
            )
        ]

    def name_service(_: object, __: str, fields: dict[str, Any]) -> dict[str, Any]:
        fields["service"] = service
        return fields

    return [name_service, _TRACEBACKS, structlog.processors.JSONRenderer()]


class _IgnoringErrors:
    """A stream that ignores write errors: a job must not fail because its log line cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


class _ToStructlog(logging.Handler):
    """Passes on what libraries log through the standard `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(module=record.name)
        level = record.levelname.lower()
        error = record.exc_info[1] if record.exc_info else None
        facts = {"error": f"{type(error).__name__}"} if error else {}
        getattr(log, level if level in {"debug", "info", "warning", "error", "critical"} else "info")(
            record.getMessage(), **facts
        )


def _take_in_standard_logging(level: str) -> None:
    global _level  # noqa: PLW0603 - the levels of the standard `logging` are global too
    _level = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers = [_ToStructlog()]
    root.setLevel(max(logging.WARNING, _level))
    # They log every failed attempt with the exception's text, which may quote a payload. Our own events do not.
    logging.getLogger("dramatiq.worker.WorkerThread").setLevel(logging.CRITICAL)
    logging.getLogger("dramatiq.middleware.retries.Retries").setLevel(logging.CRITICAL)
