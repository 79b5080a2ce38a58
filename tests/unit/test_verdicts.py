"""What becomes of an attempt: `lifecycle_sync.decide`, a pure function."""

from uuid import uuid4

import pytest
from dramatiq.broker import MessageProxy

from jobs_service.attempt import Running
from jobs_service.broker import RETRY_DELAY_OPTION, message_for
from jobs_service.errors import InvalidRequest, Rejected
from jobs_service.ids import new_id
from jobs_service.lifecycle import Claim, DeadReason
from jobs_service.middleware.lifecycle_sync import Bury, Complete, Retry, decide, failure_of


@pytest.fixture
def message():
    return MessageProxy(message_for(new_id(), "t", "default", 5))


@pytest.fixture
def running():
    claim = Claim(new_id(), uuid4(), uuid4(), "t", "default", "{}", 1, 3, 0, 0.0, 0.0)
    return Running(claim, result='"output/x.csv"')


def test_an_attempt_that_returned_completes_with_its_result(running, message):
    assert Complete('"output/x.csv"') == decide(running, message, None)


def test_a_failure_that_retries_put_off_is_retried_after_its_delay(running, message):
    message.options[RETRY_DELAY_OPTION] = 2500

    verdict = decide(running, message, RuntimeError("no"))

    assert isinstance(verdict, Retry)
    assert 2.5 == verdict.delay_seconds
    assert ("RuntimeError", "no") == (verdict.failure.error, verdict.failure.message)


@pytest.mark.parametrize(
    ("exception", "reason"),
    [
        (RuntimeError("no"), DeadReason.ATTEMPTS_EXHAUSTED),
        (Rejected("550"), DeadReason.REJECTED),
        (InvalidRequest("field gone"), DeadReason.INVALID_PAYLOAD),
    ],
)
def test_a_failure_that_retries_gave_up_is_buried_with_its_reason(running, message, exception, reason):
    message.fail()

    verdict = decide(running, message, exception)

    assert isinstance(verdict, Bury)
    assert reason is verdict.reason


def test_what_is_kept_of_an_exception_can_be_stored_and_is_bounded():
    failure = failure_of(ValueError("a\0b\ud800" + "x" * 10_000), 1.0)

    assert "\0" not in failure.message
    assert failure.message.encode()
    assert len(failure.message) <= 1_001
    assert len(failure.traceback) <= 4_001


def test_an_exception_that_cannot_be_put_into_words_is_named():
    class Wordless(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    assert "Wordless" == failure_of(Wordless(), 0.0).message


def test_an_exception_without_words_is_named():
    assert "KeyboardInterrupt" == failure_of(KeyboardInterrupt(), 0.0).message
