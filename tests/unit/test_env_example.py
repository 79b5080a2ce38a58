"""`.env.example` says the same as the settings and as docker-compose.yml."""

import dataclasses
import re
from pathlib import Path

from jobs_service.config import Settings, variable

ROOT = Path(__file__).parents[2]
LINES = (ROOT / ".env.example").read_text().splitlines()

#: Name -> (is it active, its value).
WRITTEN = {
    found["name"]: (not found["off"], found["value"])
    for line in LINES
    if (found := re.fullmatch(r"(?P<off># )?(?P<name>[A-Z_]+)=(?P<value>.*)", line))
}
FIELDS = {variable(field): field for field in dataclasses.fields(Settings)}
#: What docker-compose.yml reads from .env, with its default there.
COMPOSE = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", (ROOT / "docker-compose.yml").read_text()))


def test_every_setting_is_in_the_example():
    missing = FIELDS.keys() - WRITTEN.keys()

    assert not missing, f".env.example lacks {sorted(missing)}: add each with its default and a comment"


def test_every_variable_of_compose_is_in_the_example():
    missing = COMPOSE.keys() - WRITTEN.keys()

    assert not missing, f".env.example lacks {sorted(missing)}, which docker-compose.yml reads"


def test_nothing_else_is_in_the_example():
    unknown = WRITTEN.keys() - FIELDS.keys() - COMPOSE.keys()

    assert not unknown, f"neither jobs_service/config.py nor docker-compose.yml reads {sorted(unknown)}"


def test_what_is_commented_out_is_the_default():
    defaults = {variable: default for variable, default in COMPOSE.items() if variable not in FIELDS}
    defaults |= {name: str(field.default) for name, field in FIELDS.items()}

    off = {name: value for name, (active, value) in WRITTEN.items() if not active}
    assert {name: defaults[name] for name in off} == off


def test_compose_starts_the_same_without_the_example():
    """Where docker-compose.yml has a default of its own for a setting, it is the example's value."""
    places = {name for name in COMPOSE if name in ("CONSOLE_URL", "GRAFANA_URL")}

    assert {name: COMPOSE[name] for name in COMPOSE.keys() - places} == {
        name: WRITTEN[name][1] for name in COMPOSE.keys() - places
    }
    # Where Compose's own servers are is its own default, and the example says so.
    assert all(COMPOSE[name] in "\n".join(LINES) for name in places)


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
