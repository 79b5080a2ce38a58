"""Job ids."""

import time

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


def test_ids_differ_within_a_millisecond():
    assert 10_000 == len({new_id() for _ in range(10_000)})
