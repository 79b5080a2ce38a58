"""docs/api.md and the code have the same routes and the same fields."""

import re
from pathlib import Path

import falcon.inspect
import msgspec
import pytest

from jobs_service.api.app import create_app
from jobs_service.config import Settings
from jobs_service.jobs.lifecycle import EndReason, Status
from jobs_service.submission.submit import Submission

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


@pytest.fixture(scope="module")
def app():
    return create_app(
        Settings.from_env({"DATABASE_URL": "postgresql://x@localhost/x", "REDIS_URL": "redis://localhost"})
    )


@pytest.fixture(scope="module")
def served(app):
    routes = falcon.inspect.inspect_app(app).routes
    return {(m.method, route.path) for route in routes for m in route.methods if not m.internal}


@pytest.fixture(scope="module")
def api(served):
    """What is no page of the console: docs/console.md describes those."""
    return {(method, path) for method, path in served if not path.startswith("/console")}


def test_head_works_where_get_does(served):
    heads, gets = ({path for method, path in served if method == wanted} for wanted in ("HEAD", "GET"))

    assert gets == heads


def test_every_route_is_documented_and_no_other(api):
    assert {(method, path) for method, path in api if method != "HEAD"} == set(
        re.findall(r"^\| `(\w+) (/[^`]*)` \|", PAGE, re.MULTILINE)
    )


def test_every_field_of_a_submission_is_documented_and_no_other():
    table = PAGE.partition("## `POST /jobs`")[2].partition("## ")[0]

    assert {field.name for field in msgspec.structs.fields(Submission)} == set(
        re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    )


def test_the_closed_lists_are_in_the_page():
    assert all(f"`{name}`" in PAGE for name in (*Status, *EndReason))
