"""What the watchdog sees."""

import faulthandler
import os
import signal
import time
from types import SimpleNamespace

import pytest
from samples import a_claim

from jobs_service import descriptors
from jobs_service.worker.attempt import RunningAttempt, RunningAttempts
from jobs_service.worker.watchdog import Watchdog, dead_threads


def running(*, seconds, limit_seconds):
    attempt = RunningAttempt(a_claim(), limit_seconds=limit_seconds)
    attempt.started_at = time.monotonic() - seconds
    return attempt


def turning(*, seconds=0.0, alive=True):
    """A service that began its last turn so long ago."""
    return SimpleNamespace(last_turn=time.monotonic() - seconds, is_alive=lambda: alive, heartbeat_interval_seconds=2.0)


def watching(attempts=(), heartbeat=None, **services):
    broker = SimpleNamespace(draining=False)
    options = {"hang_grace_seconds": 10, "standstill_seconds": 40}
    watchdog = Watchdog(broker, attempts, None, heartbeat or turning(), services, **options)
    watchdog._awake_since -= 3_600
    return watchdog


def reasons(watchdog):
    return list(watchdog.reasons_to_stop(SimpleNamespace(workers=[], consumers={})))


def hung(*attempts):
    return watching(attempts).hung()


@pytest.mark.parametrize(
    ("seconds", "hangs"),
    [(5, False), (69, False), (71, True)],
)
def test_an_attempt_hangs_some_time_after_its_limit(seconds, hangs):
    attempt = running(seconds=seconds, limit_seconds=60)

    assert ([attempt.claim.token] if hangs else []) == hung(attempt)


def test_an_attempt_that_has_returned_may_wait_for_postgresql_for_ever():
    attempt = running(seconds=3_600, limit_seconds=60)
    attempt.returned_at = time.monotonic()

    assert [] == hung(attempt)


def test_attempts_may_end_while_the_watchdog_looks_at_them():
    attempts = RunningAttempts()
    for _ in range(2):
        attempts.add(running(seconds=5, limit_seconds=60))

    for each in attempts:
        attempts.remove(each)

    assert [] == list(attempts)


def test_a_dead_thread_is_named():
    alive, dead, unborn = (
        SimpleNamespace(name=name, ident=ident, is_alive=lambda name=name: name == "alive")
        for name, ident in (("alive", 1), ("dead", 2), ("unborn", None))
    )

    assert ["dead"] == dead_threads(SimpleNamespace(workers=[alive, unborn], consumers={"default": dead}))


def test_a_stop_for_a_dead_thread_is_given_all_its_time(monkeypatch):
    limits, signals = [], []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: limits.append(seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: limits.append(None))
    before = signal.signal(signal.SIGTERM, lambda signum, _: signals.append(signum))
    dead = SimpleNamespace(name="dead", ident=1, is_alive=lambda: False)
    watchdog = watching()
    watchdog.interval_seconds = 0.0
    watchdog.end()
    try:
        watchdog._run(SimpleNamespace(workers=[dead], consumers={}))
    finally:
        signal.signal(signal.SIGTERM, before)

    assert signals == [signal.SIGTERM]
    assert limits == [40, 40, None]
    assert watchdog.broker.draining


def test_nothing_is_wrong_where_every_service_turns():
    assert [] == reasons(watching(heartbeat=turning(seconds=39), maintenance=turning(seconds=39)))


@pytest.mark.parametrize("name", ["heartbeat", "maintenance"])
@pytest.mark.parametrize(
    ("service", "what"),
    # Made by the test: its clock goes on from there.
    [(lambda: turning(alive=False), "has died"), (lambda: turning(seconds=41), "stands still")],
    ids=["dead", "standing still"],
)
def test_a_service_that_does_not_turn_is_a_reason_to_stop(name, service, what):
    others = {name: service()}

    assert [f"the thread {what}: {name}"] == reasons(watching(**others))


def test_while_the_process_was_frozen_nothing_could_turn():
    watchdog = watching(heartbeat=turning(seconds=41))
    watchdog._looked_at -= 41

    assert [] == reasons(watchdog)


def test_a_process_that_can_open_nothing_has_to_stop(monkeypatch):
    watchdog = watching()
    monkeypatch.setattr(descriptors, "are_exhausted", lambda: True)

    assert ["no further file can be opened"] == reasons(watchdog)


@pytest.mark.parametrize(
    ("made", "beats"),
    [(lambda: turning(seconds=3), 0), (lambda: turning(seconds=5), 1), (lambda: turning(alive=False), 1)],
)
def test_the_watchdog_beats_for_a_heartbeat_that_is_late_or_dead(made, beats):
    heartbeat, beaten = made(), []
    heartbeat.beat = lambda: beaten.append(1)

    watching(heartbeat=heartbeat)._beat_if_late()

    assert beats == len(beaten)


def test_a_stop_that_has_begun_is_not_asked_for_again(monkeypatch):
    watchdog = watching()
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a second signal would end the process at once"))
    watchdog.stop()

    watchdog._stop_process(["found just before"])
