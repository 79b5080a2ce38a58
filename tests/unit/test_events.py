"""docs/events.md and the code name the same events, with the same facts, at the same levels."""

import re
from pathlib import Path

from jobs_service.events import Event
from jobs_service.observability import logs

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def test_the_page_has_a_row_for_every_event_with_its_level_and_its_facts():
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| ([\w, ]+) \|", PAGE, re.MULTILINE)

    assert {text: (level, set(facts.split(", "))) for text, level, facts in rows} == {
        event.text: (logs.LEVELS.get(event, "info"), set(event.__struct_fields__)) for event in classes(Event)
    }


def test_no_two_events_have_one_text():
    texts = [event.text for event in classes(Event)]

    assert len(texts) == len(set(texts))


def classes(base):
    """Return the classes that are events themselves, and not what several have in common."""
    derived = base.__subclasses__()
    return [found for each in derived for found in classes(each)] if derived else [base]
