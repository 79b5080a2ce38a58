"""Job ids."""

import time

import pytest

from jobs_service.ids import milliseconds_of, new_id


def test_an_id_is_a_uuid_of_version_7():
    job_id = new_id()

    assert 7 == job_id.version
    assert "specified in RFC 4122" == job_id.variant


def test_an_id_carries_its_milliseconds():
    before = time.time_ns() // 1_000_000
    job_id = new_id()
    after = time.time_ns() // 1_000_000

    assert before <= milliseconds_of(job_id) <= after


@pytest.mark.parametrize("seconds", [0.0, 1_700_000_000.123456, 4_102_444_800.0])
def test_an_id_carries_the_time_that_it_is_given(seconds):
    assert int(seconds * 1000) == milliseconds_of(new_id(seconds))


def test_ids_within_a_millisecond_are_in_order():
    moments = [1_700_000_000 + microseconds / 1e6 for microseconds in range(0, 1_000, 10)]

    ids = [new_id(moment) for moment in moments]

    assert ids == sorted(ids)


def test_ids_differ_within_a_millisecond():
    assert 10_000 == len({new_id(1_700_000_000.0) for _ in range(10_000)})
