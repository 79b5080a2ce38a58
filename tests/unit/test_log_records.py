"""Which logger a log line is counted for."""

import pytest

from jobs_service.metrics import catalogue, log_records


@pytest.mark.parametrize(
    ("module", "logger"),
    [
        ("jobs_service.broker.redis", "broker.redis"),
        ("jobs_service.config", "config"),
        ("redis.connection", "redis"),
        ("events", "events"),
    ],
)
def test_a_module_of_the_service_counts_for_itself_and_a_library_as_a_whole(module, logger):
    counted = catalogue.LOG_RECORDS.labels("warning", logger)
    before = counted._value.get()

    log_records.count("warning", module)

    assert before + 1 == counted._value.get()
