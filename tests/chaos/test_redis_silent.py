"""Fault 10: Redis answers nothing, or everything too late, and nobody's connection breaks."""

import pytest
from eventually import eventually

#: Shorter than usual, so that waiting for it is.
PATIENCE = {"REDIS_TIMEOUT_SECONDS": "0.5"}


@pytest.mark.parametrize("fault", ["blackhole", "latency", "throttle"])
def test_the_api_does_not_wait_for_it_and_all_recover_without_a_restart(stack, redis_proxy, fault):
    stack.service.environ |= PATIENCE
    stack.start()
    with stack.no_process_ends():
        stack.submit_load(8)
        stack.strike()
        begin(redis_proxy, fault)

        # A client of the API gives up after 20 s; each of these got its answer.
        assert None not in [stack.submit() for _ in range(12)]
        if fault == "blackhole":
            eventually(lambda: stack.service.get("/readyz")[1]["status"] == "degraded", what="a degraded API")
        redis_proxy.heal()
        stack.submit_load(8)
        stack.settle()


def test_a_frozen_redis_is_a_silent_one(stack, own_valkey):
    stack.service.environ |= PATIENCE
    stack.start()
    with stack.no_process_ends():
        stack.submit_load(8)
        stack.strike()
        own_valkey.pause()
        assert None not in [stack.submit() for _ in range(6)]
        own_valkey.resume()
        stack.settle()


def begin(proxy, fault):
    if fault == "blackhole":
        proxy.blackhole()
    elif fault == "latency":
        proxy.latency_seconds = 2
    else:
        proxy.bytes_per_second = 100
