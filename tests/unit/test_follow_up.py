"""A call whose reply was lost is asked again in a thread, which ends."""

import threading

import pytest
from eventually import eventually

from jobs_service.api.resources import follow_up
from jobs_service.api.resources.follow_up import FollowUp
from jobs_service.errors import DatabaseUnavailable
from jobs_service.jobs.lifecycle import LostReply


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(follow_up, "_PAUSE_SECONDS", 0)


def failing(times, *, error=DatabaseUnavailable):
    """Return a call that fails so often, and the list of what came of each time."""
    outcomes = []

    def ask():
        outcomes.append("failed" if len(outcomes) < times else "answered")
        if outcomes[-1] == "failed":
            raise error("away")
        return outcomes[-1]

    return ask, outcomes


def test_what_is_answered_the_second_time_is_the_answer():
    ask, _ = failing(1)

    assert "answered" == FollowUp().call(ask, LostReply({"job_ids": []}))


def test_what_was_never_sent_is_not_asked_again():
    ask, outcomes = failing(1)

    with pytest.raises(DatabaseUnavailable):
        FollowUp().call(ask, LostReply())

    assert ["failed"] == outcomes


def test_calls_are_asked_again_until_they_are_answered_and_the_thread_ends():
    calls = FollowUp()
    first, second = failing(5), failing(7)

    for ask, _ in (first, second):
        with pytest.raises(DatabaseUnavailable):
            calls.call(ask, LostReply({"job_ids": []}))

    eventually(lambda: {outcomes[-1] for _, outcomes in (first, second)} == {"answered"}, what="answers")
    eventually(lambda: "follow-up" not in [thread.name for thread in threading.enumerate()], what="no thread left")
    assert (6, 8) == (len(first[1]), len(second[1]))


def test_a_call_is_not_asked_for_ever(monkeypatch):
    monkeypatch.setattr(follow_up, "FOLLOW_UP_SECONDS", 0)
    ask, outcomes = failing(99)

    with pytest.raises(DatabaseUnavailable):
        FollowUp().call(ask, LostReply({"job_ids": []}))
    eventually(lambda: "follow-up" not in [thread.name for thread in threading.enumerate()], what="no thread left")

    assert ["failed"] * 3 == outcomes


def test_a_call_that_breaks_ends_only_itself():
    calls = FollowUp()
    lost_reply = LostReply({"job_ids": []})
    told = []

    def breaks():
        told.append("asked")
        raise DatabaseUnavailable("away") if len(told) < 3 else ValueError("a defect")

    with pytest.raises(DatabaseUnavailable):
        calls.call(breaks, lost_reply)
    ask, outcomes = failing(2)
    with pytest.raises(DatabaseUnavailable):
        calls.call(ask, lost_reply)

    eventually(lambda: outcomes[-1] == "answered", what="the answer to the other")
    assert ["asked"] * 3 == told
