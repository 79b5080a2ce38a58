"""How many jobs of a type a process may have in hand: what is said where, and how it is counted."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs_service import __main__ as command_line
from jobs_service.broker.keys import Keys
from jobs_service.broker.limits import Limits, default_limit
from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings
from jobs_service.errors import SettingsError
from jobs_service.jobs.job_types import JobType, Registry
from jobs_service.worker.actors import declare

REQUIRED = {"DATABASE_URL": "postgresql://db/jobs", "REDIS_URL": "redis://redis"}


@pytest.mark.parametrize(("threads", "limit"), [(1, 1), (2, 1), (3, 2), (8, 7), (256, 255)])
def test_one_type_leaves_a_thread_where_there_are_two(threads, limit):
    assert limit == default_limit(threads)


@pytest.mark.parametrize(
    ("said", "by_code", "limit"),
    [
        ("", None, 15),
        ("", 3, 3),
        ("", 300, 300),
        ("some-type=8", None, 8),
        ("SOME_TYPE = 2 , other=1,", 3, 2),
        ("other=1", None, 15),
    ],
)
def test_the_setting_counts_more_than_the_code_and_that_more_than_the_default(said, by_code, limit):
    settings = Settings.from_env(REQUIRED | {"MAX_RUNNING": said})
    registry = Registry()
    registry.add(JobType("some-type", dict, print, max_running=by_code))
    broker = JobBroker(client=_NoRedis(), middleware=[], window=10, keys=Keys())

    declare(broker, registry, settings, attempts=None, outputs=None, mailer=None)

    assert limit == broker.limits.room("some-type", 1_000)


@pytest.mark.parametrize("wrong", ["EMAIL_SEND", "=3", "EMAIL_SEND=0", "EMAIL_SEND=-1", "EMAIL_SEND=x", "a=1;b=2"])
def test_a_limit_that_is_none_is_refused_by_name(wrong):
    with pytest.raises(SettingsError, match="MAX_RUNNING is wrong: expected"):
        Settings.from_env(REQUIRED | {"MAX_RUNNING": wrong})


def test_the_check_refuses_a_limit_for_a_type_that_there_is_not():
    settings = Settings.from_env(REQUIRED | {"MAX_RUNNING": "EMAIL_SND=3,CSV_GENERATION=2"})

    with pytest.raises(SettingsError, match=r"MAX_RUNNING names EMAIL_SND, but the job types are .*EMAIL_SEND"):
        command_line._check_types(settings)


def test_what_is_in_hand_leaves_no_room_until_it_is_given_back():
    limits = Limits()
    limits.set("t", 2)

    assert [True, True, False] == [limits.take("t") for _ in range(3)]
    assert 0 == limits.room("t", 5)
    limits.give_back("t")
    assert 1 == limits.room("t", 5)


def test_a_type_without_a_limit_has_the_room_that_is_asked_for():
    limits = Limits()

    assert all(limits.take("t") for _ in range(100))
    assert 5 == limits.room("t", 5)


def test_threads_that_take_at_the_same_time_never_take_too_many():
    limits = Limits()
    limits.set("t", 7)

    with ThreadPoolExecutor(16) as pool:
        taken = sum(pool.map(lambda _: limits.take("t"), range(1_000)))

    assert 7 == taken


class _NoRedis:
    def register_script(self, script):
        return script
