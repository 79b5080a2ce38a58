"""Entity tags, and the headers that compare them (RFC 9110, sections 8.8.3, 13.1.1 and 13.1.2)."""

import pytest

from jobs_service.api.etags import etag_of, matches

MINE = etag_of(b"{}")


def test_equal_bytes_have_equal_tags_and_others_have_others():
    assert etag_of(b"{}") == MINE
    assert etag_of(b"{} ") != MINE
    assert MINE[0] == MINE[-1] == '"'


@pytest.mark.parametrize(
    ("header", "strong", "weak"),
    [
        (MINE, True, True),
        (f"W/{MINE}", False, True),
        ("*", True, True),
        (f'"x", {MINE}', True, True),
        (f' ,, "x"\t,W/"y" ,{MINE},', True, True),
        ('"x"', False, False),
        ('"x, *"', False, False),
        ("", False, False),
        (MINE.strip('"'), False, False),
        (f"{MINE} and more", False, False),
        (f"w/{MINE}", False, False),
    ],
)
def test_a_header_matches(header, strong, weak):
    assert (strong, weak) == (matches(header, MINE), matches(header, MINE, is_weak=True))


@pytest.mark.parametrize("part", ['"', 'W/"', '"a" , ', " ,", '"a"x'])
def test_a_hostile_header_takes_no_longer_than_its_length(part):
    """One of the longest that is let in; a pattern that tries every split would not end."""
    assert not matches(part * (8_190 // len(part)), MINE)
