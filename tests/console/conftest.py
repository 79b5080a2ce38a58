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
    from playwright.sync_api import sync_playwright  # here, so that it is not needed where there is no browser

    with sync_playwright() as playwright:
        # Its sandbox needs rights that containers do not have. It visits nothing but the API of these tests.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def console(service):
    """An API and a worker."""
    service.start_api()
    service.start_worker()
    return service


@pytest.fixture
def open_tab(chromium, console):
    """Open a page in a new profile. At the end of the test, no tab may have complained about anything."""
    tabs = []

    def open_tab(path="/console", *, status=200, dark=False, width=1280, scripts=True, service=console):
        profile = chromium.new_context(
            base_url=f"http://127.0.0.1:{service.api_port}",
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": 800},
            java_script_enabled=scripts,
            reduced_motion="reduce",
        )
        profile.set_default_timeout(30_000)
        tabs.append(Tab(profile))
        tabs[-1].open(path, status=status)
        return tabs[-1]

    yield open_tab
    complaints = [complaint for tab in tabs for complaint in tab.complaints]
    for tab in tabs:
        tab.profile.close()
    assert not complaints
