"""What the client knows of the API, and what it imports."""

import subprocess
import sys
from typing import get_type_hints

import pytest

from jobs_service.api.problem_types import PROBLEM_TYPES
from jobs_service.api.resources.event_streams import HEARTBEAT_SECONDS
from jobs_service.api.resources.job_pages import JobsQuery
from jobs_service.api.resources.jobs import MAX_WAIT_SECONDS
from jobs_service.client import errors, events, operations
from jobs_service.client.models import Job, Status
from jobs_service.jobs import lifecycle, representation
from jobs_service.submission.batches import MAX_JOBS
from jobs_service.submission.submit import Submission


def test_it_imports_nothing_of_the_service():
    program = (
        "import sys, jobs_service.client; "
        "print(*(name for name in sys.modules if name.startswith('jobs_service.')), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert not [name for name in done.stdout.split() if not name.startswith("jobs_service.client")]


@pytest.mark.parametrize("code", errors.BY_CODE)
def test_a_class_of_a_code_is_below_that_of_its_status(code):
    status = PROBLEM_TYPES[code].status

    assert issubclass(errors.class_of(code, status), errors.class_of("", status))


@pytest.mark.parametrize(("code", "problem_type"), PROBLEM_TYPES.items())
def test_every_problem_has_a_class_of_its_own_kind(code, problem_type):
    assert errors.class_of(code, problem_type.status) is not errors.ApiError


def test_its_models_have_the_fields_of_the_api():
    assert {*Job.__struct_fields__} == {*representation.Job.__struct_fields__}
    assert {*Status} == {*lifecycle.Status}
    assert {"type", "payload", *get_type_hints(operations.Options)} == {*Submission.__struct_fields__}
    assert {"limit", "cursor", *get_type_hints(operations.Filters)} == {*JobsQuery.__struct_fields__}


def test_its_limits_are_within_those_of_the_api():
    assert operations.WAIT_SECONDS <= MAX_WAIT_SECONDS
    assert operations.PIECE_JOBS <= MAX_JOBS
    assert events.SILENCE_SECONDS > 2 * HEARTBEAT_SECONDS


def test_the_events_of_a_stream_may_come_in_any_pieces():
    text = (
        "retry: 700\n\n: heartbeat\n\nid: 1\n\n"
        'event: log\nid: 2\ndata: {"lines":[{"text":"a\u2028b"}],"status":"completed"}\n\n'
        'event: completed\nid: 3\ndata: {"status":\ndata: "completed"}\n\nevent: lost\nid: 4\ndata: {}\n\n'
    ).encode()
    for size in (1, 2, 7, len(text)):
        feed = events.Feed("/jobs/x/events", {}, None, "x")
        feed.connected(200)
        found = [event for start in range(0, len(text), size) for event in feed.take(text[start : start + size])]
        # What comes behind the end of the job is not for its stream.
        assert [("log", "2"), ("completed", "3")] == [(event.name, event.id) for event in found][:2]
        assert feed.is_over
        assert 0.7 == feed.pause_seconds
        assert "a\u2028b" == found[0].data["lines"][0]["text"]


def test_a_part_of_an_event_is_forgotten_with_its_connection():
    feed = events.Feed("/events", {}, None, None)
    feed.connected(200)
    assert [] == list(feed.take(b"event: submitted\nid: 5\ndata: {"))
    assert "Last-Event-ID" not in feed.request.headers

    feed.connected(200)
    [event] = feed.take(b'event: submitted\nid: 5\ndata: {"status":"pending"}\n\n')
    assert ("5", "5") == (event.id, feed.request.headers["Last-Event-ID"])
