"""What an attempt says is bounded, and always such that PostgreSQL can store it."""

import json
from decimal import Decimal
from uuid import uuid4

import msgspec
import pytest

from jobs_service.jobs.notes import MAX_LINES, MAX_LINES_BYTES, MAX_TEXT, AttemptNotes, JobLog, Progress


@pytest.fixture
def notes():
    return AttemptNotes(uuid4(), uuid4(), attempt=1, job_type="t", queue="default")


def shown(notes):
    return json.loads(msgspec.json.encode(notes.state.lines))


def test_the_last_progress_counts(notes):
    changes = []
    notes.on_change = changes.append
    notes.progress(1)
    notes.progress(2.0, 4, "rows")

    assert Progress(2, 4, "rows") == notes.state.progress
    assert (2, [notes, notes]) == (notes.state.version, changes)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e300])
def test_a_progress_that_is_no_number_is_refused(notes, wrong):
    with pytest.raises(ValueError, match="between"):
        notes.progress(wrong)


def test_so_many_lines_are_kept_and_the_others_counted(notes):
    for number in range(MAX_LINES + 7):
        notes.add_line("info", "x", {"n": number})

    assert (MAX_LINES, 7) == (len(notes.state.lines), notes.state.lines_omitted)


def test_long_lines_are_fewer(notes):
    for _ in range(50):
        notes.add_line("info", "x" * 5_000, {"y": "z" * 900})

    assert {MAX_TEXT} == {len(line["text"]) for line in shown(notes)}
    assert len(msgspec.json.encode(notes.state.lines)) <= MAX_LINES_BYTES + MAX_LINES
    assert 50 == len(notes.state.lines) + notes.state.lines_omitted


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        ({"a": 1, "b": None, "c": True, "d": 1.5}, {"a": 1, "b": None, "c": True, "d": 1.5}),
        ({"a": "x\0y", "b": "\ud800"}, None),
        ({"a": "x\0y"}, {"a": "xy"}),
        ({"a": [1, {"b": 2}]}, {"a": '[1,{"b":2}]'}),
        ({"a": Decimal("1.50"), "b": object}, {"a": "1.50", "b": "<class 'object'>"}),
        ({"a": "x" * 5_000}, {"a": "x" * MAX_TEXT}),
        ({f"a{number}": "x" * 500 for number in range(9)}, None),
    ],
)
def test_facts_are_kept_in_a_form_that_can_be_stored(notes, facts, kept):
    notes.add_line("info", "a\0b\ud800", facts)

    [line] = shown(notes)
    assert ("ab?", kept) == (line["text"], line.get("facts"))


def test_the_log_of_a_job_keeps_all_but_details():
    kept = []
    log = JobLog(lambda *line: kept.append(line))

    log.debug("d")
    log.info("i", a=1)
    log.warning("w")
    log.error("e")

    assert [("info", "i", {"a": 1}), ("warning", "w", {}), ("error", "e", {})] == kept
