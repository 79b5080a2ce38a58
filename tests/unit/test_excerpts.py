"""How much of a long or hostile text is on a page, and what is seen of it."""

import json

import pytest

from jobs_service.api.console.excerpts import MAX_PRETTY, bytes_of, excerpt, pretty_json
from jobs_service.api.console.formats import visible

TEXTS = ["short", "x" * 10_000, '"' * 10_000, "<" * 10_000, "\u202e" * 10_000, "ä" * 10_000, "\U0001f600" * 10_000]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_an_excerpt_takes_no_more_than_it_may(text):
    found = excerpt(text, most=1_000)

    assert text.startswith(found.text)
    assert bytes_of(found.text) <= 1_000
    assert found.is_cut == (found.text != text)
    assert len(text.encode()) == found.size
    # Not much less, either.
    assert text == found.text or bytes_of(found.text) > 900


def test_a_pretty_text_differs_in_nothing_but_space():
    raw = rb'{"b":1.50,"a":[1e5,-0,"\u00e9\/ \ud83d\ude00 ",{},[]],"big":123456789012345678901234567890,"b":null}'

    pretty = pretty_json(raw)

    assert "\n" in pretty
    assert raw.decode().replace(" ", "") == "".join(pretty.split())
    assert '"\\u00e9\\/ \\ud83d\\ude00 "' in pretty


def test_a_text_that_is_too_long_or_too_deep_stays_as_it_is():
    deep = "[" * 5_000 + "]" * 5_000
    long = json.dumps(["x" * MAX_PRETTY])

    assert [deep, long] == [pretty_json(text.encode()) for text in (deep, long)]


def test_characters_that_would_change_a_text_are_seen_and_do_nothing():
    shown = visible("a\u202eb <i> \x1b[0m\ttab\n")

    assert "\u202e" not in shown
    assert "\x1b" not in shown
    assert "&lt;i&gt;" in shown
    assert ">\\u202e<" in shown
    assert shown.endswith("[0m\ttab\n")
