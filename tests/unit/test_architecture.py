"""docs/architecture.md and the code say the same, and imports point one way."""

import ast
import re
from pathlib import Path

import pytest

from jobs_service.lifecycle import TRANSITIONS, DeadReason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()

#: A module may import from its own rank and below. Names are the modules' and folders' in jobs_service.
RANKS = [
    {"errors", "events", "ids", "config", "slots", "incoming", "failpoints", "deadlines", "descriptors", "liveness"},
    {
        "logs",
        "supervisor",
        "origin",
        "telemetry",
        "tracing",
        "typed",
        "database",
        "smtp",
        "addresses",
        "headers",
        "deferral",
    },
    {"mailer", "storage", "models", "migrations", "lifecycle"},
    {"registry", "failures"},
    {"broker"},
    {"dead_letters", "publisher", "attempt", "batch"},
    {"submission", "binding", "isolation", "maintenance", "metrics", "clock", "presence"},
    {"middleware", "resources", "sampler", "watchdog"},
    {"http_worker"},
    {"app", "worker", "isolated", "gunicorn_config"},
    {"wsgi", "__main__", "devstack", "__init__"},
]


def test_the_diagram_draws_every_transition_and_no_other():
    drawn = set(re.findall(r"^  (\w+) --> (\w+|\[\*\]): (\w+)$", PAGE, re.MULTILINE))

    written = {
        (str(start), str(end), verb)
        for verb, (starts, ends) in TRANSITIONS.items()
        for start in starts
        for end in ends or ("[*]",)
    }
    assert written == drawn


def test_every_dead_reason_is_in_the_page():
    assert all(f"`{reason}`" in PAGE for reason in DeadReason)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs_service").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_point_down(path):
    name = path.relative_to(ROOT / "jobs_service").parts[0].removesuffix(".py")

    assert not [imported for imported in _imports(path) if _rank(imported) > _rank(name)]


def test_only_lifecycle_writes_a_status():
    writers = [
        path.name
        for path in (ROOT / "jobs_service").rglob("*.py")
        if re.search(r"SET\s+status|INSERT INTO jobs\b", path.read_text())
    ]

    assert ["lifecycle.py"] == writers


def test_job_types_import_nothing_that_knows_rows_or_queues():
    allowed = {"errors", "registry", "storage", "mailer", "addresses", "headers", "typed"}

    for path in (ROOT / "actors").glob("*.py"):
        assert _imports(path) <= allowed, path.name


def _imports(path):
    """Return the modules of jobs_service that a file imports at its top level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jobs_service":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def _rank(name):
    return next(rank for rank, names in enumerate(RANKS) if name in names)
