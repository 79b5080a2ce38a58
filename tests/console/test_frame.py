"""What every page has: the frame, keys that go to pages, and pages for errors."""

from tab import check_page


def test_a_browser_is_sent_to_the_overview(open_tab):
    tab = open_tab("/")

    assert "/console" == tab.path
    assert "Overview" == tab.page.get_by_role("heading", level=1).inner_text()


def test_an_error_is_a_page_that_says_what_to_do(open_tab):
    check_page(open_tab, "/console/nothing", status=404)
    tab = open_tab("/console/jobs?type=nope", status=422)

    assert "unknown job type 'nope'; known types:" in tab.text
    assert tab.page.get_by_role("link", name="What this means").get_attribute("href") == "/docs/errors#invalid_request"


def test_keys_lead_to_the_pages(open_tab):
    tab = open_tab()

    tab.page.keyboard.press("g")
    tab.page.keyboard.press("j")
    tab.page.wait_for_url("**/console/jobs")
    tab.page.keyboard.press("?")
    assert tab.page.get_by_role("dialog", name="Keys").is_visible()
