"""Signing in and out in a real browser: with TLS's trust and without, from links of other sites, until the key ends."""

import pytest
from eventually import eventually
from playwright.sync_api import expect
from tab import check_page

from jobs_service.api.access import keys
from jobs_service.api.callers import Scope


@pytest.fixture
def console(service, database):
    """An API that needs a key, which is `console.key`."""
    service.key = keys.create(database, "alice", tuple(Scope))
    service.start_api()
    return service


def sign_in(tab, key):
    tab.page.get_by_label("API key").fill(key)
    tab.page.keyboard.press("Enter")


def test_somebody_signs_in_sees_what_they_asked_for_and_signs_out(open_tab, console):
    tab = open_tab("/console/jobs?status=failed")
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Sign in")
    tab.expected.add(401)
    sign_in(tab, "wrong")
    expect(tab.page.get_by_role("alert")).to_contain_text("no such API key")
    sign_in(tab, console.key)
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Jobs")
    assert "/console/jobs?status=failed" == tab.path
    assert [("Strict", True, "/console")] == [
        (cookie["sameSite"], cookie["httpOnly"], cookie["path"]) for cookie in tab.profile.cookies()
    ]

    tab.page.get_by_role("button", name="Sign out").click()

    expect(tab.page.get_by_text("You are signed out.")).to_be_visible()
    assert [] == tab.profile.cookies()


def test_without_tls_a_browser_says_where_its_forms_are_from_all_the_same(open_tab, console):
    """It sends no Sec-Fetch-Site to a server that it does not trust, and Origin only if the policy lets it."""
    tab = open_tab("/console", host="jobs.test")
    sent = []
    tab.page.on("request", lambda request: request.method == "POST" and sent.append(request.all_headers()))

    sign_in(tab, console.key)

    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Overview")
    assert "sec-fetch-site" not in sent[0]
    assert f"http://jobs.test:{console.api_port}" == sent[0]["origin"]
    # Neither are there locks, or a clipboard; streams are shared as ever.
    tab.page.goto("/console/jobs")
    expect(tab.page.locator("#live-words")).to_have_text("Live")
    tab.page.get_by_role("button", name="Sign out").click()
    expect(tab.page.get_by_text("You are signed out.")).to_be_visible()


def test_a_link_of_another_site_leads_there_without_a_second_key(open_tab, console):
    tab = open_tab("/console/jobs")
    sign_in(tab, console.key)
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Jobs")
    # Another site, as Grafana's is: localhost, with a link to 127.0.0.1.
    link = f"<a href='http://127.0.0.1:{console.api_port}/console/jobs?status=failed'>the alert's jobs</a>"
    tab.page.route("http://other.test/**", lambda route: route.fulfill(body=link, content_type="text/html"))
    tab.page.goto("http://other.test/")

    tab.page.get_by_role("link").click()

    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Jobs")
    assert "/console/jobs?status=failed" == tab.path
    tab.complaints[:] = [complaint for complaint in tab.complaints if "other.test" not in complaint]


def test_a_page_whose_session_has_ended_goes_to_sign_in(open_tab, console, database):
    tab = open_tab("/console/jobs")
    sign_in(tab, console.key)
    expect(tab.page.locator("#live-words")).to_have_text("Live")
    tab.expected.add(401)

    keys.revoke(database, console.key.partition(".")[0])
    # Within seconds. Then the page is fetched with the next event.
    eventually(lambda: _status(tab) == 303, what="a session that has ended")
    tab.page.evaluate("live.ask()")

    expect(tab.page.get_by_role("alert")).to_contain_text("Your key was revoked.")
    assert tab.path.startswith("/console/sign-in?next=%2Fconsole%2Fjobs")


def _status(tab):
    headers = {"Accept": "text/html"}
    return tab.page.request.get("/console/jobs?limit=1", max_redirects=0, headers=headers).status


def test_the_page_is_for_everyone(open_tab, console):  # noqa: ARG001 - it needs a key
    check_page(open_tab, "/console/sign-in")
