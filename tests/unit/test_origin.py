"""Request ids and trace contexts: taken over when they are well-formed, and never in the way when they are not."""

import pytest

from jobs_service.jobs.correlation import Origin, read_traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("given", ["abc", "0", "Z" * 128, 'a"b\\c', "~!"])
def test_a_short_printable_id_is_taken_over(given):
    assert given == Origin.of_request(given, None).request_id


@pytest.mark.parametrize("given", [None, "", "a b", "a\tb", "a\nb", "é", "\x7f", "Z" * 129])
def test_any_other_id_is_replaced_by_one_of_its_own(given):
    first, second = (Origin.of_request(given, None).request_id for _ in range(2))

    assert given != first != second
    assert 36 == len(first)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01"),
        (f" 00-{TRACE}-{PARENT}-00 ", f"00-{TRACE}-{PARENT}-00"),
        (f"00-{TRACE}-{PARENT}-ff", f"00-{TRACE}-{PARENT}-01"),
        (f"01-{TRACE}-{PARENT}-01-what-comes-later", f"00-{TRACE}-{PARENT}-01"),
    ],
)
def test_a_trace_context_is_kept_in_version_00(given, kept):
    assert kept == read_traceparent(given)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "no",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}\u0661-{PARENT}-01",
    ],
)
def test_what_is_no_trace_context_is_none(given):
    assert read_traceparent(given) is None


def test_lines_say_only_what_is_known():
    assert {} == Origin().fields
    assert {"request_id": "r", "trace_id": TRACE} == Origin("r", f"00-{TRACE}-{PARENT}-01").fields
