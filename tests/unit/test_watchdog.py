"""What the watchdog sees."""

import faulthandler
import signal
from types import SimpleNamespace
from uuid import uuid4

import pytest

from jobs_service import watchdog as watchdog_module
from jobs_service.attempt import Running
from jobs_service.ids import new_id
from jobs_service.lifecycle import Claim
from jobs_service.watchdog import Watchdog, dead_threads


def running(*, seconds, limit_seconds):
    claim = Claim(new_id(), uuid4(), uuid4(), "t", "default", "{}", 1, 3, 0, 0.0, 0.0)
    attempt = Running(claim, limit_seconds=limit_seconds)
    attempt.started -= seconds
    return attempt


def hung(sync):
    return Watchdog(sync, hang_grace_seconds=10, standstill_seconds=40).hung()


@pytest.mark.parametrize(
    ("seconds", "hangs"),
    [(5, False), (69, False), (71, True)],
)
def test_an_attempt_hangs_some_time_after_its_limit(seconds, hangs):
    attempt = running(seconds=seconds, limit_seconds=60)
    sync = SimpleNamespace(running={attempt.claim.token: attempt})

    assert ([attempt.claim.token] if hangs else []) == Watchdog(
        sync, hang_grace_seconds=10, standstill_seconds=40
    ).hung()


def test_an_attempt_that_has_returned_may_wait_for_postgresql_for_ever():
    attempt = running(seconds=3_600, limit_seconds=60)
    attempt.has_returned = True
    sync = SimpleNamespace(running={attempt.claim.token: attempt})

    assert [] == hung(sync)


def test_a_dead_thread_is_named():
    alive, dead, unborn = (
        SimpleNamespace(name=name, ident=ident, is_alive=lambda name=name: name == "alive")
        for name, ident in (("alive", 1), ("dead", 2), ("unborn", None))
    )

    assert ["dead"] == dead_threads(SimpleNamespace(workers=[alive, unborn], consumers={"default": dead}))


def test_a_stop_for_a_dead_thread_is_given_all_its_time(monkeypatch):
    limits, signals = [], []
    monkeypatch.setattr(watchdog_module, "INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: limits.append(seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: limits.append(None))
    before = signal.signal(signal.SIGTERM, lambda signum, _: signals.append(signum))
    dead = SimpleNamespace(name="dead", ident=1, is_alive=lambda: False)
    watchdog = Watchdog(SimpleNamespace(running={}), hang_grace_seconds=10, standstill_seconds=40)
    try:
        watchdog._run(SimpleNamespace(workers=[dead], consumers={}))
    finally:
        signal.signal(signal.SIGTERM, before)

    assert signals == [signal.SIGTERM]
    assert limits == [40, 40, None]
