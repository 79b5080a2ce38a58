"""`.env.example` and the settings say the same."""

import dataclasses
import re
from pathlib import Path

from jobs_service.config import Settings, variable

LINES = (Path(__file__).parents[2] / ".env.example").read_text().splitlines()

#: Name -> (is it active, its value).
WRITTEN = {
    found["name"]: (not found["off"], found["value"])
    for line in LINES
    if (found := re.fullmatch(r"(?P<off># )?(?P<name>[A-Z_]+)=(?P<value>.*)", line))
}
FIELDS = {variable(field): field for field in dataclasses.fields(Settings)}


def test_every_setting_is_in_the_example_and_nothing_else():
    assert FIELDS.keys() == WRITTEN.keys()


def test_what_is_commented_out_is_the_default():
    defaults = {name: str(FIELDS[name].default) for name, (active, _) in WRITTEN.items() if not active}

    assert defaults == {name: value for name, (active, value) in WRITTEN.items() if not active}


def test_the_brief_comes_first_word_for_word():
    active = [line for line in LINES if line and not line.startswith("#")]

    assert [
        "API_PORT=3000",
        "DATABASE_URL=postgresql://user:password@db:5432/jobs_db",
        "REDIS_URL=redis://redis:6379",
        "MAIL_HOST=mailhog",
    ] == active


def test_the_example_is_valid():
    Settings.from_env({name: value for name, (_, value) in WRITTEN.items()})


def test_every_setting_has_a_comment_above_it():
    for number, line in enumerate(LINES):
        if re.match(r"(# )?[A-Z_]+=", line):
            above = LINES[number - 1]
            assert above, f"{line} stands alone"
