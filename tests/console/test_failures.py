"""The operator's way in a real browser: a group of failures, a preview, a redrive, and its end."""

import re

import pytest
from eventually import eventually
from playwright.sync_api import expect
from tab import check_page

from jobs_service.api.access import keys
from jobs_service.database.connection import open_database

HOSTILE = (
    "<script>alert(1)</script> \N{RIGHT-TO-LEFT OVERRIDE}\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET} " + "x" * 10_000
)

#: Sends the form of a redrive, which the page does not have.
FORGED = """() => {
  const form = document.createElement("form");
  form.method = "post";
  form.action = "/console/redrives/new";
  form.innerHTML = '<input name="all" value="yes"><input name="rate" value="5">';
  document.body.append(form);
  form.submit();
}"""


@pytest.fixture
def broken(tmp_path):
    """A file as long as which there is, jobs of the type test-fail-while fail."""
    path = tmp_path / "broken"
    path.touch()
    return path


@pytest.fixture
def fail(console, broken):
    """Submit jobs that fail, wait until they have, and return the id of their group. `{}` in a message is a number."""

    def fail(message, count=1):
        for number in range(count):
            payload = {"path": str(broken), "message": message.replace("{}", str(number))}
            last = console.post("test-fail-while", payload, max_attempts=1)

        def group():
            groups = console.get("/dead-letters/groups")[1]["groups"]
            [group] = [group for group in groups if group["count"] == count and console.job(last)["error"]]
            return group["id"]

        console.when(last, "failed")
        return eventually(group, what="a group of all jobs")

    return fail


def has_ended(tab):
    expect(tab.page.locator("#progress-title")).to_contain_text("Finished")
    expect(tab.page.locator("#outcomes")).to_contain_text("Every job has run, and none failed again.")


def test_an_operator_redrives_a_group_in_three_clicks_and_sees_it_end(open_tab, fail, broken):
    fail("no space left in report-{}.csv", 3)
    tab = open_tab("/console")
    broken.unlink()

    finding = tab.page.get_by_role("listitem").filter(has_text="no space left in report-N.csv")
    finding.get_by_role("link", name="Open the group").click()
    expect(tab.page.get_by_role("heading", level=1)).to_contain_text("RuntimeError")
    tab.page.get_by_role("link", name="Redrive…").click()
    expect(tab.page.get_by_role("table").locator("tbody tr")).to_have_count(3)
    tab.page.get_by_role("button", name="Redrive 3 jobs").click()

    # Without a further click, and without a reload.
    has_ended(tab)
    expect(tab.page.locator("#outcomes dd").first).to_have_text("3")
    # What has ended is not fetched any more.
    expect(tab.page.locator("#live")).to_be_hidden()


def test_the_way_with_the_keyboard_alone(open_tab, fail, broken):
    fail("by keyboard {}", 2)
    tab = open_tab("/console")
    broken.unlink()
    press = tab.page.keyboard.press

    press("g")
    press("f")
    tab.page.wait_for_url("**/console/failures")
    press("j")
    press("Enter")
    expect(tab.page.get_by_role("link", name="Redrive…")).to_be_visible()
    tab_to(tab, "Redrive…")
    press("Enter")
    expect(tab.page.get_by_label("Jobs a second, at most")).to_be_visible()
    tab_to(tab, "Redrive 2 jobs")
    press("Enter")

    has_ended(tab)


def tab_to(tab, words):
    """Press the tab key until this link or button has the focus."""
    for _ in range(60):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.textContent.trim()") == words:
            return
    raise AssertionError(f"the tab key does not lead to {words}")


def test_the_way_without_scripts(open_tab, fail, broken):
    fail("without scripts {}", 2)
    tab = open_tab("/console/failures", scripts=False)
    broken.unlink()

    tab.page.get_by_role("link", name="without scripts N").click()
    tab.page.get_by_role("link", name="Redrive…").click()
    tab.page.get_by_label("Jobs a second, at most").fill("50")
    tab.page.get_by_role("button", name="Look again").click()
    assert "40 ms" in tab.text
    tab.page.get_by_role("button", name="Redrive 2 jobs").click()

    def ended():
        tab.page.get_by_role("link", name="Refresh").click()
        return "Every job has run, and none failed again." in tab.text

    eventually(ended, what="the end of the redrive")


def test_a_redrive_that_does_not_help_is_seen_and_stopped(open_tab, fail):
    fail("still broken {}", 3)
    tab = open_tab("/console/failures")
    tab.page.get_by_role("link", name="still broken N").click()
    tab.page.get_by_role("link", name="Redrive…").click()
    tab.page.get_by_label("Jobs a second, at most").fill("0.1")
    expect(tab.page.locator("output")).to_have_text("30 s")
    tab.page.get_by_role("button", name="Redrive 3 jobs").click()

    expect(tab.page.locator("#failed-again")).to_have_text("1")
    expect(tab.page.get_by_role("link", name="the same")).to_be_visible()
    tab.page.get_by_role("button", name="Stop").click()

    expect(tab.page.locator("#progress-title")).to_have_text(re.compile("Stopped after 1 of 3"))


def test_a_new_group_appears_without_a_reload(open_tab, fail):
    tab = open_tab("/console/failures")
    expect(tab.page.get_by_role("heading", name="No failed job")).to_be_visible()

    fail("out of the blue")

    expect(tab.page.get_by_role("link", name="out of the blue")).to_be_visible()
    expect(tab.page.get_by_role("row", name="out of the blue").get_by_text("new", exact=True)).to_be_visible()


def test_a_group_is_resolved_and_is_found_again(open_tab, fail):
    fail("resolved soon")
    tab = open_tab("/console/failures")
    tab.page.get_by_role("link", name="resolved soon").click()

    tab.page.get_by_label("Reason").fill("the disk is larger now")
    tab.page.get_by_role("button", name="Resolve").click()

    expect(tab.page.get_by_role("status")).to_contain_text("The group is resolved.")
    expect(tab.page.locator("#group")).to_contain_text("the disk is larger now")
    tab.page.get_by_role("link", name="Failures").last.click()
    expect(tab.page.get_by_role("heading", name="No open group")).to_be_visible()
    tab.page.get_by_role("link", name="Resolved").click()
    tab.page.get_by_role("link", name="resolved soon").click()
    tab.page.get_by_role("button", name="Reopen").click()
    expect(tab.page.get_by_role("status")).to_contain_text("The group is open again.")


def test_a_reader_has_no_buttons_and_a_forged_form_is_refused(open_tab, fail, settings):
    group_id = fail("only to be read")
    tab = open_tab()
    database = open_database(settings)
    key = keys.create(database, "reader", ["jobs:read"])
    database.discard()
    headers = {"Sec-Fetch-Site": "same-origin"}
    assert tab.profile.request.post("/console/sign-in", form={"key": key}, headers=headers).ok

    tab.open(f"/console/failures/{group_id}")
    assert "only to be read" in tab.text
    assert 0 == tab.page.locator("#main form, #main a.primary").count()

    tab.expected.add(403)
    tab.page.evaluate(FORGED)

    expect(tab.page.locator("#main")).to_contain_text("dead-letters:write")
    assert "403" in tab.text


def test_pages_with_hostile_texts(open_tab, console, fail):
    group_id = fail(f"{HOSTILE} {{}}", 2)
    redrive = console.request("POST", "/dead-letters/redrives", {"all": True, "rate_per_second": 0.1})[1]["id"]
    eventually(lambda: console.get(f"/dead-letters/redrives/{redrive}/outcomes")[1]["failed_again"], what="a failure")

    for path in (
        "/console/failures?state=all",
        f"/console/failures/{group_id}",
        f"/console/redrives/new?group={group_id}",
        f"/console/redrives/{redrive}",
        "/console/redrives",
    ):
        check_page(open_tab, path)


def test_pages_without_jobs(open_tab):
    check_page(open_tab, "/console/failures")
    check_page(open_tab, "/console/redrives/new?finished_after=x&all=yes", status=422)
    check_page(open_tab, "/console/failures/8c1f2a6d-9be3-3f10-7c55-04d2a8f0e6b1", status=404)
