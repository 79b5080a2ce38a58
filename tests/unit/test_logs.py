"""Log lines: one an event, JSON where nobody watches, free of what a job is about."""

import io
import json
import logging

import pytest
import structlog

from jobs_service.events import Event
from jobs_service.observability import logs


@pytest.fixture
def lines():
    """Log as a container does, and read what was written."""
    stream = io.StringIO()
    logs.configure(form="auto", level="info", service="worker", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    logging.getLogger().handlers = []


def test_an_event_is_one_json_line_with_its_facts(lines):
    logs.log_event(Event.COMPLETED, {"job_id": "x", "type": "csv-generation", "attempt": 1, "seconds": 0.5})

    [line] = lines()
    assert ("Job completed", "info", "worker") == (line["event"], line["level"], line["service"])
    assert ("x", "csv-generation", 1, 0.5) == (line["job_id"], line["type"], line["attempt"], line["seconds"])


def test_a_level_below_the_setting_is_not_written(lines):
    logs.log_event(Event.NOT_CLAIMED, {"job_id": "x"})

    assert [] == lines()


def test_the_text_of_a_librarys_exception_is_not_written(lines):
    def fail():
        raise ValueError("alice@example.com")

    try:
        fail()
    except ValueError:
        logging.getLogger("some.library").exception("it broke")

    [line] = lines()
    assert ("it broke", "ValueError") == (line["event"], line["error"])
    assert "alice" not in json.dumps(line)


def test_our_own_exceptions_come_with_a_traceback_but_without_local_values(lines):
    def fail():
        recipient = "alice@example.com"
        raise RuntimeError(len(recipient))

    try:
        fail()
    except RuntimeError as error:
        logs.get_logger("m").error("Unexpected error", exc_info=error)

    [line] = lines()
    assert "RuntimeError" in json.dumps(line["exception"])
    assert "alice" not in json.dumps(line)


def test_a_terminal_gets_text(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    logs.configure(form="auto", level="info", service="worker", stream=stream)

    logs.log_event(Event.RECEIVED, {"job_id": "x"})

    structlog.reset_defaults()
    assert "Job received" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
