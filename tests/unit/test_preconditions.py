"""Conditional and range requests, by RFC 9110."""

from datetime import UTC, datetime, timedelta

import falcon
import pytest
from hypothesis import example, given, strategies as st

from jobs_service.api.preconditions import Preconditions

TAG = '"abc"'
MODIFIED = datetime(2026, 11, 26, 9, 30, 0, 500_000, tzinfo=UTC)
DATE, BEFORE, AFTER = (
    (MODIFIED + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT") for seconds in (0, -1, 1)
)
SIZE = 100


def of(headers, *, modified=MODIFIED):
    return Preconditions(headers.get, etag=TAG, modified=modified)


@pytest.mark.parametrize(
    ("headers", "is_failed"),
    [
        ({}, False),
        ({"If-Match": TAG}, False),
        ({"If-Match": f'"x", {TAG}'}, False),
        ({"If-Match": "*"}, False),
        ({"If-Match": '"x"'}, True),
        ({"If-Match": f"W/{TAG}"}, True),
        ({"If-Match": "abc"}, True),
        ({"If-Match": ""}, True),
        ({"If-Unmodified-Since": DATE}, False),
        ({"If-Unmodified-Since": AFTER}, False),
        ({"If-Unmodified-Since": BEFORE}, True),
        ({"If-Unmodified-Since": "yesterday"}, False),
        ({"If-Match": TAG, "If-Unmodified-Since": BEFORE}, False),
    ],
)
def test_another_content_than_the_client_means_is_refused(headers, is_failed):
    assert is_failed == of(headers).is_failed


@pytest.mark.parametrize(
    ("headers", "is_unchanged"),
    [
        ({}, False),
        ({"If-None-Match": TAG}, True),
        ({"If-None-Match": f"W/{TAG}"}, True),
        ({"If-None-Match": f'"x",{TAG}'}, True),
        ({"If-None-Match": " * "}, True),
        ({"If-None-Match": '"x"'}, False),
        ({"If-None-Match": '"a*c"'}, False),
        ({"If-Modified-Since": DATE}, True),
        ({"If-Modified-Since": AFTER}, True),
        ({"If-Modified-Since": BEFORE}, False),
        ({"If-Modified-Since": "Thursday, 26-Nov-26 09:30:00 GMT"}, True),
        ({"If-Modified-Since": "26.11.2026"}, False),
        ({"If-None-Match": '"x"', "If-Modified-Since": DATE}, False),
    ],
)
def test_a_content_that_the_client_has_is_unchanged(headers, is_unchanged):
    assert is_unchanged == of(headers).is_unchanged


@pytest.mark.parametrize("header", ["If-Modified-Since", "If-Unmodified-Since", "If-Range"])
def test_a_content_without_a_date_has_no_conditions_on_it(header):
    undated = of({header: BEFORE, "Range": "bytes=0-0"}, modified=None)

    assert (False, False) == (undated.is_failed, undated.is_unchanged)
    assert (None if header == "If-Range" else range(1)) == undated.wanted(SIZE)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=0-99", range(100)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=90-", range(90, 100)),
        ("bytes=90-1000", range(90, 100)),
        ("bytes=-10", range(90, 100)),
        ("bytes=-1000", range(100)),
        ("BYTES=0-0", range(1)),
        ("bytes=\t00-000", range(1)),
        (f"bytes=0-{'9' * 5_000}", range(100)),
        (f"bytes=-{'9' * 5_000}", range(100)),
        # What is no single range is the whole content.
        ("bytes=0-0,2-3", None),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=a-b", None),
        ("bytes=1-2-3", None),
        ("bytes=+1-2", None),
        ("bytes=٣-٤", None),
        ("lines=0-1", None),
        ("", None),
    ],
)
def test_a_range_is_the_part_that_it_names(text, wanted):
    assert wanted == of({"Range": text}).wanted(SIZE)


@pytest.mark.parametrize("text", ["bytes=100-", "bytes=100-200", f"bytes={'9' * 5_000}-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused_with_the_size(text):
    with pytest.raises(falcon.HTTPRangeNotSatisfiable) as caught:
        of({"Range": text}).wanted(SIZE)

    assert "bytes */100" == caught.value.headers["Content-Range"]


def test_an_empty_content_has_no_part_but_a_suffix_of_it_is_all_of_it():
    assert of({"Range": "bytes=-5"}).wanted(0) is None
    with pytest.raises(falcon.HTTPRangeNotSatisfiable):
        of({"Range": "bytes=0-"}).wanted(0)


@pytest.mark.parametrize(
    ("validator", "is_partial"),
    [
        (TAG, True),
        (DATE, True),
        ('"x"', False),
        (f"W/{TAG}", False),
        (BEFORE, False),
        (AFTER, False),
        ("abc", False),
        ("*", False),
    ],
)
def test_a_part_fits_only_the_content_that_the_client_has_the_rest_of(validator, is_partial):
    assert (range(1) if is_partial else None) == of({"Range": "bytes=0-0", "If-Range": validator}).wanted(SIZE)


numbers = st.none() | st.integers(0, 300) | st.integers(0, 10**30)


@given(first=numbers, last=numbers, size=st.integers(0, 200))
@example(first=0, last=0, size=0)
def test_every_pair_of_numbers_is_a_part_the_whole_or_refused(first, last, size):
    """Compared with a list of all positions."""
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    positions = list(range(size))
    if first is not None:
        expected = [position for position in positions if first <= position and (last is None or position <= last)]
    else:
        expected = positions[-last:] if last else []

    try:
        wanted = of({"Range": text}).wanted(size)
    except falcon.HTTPRangeNotSatisfiable:
        assert not expected
    else:
        is_no_range = last is None if first is None else last is not None and last < first
        assert (positions if is_no_range else expected) == list(wanted or positions)


@given(
    st.dictionaries(st.sampled_from(["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since"]), st.text())
)
def test_no_header_is_an_error(headers):
    conditions = of(headers)

    assert {conditions.is_failed, conditions.is_unchanged} <= {True, False}
    try:
        wanted = conditions.wanted(SIZE)
    except falcon.HTTPRangeNotSatisfiable:
        return
    assert wanted is None or (len(wanted) and 0 <= wanted.start < wanted.stop <= SIZE)
