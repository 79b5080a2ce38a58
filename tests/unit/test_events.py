"""docs/events.md and the code name the same events, at the same levels."""

import re
from pathlib import Path

from jobs_service.events import Event
from jobs_service.observability import logs

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def test_the_page_has_a_row_for_every_event_with_its_level():
    rows = dict(re.findall(r"^\| `([^`]+)` \| (\w+) \|", PAGE, re.MULTILINE))

    assert {event.value: logs.LEVELS.get(event, "info") for event in Event} == rows
