"""Request bodies nobody would think of: a typed result or one of our own refusals, and never anything else."""

import codecs
import json
import time

import msgspec
import pytest
from hostile_json import BODIES, HOSTILE, NEAR_VALID, VALUES
from hypothesis import example, given

from jobs_service.api import request_body
from jobs_service.config import Settings
from jobs_service.errors import InvalidRequest, MalformedBody
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.job_types import load
from jobs_service.jobs.lifecycle import NewJob
from jobs_service.jobs.validation import decoded, encoded
from jobs_service.submission.submit import Submission, Submitter

SETTINGS = Settings.from_env({"DATABASE_URL": "postgresql://localhost/none", "REDIS_URL": "redis://localhost"})
#: It writes nothing here: `_new_job` needs no server.
SUBMITTER = Submitter(None, None, load(), SETTINGS)


def is_accepted(raw):
    try:
        request_body.check(raw)
    except InvalidRequest as refusal:
        return assert_ours(refusal)
    return True


def accepted(raw):
    """Return the job that a body would become. None: it is refused."""
    try:
        submission = request_body.decode(raw, Submission)
        return SUBMITTER._new_job(submission, SUBMITTER._checked_type(submission), Origin(), now=time.time())
    except InvalidRequest as refusal:
        return assert_ours(refusal)


def assert_ours(refusal):
    """A refusal can be shown: it names a place, and holds nothing that JSON could not."""
    assert refusal.detail
    assert refusal.pointer == "" or refusal.pointer.startswith("/")
    assert not isinstance(refusal, MalformedBody) or refusal.pointer == ""
    json.dumps([refusal.detail, refusal.pointer], ensure_ascii=False).encode()


@given(BODIES)
@example(b"")
@example(b"\xef\xbb\xbf{}")
@example(b"\xff\xfe{\x00}\x00")
@example(b'{"a":"\xed\xa0\x80"}')
def test_bytes_mean_the_same_to_two_readers_or_are_refused(raw):
    if is_accepted(raw):
        unmarked = raw.removeprefix(codecs.BOM_UTF8)
        assert json.loads(unmarked) == msgspec.json.decode(unmarked), "two readers of JSON see two values"


@given(VALUES)
def test_what_is_accepted_can_be_written_and_is_accepted_again(text):
    if is_accepted(raw := text.encode("utf-8", "surrogatepass")):
        value = decoded(raw, object, decimals=True)

        assert is_accepted(encoded(value))
        assert value == decoded(encoded(value), object, decimals=True)


@given(BODIES)
def test_a_body_is_a_job_or_refused(raw):
    accepted(raw)


@given(NEAR_VALID)
def test_a_body_with_a_hostile_field_is_a_typed_job_or_refused(text):
    if job := accepted(text.encode("utf-8", "surrogatepass")):
        assert_typed(job)


@pytest.mark.parametrize("field", ["type", "payload", "run_at", "delay_seconds", "max_attempts", "priority"])
@pytest.mark.parametrize("value", HOSTILE)
def test_every_hostile_value_in_every_field_is_a_typed_job_or_refused(field, value):
    fields = {"type": '"csv-generation"', "payload": '{"a":1}', field: value}
    text = ",".join(f'"{name}":{value}' for name, value in fields.items())

    if job := accepted(f"{{{text}}}".encode()):
        assert_typed(job)


def assert_typed(job):
    assert isinstance(job, NewJob)
    assert job.type in {"csv-generation", "EMAIL_SEND"}
    assert type(job.priority) is int
    assert 0 <= job.priority <= 9
    assert type(job.max_attempts) is int
    assert 1 <= job.max_attempts <= 100
    assert 0 <= job.delay_seconds <= 366 * 86_400
    assert job.run_at is None or job.run_at.tzinfo is not None
    assert isinstance(json.loads(job.payload), dict | list)
