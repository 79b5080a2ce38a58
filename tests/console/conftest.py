"""A real browser for the tests of the console, in front of a real API and worker."""

import os
import shutil

import pytest
from tab import Tab

CHROMIUM = os.environ.get("BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chromium():
    """One browser for the tests of a file: while it runs, no other event loop can run in this thread."""
    if CHROMIUM is None:
        pytest.skip("no browser here: install Debian's package chromium, or let BROWSER name one")
    from playwright.sync_api import expect, sync_playwright  # here: not needed where there is no browser

    # A condition may take as long as a busy machine lets it.
    expect.set_options(timeout=60_000)

    with sync_playwright() as playwright:
        # Its sandbox needs rights that containers do not have. It visits nothing but the API of these tests.
        # jobs.test is this machine by a name that the browser does not trust, as a server without TLS is.
        flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP jobs.test 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def console(service):
    """An API and a worker."""
    service.start_api()
    service.start_worker()
    return service


@pytest.fixture
def open_tab(request, chromium):
    """Open a page in a new profile. At the end of the test, no tab may have complained about anything."""
    tabs = []

    def open_tab(
        path="/console", *, status=200, dark=False, width=1280, scripts=True, service=None, port=None, host="127.0.0.1"
    ):
        service = service or request.getfixturevalue("console")
        profile = chromium.new_context(
            base_url=f"http://{host}:{port or service.api_port}",
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": 800},
            java_script_enabled=scripts,
            reduced_motion="reduce",
        )
        profile.set_default_timeout(60_000)
        tabs.append(Tab(profile))
        tabs[-1].open(path, status=status)
        return tabs[-1]

    yield open_tab
    complaints = [complaint for tab in tabs for complaint in tab.complaints]
    for tab in tabs:
        tab.profile.close()
    assert not complaints
