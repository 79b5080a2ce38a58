"""What a log line holds for every kind of value, which fields are bound to it, and that nothing makes logging fail."""

import asyncio
import io
import re
import uuid
from contextvars import copy_context
from dataclasses import dataclass
from enum import StrEnum
from threading import Thread

import msgspec
import pytest
import structlog

from jobs_service import events
from jobs_service.jobs.lifecycle import EndReason, OnAmbiguous
from jobs_service.observability import logs

TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z"

JOB = {"job_id": "019f", "type": "csv-generation", "queue": "default", "attempt": 2}

EVENTS = [
    (
        events.JobSubmitted(job_id="019f", type="csv-generation", queue="default"),
        {"level": "info", "event": "Job submitted", "job_id": "019f", "type": "csv-generation", "queue": "default"},
    ),
    (
        events.JobProcessing(**JOB, waited_seconds=0.0123),
        {"level": "info", "event": "Job marked as processing", **JOB, "waited_seconds": 0.0123},
    ),
    (
        events.JobRetried(**JOB, seconds=0.25, error="Rejected", delay_seconds=5.0),
        {
            "level": "warning",
            "event": "Job retried",
            **JOB,
            "seconds": 0.25,
            "error": "Rejected",
            "delay_seconds": 5.0,
        },
    ),
    (
        events.JobFailed(**JOB, error="Rejected", reason=EndReason.EXPIRED),
        {"level": "error", "event": "Job failed", **JOB, "error": "Rejected", "reason": "expired"},
    ),
    (
        events.JobDeferred(**JOB, seconds=0.25, error="Unavailable", server=None, delay_seconds=4.0),
        {
            "level": "info",
            "event": "Job deferred",
            **JOB,
            "seconds": 0.25,
            "error": "Unavailable",
            "server": None,
            "delay_seconds": 4.0,
        },
    ),
    (
        events.AttemptAmbiguous(**JOB, policy=OnAmbiguous.HOLD),
        {"level": "warning", "event": "Outcome unknown", **JOB, "policy": "hold"},
    ),
    (
        events.BreakerOpened(breaker="smtp://maïl"),
        {"level": "warning", "event": "Breaker opened", "breaker": "smtp://maïl"},
    ),
]


class Color(StrEnum):
    RED = "red"


class Named(str):
    __slots__ = ()


@dataclass
class Described:
    secret: str

    def __repr__(self):
        return "<described>"


class Pair(msgspec.Struct):
    secret: str

    def __repr__(self):
        return "<pair>"


class Structured:
    def __structlog__(self):
        return {"name": "x"}


VALUES = [
    ("text", "text"),
    ('quoted " \\ \n\t\x00\x1b', 'quoted " \\ \n\t\x00\x1b'),
    ("é \u2028 \x85 \U0001f600", "é \u2028 \x85 \U0001f600"),
    ("\udc80 of a file name", "\udc80 of a file name"),
    (Named("name"), "name"),
    (Color.RED, "red"),
    (True, True),
    (None, None),
    (2**70, 2**70),
    (0.1, 0.1),
    (1e-07, 1e-07),
    ((1, "b"), [1, "b"]),
    ({"b"}, "{'b'}"),
    ({1: [None, Described("s")], "b": ()}, {"1": [None, "<described>"], "b": []}),
    (b"x", "b'x'"),
    (uuid.UUID(int=1), "UUID('00000000-0000-0000-0000-000000000001')"),
    (Described("s"), "<described>"),
    (Pair("s"), "<pair>"),
    (Structured(), {"name": "x"}),
    (ValueError("x"), "ValueError('x')"),
    ("x" * 1_000_000, "x" * 1_000_000),
]


@pytest.fixture(autouse=True)
def nothing_bound():
    """Run each test in a context of its own, as threads do."""
    logs.bind_anew()
    yield
    logs.bind_anew()


@pytest.fixture
def bound_fields(log_lines):
    """Return a function that writes a line and returns the fields bound to it."""
    own = {"event", "level", "timestamp", "service"}

    def bound_fields():
        structlog.get_logger().info("A line")
        return {name: value for name, value in log_lines()[-1].items() if name not in own}

    return bound_fields


@pytest.mark.parametrize(("event", "expected"), EVENTS, ids=lambda given: type(given).__name__)
def test_an_events_line(log_lines, event, expected):
    logs.bind(attempt=1, request_id="r")

    logs.log_event(event)

    [line] = log_lines()
    assert re.fullmatch(TIMESTAMP, line.pop("timestamp"))
    assert {"attempt": 1, "request_id": "r", "service": "worker"} | expected == line


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda value: type(value).__name__)
def test_a_values_form(log_lines, value, expected):
    logs.bind(request_id="r", level="bound", timestamp="bound", service="bound", event="bound")

    structlog.get_logger(module="m").warning("It happened", value=value)

    [line] = log_lines()
    assert re.fullmatch(TIMESTAMP, line.pop("timestamp"))
    assert {
        "event": "It happened",
        "level": "warning",
        "module": "m",
        "request_id": "r",
        "service": "worker",
        "value": expected,
    } == line


def test_lines_are_ascii_so_that_no_text_controls_a_terminal_or_ends_a_line(log_lines, tmp_path):
    logs.log_event(events.BreakerOpened(breaker="\x9b31m \u2028 \u202e"))
    structlog.get_logger().info("\x9b31m \u2028 \u202e")

    assert 2 == len(log_lines())
    assert (tmp_path / "log").read_bytes().isascii()


def test_warnings_and_errors_are_observed_and_other_lines_are_not(log_lines, monkeypatch):
    observed = []
    monkeypatch.setattr(logs, "_observers", [lambda level, module: observed.append((level, module))])

    logs.log_event(events.BreakerOpened(breaker="b"))
    logs.log_event(events.BreakerClosed(breaker="b"))
    structlog.get_logger(module="m").error("An error")
    structlog.get_logger(module="m").info("No error")

    assert 4 == len(log_lines())
    assert [("warning", "events"), ("error", "m")] == observed


def test_an_observer_that_fails_keeps_no_line_back(log_lines, monkeypatch):
    def fail(level, module):
        raise RuntimeError(level, module)

    monkeypatch.setattr(logs, "_observers", [fail])

    logs.log_event(events.BreakerOpened(breaker="b"))

    assert ["Breaker opened"] == [line["event"] for line in log_lines()]


def test_events_and_other_lines_of_a_batch_are_written_at_its_end_in_their_order(log_lines):
    with logs.batched():
        logs.log_event(events.BreakerOpened(breaker="b"))
        structlog.get_logger().info("Between")
        logs.log_event(events.BreakerClosed(breaker="b"))
        assert [] == log_lines()

    assert ["Breaker opened", "Between", "Breaker closed"] == [line["event"] for line in log_lines()]


def test_a_terminal_gets_the_lines_of_a_batch_at_once(log_lines):
    stream = io.StringIO()
    logs.configure(form="console", level="info", service="worker", stream=stream)
    with logs.batched():
        logs.log_event(events.BreakerOpened(breaker="b"))
        assert "Breaker opened" in stream.getvalue()

    assert [] == log_lines()


def test_binding_anew_drops_what_was_bound(bound_fields):
    logs.bind_anew(a=1, b=2)
    logs.bind(b=3, c=4)
    first = bound_fields()
    logs.bind_anew(d=5)

    assert [{"a": 1, "b": 3, "c": 4}, {"d": 5}] == [first, bound_fields()]


def test_blocks_nest_and_restore_what_they_replaced(bound_fields):
    logs.bind(a=1)
    seen = []
    with logs.bound(a=2, b=2):
        with logs.bound(b=3, c=3):
            seen.append(bound_fields())
        seen.append(bound_fields())
    seen.append(bound_fields())

    assert [{"a": 2, "b": 3, "c": 3}, {"a": 2, "b": 2}, {"a": 1}] == seen


def test_a_block_that_raises_restores_what_it_replaced(bound_fields):
    logs.bind(a=1)
    with pytest.raises(ZeroDivisionError), logs.bound(a=2):
        1 / 0  # noqa: B018 - it raises

    assert {"a": 1} == bound_fields()


def test_a_block_keeps_what_else_is_bound_in_it(bound_fields):
    with logs.bound(a=1):
        logs.bind(b=2)

    assert {"b": 2} == bound_fields()


def test_a_thread_begins_with_nothing_bound_and_leaves_the_others_alone(bound_fields):
    logs.bind(a=1)
    seen = []

    def log_in_a_thread():
        seen.append(bound_fields())
        logs.bind(a=2)

    thread = Thread(target=log_in_a_thread)
    thread.start()
    thread.join()

    assert [{}, {"a": 1}] == [*seen, bound_fields()]


def test_a_copied_context_keeps_what_was_bound(bound_fields):
    logs.bind(a=1)
    context = copy_context()
    logs.bind_anew(b=2)

    assert {"a": 1} == context.run(bound_fields)
    assert {"b": 2} == bound_fields()


def test_tasks_of_one_thread_do_not_see_what_others_bind(bound_fields):
    async def bind_and_log(number, turn):
        logs.bind(number=number)
        await turn.wait()
        return bound_fields()

    async def run_two():
        logs.bind(a=1)
        turn = asyncio.Barrier(2)
        return await asyncio.gather(bind_and_log(1, turn), bind_and_log(2, turn))

    assert [{"a": 1, "number": 1}, {"a": 1, "number": 2}] == asyncio.run(run_two())
    assert {} == bound_fields()


def test_fields_that_a_jobs_code_binds_through_structlog_end_with_its_attempt(bound_fields):
    structlog.contextvars.bind_contextvars(customer=7)
    seen = bound_fields()
    logs.bind_anew(a=1)

    assert [{"customer": 7}, {"a": 1}] == [seen, bound_fields()]
