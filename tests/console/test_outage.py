"""What the console shows while a server is away: what was seen last, and that nothing is lost; then it goes on."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect
from proxy import Proxy

LATER = {"type": "csv-generation", "payload": {"name": "Alice"}, "delay_seconds": 3600}


def through(environ, name, proxy):
    """Return the environment with this server behind the proxy."""
    parts = urlsplit(environ[name])
    return {name: environ[name].replace(f":{parts.port}", f":{proxy.port}")}


@pytest.fixture
def postgres_proxy(service, postgres):
    """A PostgreSQL that can be away, and a service that uses it."""
    with Proxy(postgres.port) as proxy:
        service.start_api(**through(service.environ, "DATABASE_URL", proxy))
        yield proxy
        proxy.heal()


def test_an_open_page_says_what_was_seen_and_goes_on_by_itself(open_tab, service, postgres_proxy):
    job_id = service.request("POST", "/jobs", LATER)[1]["job_id"]
    tab = open_tab("/console/jobs", service=service)
    tab.expected |= {503}
    expect(tab.page.locator("#live-words")).to_have_text("Live")

    postgres_proxy.down()
    tab.page.evaluate("live.ask()")

    outage = tab.page.get_by_role("status").filter(has_text="The database does not answer.")
    expect(outage).to_contain_text("Every accepted job is kept. Below is what was seen at ")
    expect(tab.page.locator(f"#job-{job_id}")).to_be_visible()
    postgres_proxy.heal()
    expect(outage).to_be_hidden()
    service.when(job_id, "pending")
    service.request("POST", f"/jobs/{job_id}/cancel")
    expect(tab.page.locator(f"#job-{job_id}")).to_contain_text("cancelled")


def test_a_page_that_is_opened_meanwhile_has_what_was_shown_last(open_tab, service, postgres_proxy):
    job_id = service.request("POST", "/jobs", LATER)[1]["job_id"]
    before = open_tab("/console/jobs", service=service)
    before.expected |= {503}
    postgres_proxy.down()

    tab = open_tab("/console/jobs", status=503, service=service)
    unseen = open_tab("/console/jobs?status=failed", status=503, service=service)
    plain = open_tab("/console/jobs", status=503, service=service, scripts=False)

    for shown in (tab, plain):
        expect(shown.page.get_by_role("alert")).to_contain_text("Every accepted job is kept")
        expect(shown.page.get_by_role("alert")).to_contain_text("Below is what this page showed at 20")
        expect(shown.page.locator(f"#job-{job_id}")).to_be_visible()
        assert 1 == shown.page.get_by_role("heading", level=1).count()
        # Nothing can be pressed that would fail.
        assert [] == [box for box in shown.page.locator("#main").get_by_role("button").all() if box.is_enabled()]
    assert "Every accepted job is kept" in unseen.text

    postgres_proxy.heal()
    for shown in (tab, unseen):
        # Each looks again by itself.
        expect(shown.page.locator("#main[data-problem]")).to_have_count(0)
        expect(shown.page.get_by_role("heading", level=1)).to_have_text("Jobs")
    plain.page.get_by_role("link", name="Try again").click()
    expect(plain.page.locator("#main[data-problem]")).to_have_count(0)


def test_without_redis_pages_work_as_ever(open_tab, service, valkey):
    with Proxy(valkey.port) as proxy:
        service.start_api(**through(service.environ, "REDIS_URL", proxy))
        proxy.down()
        job_id = service.request("POST", "/jobs", LATER)[1]["job_id"]
        for path in ("/console", "/console/jobs"):
            tab = open_tab(path, service=service)
            expect(tab.page.locator("#live-words")).to_have_text("Live")
        expect(tab.page.locator(f"#job-{job_id}")).to_contain_text("pending")
