"""Structured logs: one line per event, readable in a terminal, JSON elsewhere. Also logs the events of `events.py`."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO, cast

import msgspec
import structlog

from jobs_service import events
from jobs_service.observability.json_lines import JsonLines, encode

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


#: The fields that are bound in this thread or task. Replaced as a whole, never changed: tasks share what they inherit.
_bound: ContextVar[Mapping[str, object]] = ContextVar("bound", default=MappingProxyType({}))


class _Process:
    """Where this process writes JSON lines, and under which name; None without logging, and in a terminal."""

    lines: JsonLines | None = None
    service = ""


def configure(*, form: str, level: str, service: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process. `form` is console, json, or auto: console in a terminal, else json."""
    # Not sys.stderr: Dramatiq replaces it by a pipe to its parent process, and a full pipe would block the workers.
    stream = stream or sys.__stderr__ or sys.stderr
    console = form == "console" or (form == "auto" and stream.isatty())
    _Process.service, _Process.lines = service, None if console else JsonLines(stream)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_bound,
            structlog.processors.add_log_level,
            _observed,
            structlog.processors.TimeStamper(fmt="iso", utc=not console),
            *(_for_a_terminal(stream) if console else _AS_JSON),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_logger_factory(stream, _Process.lines),
        cache_logger_on_first_use=True,
    )
    _take_in_standard_logging(level)


def bind_anew(**fields: object) -> None:
    """Add these fields to every further line of this thread or task, and drop those that were bound before."""
    # What a job's code has bound through structlog itself ends here too.
    structlog.contextvars.clear_contextvars()
    _bound.set(fields)


def bind(**fields: object) -> None:
    """Add these fields to every further line of this thread or task."""
    _bound.set({**_bound.get(), **fields})


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Add these fields to the lines of a `with` block."""
    before = _bound.get()
    _bound.set({**before, **fields})
    try:
        yield
    finally:
        others = {name: value for name, value in _bound.get().items() if name not in fields}
        _bound.set(others | {name: before[name] for name in fields if name in before})


def batched() -> AbstractContextManager[None]:
    """Write the lines of this thread in a `with` block together, at its end. In a terminal each is written at once.

    For a block that neither waits nor awaits: its lines are seen late, those of other tasks are among them, and a
    process that is killed loses them.
    """
    return _Process.lines.batched() if _Process.lines else nullcontext()


def take_in(module: str) -> None:
    """Log what a module writes through the standard `logging` at this service's level, not at that of libraries."""
    logging.getLogger(module).setLevel(_level)


_OBSERVED = frozenset({"warning", "error", "critical"})

#: Called with the level and the module of each line of level warning or above.
_observers: list[Callable[[str, str], None]] = []


def observe(observer: Callable[[str, str], None]) -> None:
    """Call `observer` for each line of level warning or above. The module of a job's events is "events"."""
    if observer not in _observers:
        _observers.append(observer)


def _observed(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if fields["level"] in _OBSERVED:
        _observe(fields["level"], fields.get("module") or "events")
    return fields


def _observe(level: str, module: str) -> None:
    for observer in _observers:
        with suppress(Exception):
            observer(level, module)


#: Seconds between two lines about the failures of a subscriber, which may fail at each event. The metric counts all.
SUBSCRIBER_FAILED_SECONDS = 60.0

#: When the last such line was written, by subscriber and the monotonic clock.
_failures_logged_at: dict[str, float] = {}


def log_event(event: events.Event) -> None:
    """Write an event as a line. Subscribed to `events`."""
    if isinstance(event, events.SubscriberFailed) and not _is_time_to_log(event):
        return
    level = LEVELS.get(type(event), "info")
    if _Process.lines is None:
        getattr(structlog.get_logger(), level)(event.text, **msgspec.to_builtins(event))
    elif _RANKS[level] >= _level:
        _write_event(_Process.lines, event, level)


def _write_event(lines: JsonLines, event: events.Event, level: str) -> None:
    """Write what structlog's processors would make of an event, at a fraction of their time: most lines are events."""
    if level in _OBSERVED:
        _observe(level, "events")
    lines.write(
        encode(
            {
                **_bound.get(),
                **msgspec.to_builtins(event),
                "event": event.text,
                "level": level,
                "timestamp": msgspec.to_builtins(datetime.now(UTC)),
                "service": _Process.service,
            }
        )
    )


def _is_time_to_log(failed: events.SubscriberFailed) -> bool:
    now = time.monotonic()
    if now < _failures_logged_at.get(failed.subscriber, -math.inf) + SUBSCRIBER_FAILED_SECONDS:
        return False
    _failures_logged_at[failed.subscriber] = now
    return True


_level = logging.INFO

_RANKS = {name.lower(): rank for name, rank in logging.getLevelNamesMapping().items()}

#: Tracebacks leave out local variables, which may hold payloads, addresses and passwords.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _add_bound(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**_bound.get(), **fields}


def _name_service(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    fields["service"] = _Process.service
    return fields


def _encode(_: object, __: str, fields: MutableMapping[str, Any]) -> bytes:
    return encode(fields)


_AS_JSON: list[Any] = [_name_service, _TRACEBACKS, _encode]


def _for_a_terminal(stream: TextIO) -> list[Any]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), pad_event_to=28, exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _logger_factory(stream: TextIO, lines: JsonLines | None) -> Callable[..., Any]:
    if lines:
        return lambda *_: lines
    return structlog.WriteLoggerFactory(file=cast(TextIO, _IgnoringErrors(stream)))


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
