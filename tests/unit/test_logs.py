"""Log lines: one an event, JSON where nobody watches, free of what a job is about."""

import io
import json
import logging

import structlog

from jobs_service.events import JobCompleted, JobDeferred, JobFailed, JobNotClaimed, JobReceived
from jobs_service.observability import logs


def test_an_event_is_one_json_line_with_its_facts(log_lines):
    facts = {"job_id": "x", "type": "csv-generation", "queue": "default", "attempt": 1}
    logs.log_event(JobCompleted(**facts, seconds=0.5, age_seconds=0.7))

    [line] = log_lines()
    assert ("Job completed", "info", "worker") == (line["event"], line["level"], line["service"])
    assert {**facts, "seconds": 0.5, "age_seconds": 0.7} == {
        name: value for name, value in line.items() if name not in {"event", "level", "service", "timestamp"}
    }


def test_a_fact_that_does_not_apply_is_not_in_the_line_and_one_that_is_empty_is(log_lines):
    facts = {"job_id": "x", "type": "t", "queue": "default", "attempt": 1, "error": "Unavailable"}
    logs.log_event(JobFailed(**facts, reason="expired"))
    logs.log_event(JobDeferred(**facts, seconds=0.5, server=None, delay_seconds=4.0))

    failed, deferred = log_lines()
    assert not failed.keys() & {"seconds", "age_seconds"}
    assert deferred["server"] is None


def test_a_level_below_the_setting_is_not_written(log_lines):
    logs.log_event(JobNotClaimed(job_id="x", type="t", queue="q"))

    assert [] == log_lines()


def test_the_text_of_a_librarys_exception_is_not_written(log_lines):
    def fail():
        raise ValueError("alice@example.com")

    try:
        fail()
    except ValueError:
        logging.getLogger("some.library").exception("it broke")

    [line] = log_lines()
    assert ("it broke", "ValueError") == (line["event"], line["error"])
    assert "alice" not in json.dumps(line)


def test_our_own_exceptions_come_with_a_traceback_but_without_local_values(log_lines):
    def fail():
        recipient = "alice@example.com"
        raise RuntimeError(len(recipient))

    try:
        fail()
    except RuntimeError as error:
        structlog.get_logger(module="m").error("Unexpected error", exc_info=error)

    [line] = log_lines()
    assert "RuntimeError" in json.dumps(line["exception"])
    assert "alice" not in json.dumps(line)


def test_a_terminal_gets_text(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    logs.configure(form="auto", level="info", service="worker", stream=stream)

    logs.log_event(JobReceived(job_id="x", type="t"))

    structlog.reset_defaults()
    assert "Job received" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
