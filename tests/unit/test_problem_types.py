"""docs/errors.md and the code have the same problems, and every problem that is raised has a type."""

import ast
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from jobs_service.api import openapi
from jobs_service.api.app import create_app
from jobs_service.api.problem_types import PROBLEM_TYPES
from jobs_service.config import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text()

SECTIONS = dict(re.findall(r"^## (\w+)\n\n\*\*(\d+)\.\*\*", PAGE, re.MULTILINE))


def test_every_code_has_a_section_with_its_status_and_no_other():
    assert {code: str(kind.status.value) for code, kind in PROBLEM_TYPES.items()} == SECTIONS


@pytest.mark.parametrize("path", sorted((ROOT / "jobs_service").rglob("*.py")), ids=lambda path: path.stem)
def test_every_error_that_is_raised_has_a_type(path):
    titles = {
        keyword.value.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and "falcon.HTTP" in ast.unparse(node.func)
        for keyword in node.keywords
        if keyword.arg == "title" and isinstance(keyword.value, ast.Constant)
    }

    assert titles <= set(PROBLEM_TYPES)


def test_every_operation_names_known_problems_and_answers():
    app = create_app(
        Settings.from_env({"DATABASE_URL": "postgresql://x@localhost/x", "REDIS_URL": "redis://localhost"})
    )
    operations = {
        declared.id: declared for route in app_routes(app) for _, declared in openapi.Route(*route).operations()
    }

    assert operations
    for declared in operations.values():
        assert set(declared.problems) <= set(PROBLEM_TYPES), declared.id
        assert all(isinstance(status, HTTPStatus) for status in declared.answers), declared.id


def app_routes(app):
    """Yield (path template, resource) of each route of a Falcon application."""

    def below(nodes):
        for node in nodes:
            if node.resource is not None:
                yield node.uri_template, node.resource
            yield from below(node.children)

    yield from below(app._router._roots)
