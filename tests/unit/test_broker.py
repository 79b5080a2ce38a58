"""The messages, and their places in line. What Redis does with them: integration/test_doorbell.py."""

import math
from uuid import UUID

import dramatiq
import pytest

from jobs_service.broker.keys import Keys
from jobs_service.broker.redis import RETRY_DELAY_OPTION, JobBroker, message_for, score
from jobs_service.ids import new_id


@pytest.fixture
def broker():
    return JobBroker(client=_NoRedis(), middleware=[], window=10, keys=Keys())


def test_a_job_has_one_message_whoever_sends_it():
    job_id = new_id()

    assert message_for(job_id, "t", "q", 5).encode() == message_for(job_id, "t", "q", 5).encode()


def test_a_message_holds_the_id_and_nothing_of_the_payload():
    job_id = new_id()

    message = dramatiq.Message.decode(message_for(job_id, "t", "q", 5).encode())

    assert (str(job_id),) == tuple(message.args)
    assert {"priority": 5} == message.options


def test_a_higher_priority_comes_first_then_what_was_due_first():
    line = [(message_for(new_id(), "t", "q", priority), due_ms) for priority, due_ms in ((0, 1), (9, 7), (9, 6))]

    assert [line[2], line[1], line[0]] == sorted(line, key=lambda place: score(*place))


def test_the_time_in_an_id_has_no_part_in_the_order():
    """The id has the clock of the API that made it, which may be wrong."""
    newest = UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")

    assert score(message_for(newest, "t", "q", 5), 1) < score(message_for(new_id(), "t", "q", 5), 2)


@pytest.mark.parametrize("foreign", [-math.inf, -1e18, 1e18, math.inf])
def test_no_date_changes_the_priority(foreign):
    """A row inserted by hand is due whenever its author liked."""
    line = [(message_for(new_id(), "t", "q", priority), due) for due in (foreign, 1e12) for priority in range(10)]

    priorities = [message.options["priority"] for message, _ in sorted(line, key=lambda place: score(*place))]

    assert sorted(priorities, reverse=True) == priorities


def test_a_delay_is_noted_on_the_message_and_sent_nowhere(broker):
    message = message_for(new_id(), "t", "q", 5)

    broker.enqueue(message, delay=1500)

    assert 1500 == message.options[RETRY_DELAY_OPTION]


def test_a_declared_queue_has_no_queue_for_delayed_messages(broker):
    broker.declare_queue("default")

    assert {"default"} == broker.get_declared_queues()
    assert set() == broker.get_declared_delay_queues()


class _NoRedis:
    """Fails the test that asks it for anything but to register Dramatiq's scripts."""

    def register_script(self, script):
        return script
