"""The pages of the console, for the tests of what links to them from elsewhere."""

from functools import cache
from urllib.parse import parse_qsl, urlsplit

from jobs_service.api.app import create_app
from jobs_service.api.resources.job_pages import JobsQuery
from jobs_service.config import Settings

#: The console's address in rules and runbooks.
CONSOLE = "http://localhost:3000/console"


def is_page(link):
    """Tell whether a link, without the console's address, leads to a page, with filters that the page has."""
    parts = urlsplit(link)
    filters = dict(parse_qsl(parts.query))
    return _app()._router.find(f"/console{parts.path}") is not None and filters.keys() <= {*JobsQuery.__struct_fields__}


@cache
def _app():
    return create_app(Settings.from_env({"DATABASE_URL": "postgresql://localhost/x", "REDIS_URL": "redis://localhost"}))
