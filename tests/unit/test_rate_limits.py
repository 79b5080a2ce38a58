"""Token buckets: a burst after a pause, then the rate, in memory of a fixed size that processes share."""

import mmap
import os

import pytest

from jobs_service.api.access import rate_limits
from jobs_service.api.access.rate_limits import PLACES, TRIES, Rate, RateLimits, tag_of, tag_of_address

ALICE, BOB = tag_of("alice"), tag_of("bob")


class Clock:
    seconds = 1_000_000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limits(clock):
    return RateLimits(bytearray(PLACES * 16), clock)


def taken(limits, rate, *, tag=ALICE, most=1_000):
    """Return how many requests are allowed at once."""
    return next(number for number in range(most) if not limits.take(tag, rate).is_allowed)


@pytest.mark.parametrize("rate", [Rate.of(1), Rate.of(3), Rate.of(7, 1), Rate.of(10, 50), Rate.of(999, 333)])
def test_a_burst_then_the_rate(limits, clock, rate):
    assert rate.burst == taken(limits, rate)

    for _ in range(20):
        clock.seconds += 1 / rate.per_second
        assert limits.take(ALICE, rate).is_allowed
        assert not limits.take(ALICE, rate).is_allowed

    clock.seconds += 1_000
    assert rate.burst == taken(limits, rate)


def test_a_refusal_says_when_the_next_request_is_allowed_and_costs_nothing(limits, clock):
    rate = Rate.of(2, 4)
    assert [3, 2, 1, 0] == [limits.take(ALICE, rate).remaining for _ in range(4)]
    clock.seconds += 0.125

    refused = [limits.take(ALICE, rate) for _ in range(50)]

    assert {(False, 0, 1.875, 0.375)} == {
        (each.is_allowed, each.remaining, each.reset_seconds, each.retry_seconds) for each in refused
    }
    clock.seconds += refused[0].retry_seconds
    assert limits.take(ALICE, rate).is_allowed


def test_callers_have_buckets_of_their_own(limits):
    assert 5 == taken(limits, Rate.of(5))

    assert 5 == taken(limits, Rate.of(5), tag=BOB)


def test_two_limiters_of_one_memory_count_together(clock):
    memory = bytearray(PLACES * 16)
    first, second = RateLimits(memory, clock), RateLimits(memory, clock)

    assert [True, True, True, False, False] == [
        limits.take(ALICE, Rate.of(3)).is_allowed for limits in (first, second, first, second, first)
    ]


def test_the_memory_is_shared_with_forked_processes():
    limits, tag = RateLimits(), tag_of(f"caller of {os.getpid()}")
    assert isinstance(rate_limits._SHARED, mmap.mmap)

    child = os.fork()
    if not child:
        for _ in range(4):
            limits.take(tag, Rate.of(1, 5))
        os._exit(0)
    os.waitpid(child, 0)

    assert 1 == taken(limits, Rate.of(1, 5), tag=tag)


def test_places_of_callers_who_pause_are_used_again(limits, clock):
    """More callers than places, a few at a time: each is limited."""
    for number in range(3 * PLACES // 1_000):
        clock.seconds += 10
        for caller in range(100):
            tag = tag_of(f"{number}-{caller}")
            assert limits.take(tag, Rate.of(1)).is_allowed
            assert not limits.take(tag, Rate.of(1)).is_allowed


def test_without_a_place_a_caller_is_let_in(limits):
    """Nobody is refused for what others do."""
    neighbours = [(1_000 + PLACES * number).to_bytes(8, "little") for number in range(TRIES + 1)]
    for tag in neighbours:
        assert limits.take(tag, Rate.of(1)).is_allowed

    assert [False] * TRIES + [True] == [limits.take(tag, Rate.of(1)).is_allowed for tag in neighbours]


def test_the_last_places_are_followed_by_the_first(limits):
    last = [((PLACES - 1) + PLACES * number).to_bytes(8, "little") for number in range(2)]

    for tag in last:
        assert 2 == taken(limits, Rate.of(2), tag=tag)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::2:3:4:5"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("not an address", "not an address"),
    ],
)
def test_addresses_of_one_customer_count_as_one(one, other):
    assert tag_of_address(one) == tag_of_address(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("2001:db8::1", "2001:db8:0:1::1"), ("192.0.2.1", "192.0.2.2"), ("::ffff:192.0.2.1", "::ffff:192.0.2.2")],
)
def test_other_addresses_do_not(one, other):
    assert tag_of_address(one) != tag_of_address(other)


def test_the_policy_names_quota_and_window():
    assert ['"default";q=20;w=1', '"default";q=5;w=1', '"default";q=100;w=5'] == [
        rate.policy for rate in (Rate.of(20), Rate.of(20, 5), Rate.of(20, 100))
    ]
