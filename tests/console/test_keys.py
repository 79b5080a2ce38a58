"""The console by keyboard alone: the frame's keys, and what a browser does with Tab, Enter and Escape."""

import pytest
from eventually import eventually
from playwright.sync_api import expect
from tab import check_page

LATER = {"type": "csv-generation", "payload": {"name": "Alice"}, "delay_seconds": 3600}


@pytest.fixture
def console(service):
    """An API alone: the jobs of these tests run in an hour."""
    service.start_api()
    return service


@pytest.fixture
def jobs(console):
    """The ids of three jobs, in the order of the list."""
    for _ in range(3):
        assert 201 == console.request("POST", "/jobs", LATER)[0]
    return [job["job_id"] for job in console.get("/jobs")[1]["jobs"]]


@pytest.fixture
def tab(open_tab, jobs):  # noqa: ARG001 - they are on the page
    tab = open_tab("/console/jobs")
    # As lists have them, should this one not.
    tab.page.evaluate(
        "() => { if (!document.querySelector('[data-filter]')) {"
        " const field = document.createElement('input'); field.setAttribute('aria-label', 'Filter');"
        " field.setAttribute('data-filter', ''); main.prepend(field); }"
        " for (const row of document.querySelectorAll('tr[id^=job-]')) if (!row.querySelector('[type=checkbox]')) {"
        " const box = document.createElement('input'); box.type = 'checkbox'; box.name = 'job_id';"
        " box.setAttribute('aria-label', 'Select'); row.cells[0].prepend(box); } live.replace = () => {}; }"
    )
    return tab


def focused_row(tab):
    return tab.page.evaluate("document.activeElement.closest('tr')?.id")


def press(tab, *names):
    for name in names:
        tab.page.keyboard.press(name)


def test_j_and_k_move_x_selects_and_enter_opens(tab, jobs):
    rows = [f"job-{job_id}" for job_id in jobs]

    press(tab, "j")
    assert rows[0] == focused_row(tab)
    press(tab, "j", "j", "j", "j")
    assert rows[2] == focused_row(tab)
    press(tab, "k")
    assert rows[1] == focused_row(tab)
    press(tab, "k", "k", "k")
    assert rows[0] == focused_row(tab)
    press(tab, "x")
    assert [jobs[0]] == _selected(tab)
    press(tab, "j", "x")
    assert jobs[:2] == _selected(tab)
    press(tab, "x")
    assert [jobs[0]] == _selected(tab)
    press(tab, "Escape")
    assert [] == _selected(tab)
    tab.expected.add(404)
    press(tab, "Enter")
    tab.page.wait_for_url(f"**/console/jobs/{jobs[1]}")


def _selected(tab):
    return [
        row.get_attribute("id").removeprefix("job-") for row in tab.page.locator("tr:has([name=job_id]:checked)").all()
    ]


def test_a_slash_goes_to_the_filter_where_keys_are_text_and_escape_leaves_it(tab):
    press(tab, "/")
    field = tab.page.locator("[data-filter]")
    expect(field).to_be_focused()
    assert "" == field.input_value()

    tab.page.keyboard.type("/gjx.?jk")
    assert "/gjx.?jk" == field.input_value()
    assert "/console/jobs" == tab.path
    expect(tab.page.get_by_role("dialog")).to_be_hidden()
    press(tab, "Escape")
    expect(field).not_to_be_focused()
    press(tab, "j")
    assert focused_row(tab)


def test_g_and_a_letter_lead_to_each_page(tab):
    tab.page.evaluate(
        "() => { for (const link of document.querySelectorAll('[data-go]')) link.addEventListener('click', (event) => {"
        " event.preventDefault(); window.went = event.currentTarget.getAttribute('href'); }); }"
    )
    links = {link.get_attribute("data-go"): link.get_attribute("href") for link in tab.page.locator("[data-go]").all()}
    assert len(links) == tab.page.locator("[data-go]").count() > 4

    def goes(*names):
        tab.page.evaluate("window.went = null")
        press(tab, *names)
        return tab.page.evaluate("window.went")

    for key, target in links.items():
        # They have to follow within a moment, which a busy machine may miss.
        eventually(lambda key=key, target=target: goes("g", key) == target, what=target)
    # Something between them ends it.
    assert goes("g", "z", "q") is None
    assert goes("q") is None


def test_a_dot_pauses_and_a_question_mark_tells_of_the_keys(tab):
    words = tab.page.locator("#live-words")
    expect(words).to_have_text("Live")
    press(tab, ".")
    expect(words).to_have_text("Paused")
    press(tab, ".")
    expect(words).to_have_text("Live")

    press(tab, "?")
    dialog = tab.page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    # Nothing happens behind it.
    press(tab, ".", "j")
    expect(words).to_have_text("Live")
    press(tab, "Escape")
    expect(dialog).to_be_hidden()


def test_the_browsers_own_keys_are_left_to_it(tab):
    for modifier in ("Control", "Alt", "Meta"):
        tab.page.evaluate(
            "modifier => { const name = `${modifier.toLowerCase().replace('control', 'ctrl')}Key`;"
            " for (const key of ['j', 'x', '.', '/', '?', 'g']) {"
            " const event = new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true, [name]: true});"
            " document.body.dispatchEvent(event); if (event.defaultPrevented) throw Error(key); } }",
            modifier,
        )
    assert focused_row(tab) is None
    expect(tab.page.locator("#live-words")).to_have_text("Live")
    expect(tab.page.get_by_role("dialog")).to_be_hidden()


def test_no_key_changes_anything_at_the_server(tab, console, jobs):
    sent = []
    tab.page.on("request", lambda request: request.method != "GET" and sent.append(request.url))
    press(tab, "j", "x")
    for key in ("Delete", "Backspace", *"abcdefhilmnopqrstuvwyz", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"0123456789#!-+*"):
        press(tab, key)

    assert [] == sent
    assert {"pending"} == {console.job(job_id)["status"] for job_id in jobs}


def test_keys_can_be_switched_off(tab):
    press(tab, "?")
    tab.page.get_by_label("Keys are on").uncheck()
    press(tab, "Escape", "j")
    assert focused_row(tab) is None
    tab.page.reload()
    press(tab, ".")
    expect(tab.page.locator("#live-words")).to_have_text("Live")


def test_tab_begins_with_the_way_to_the_content_and_shows_where_it_is(tab):
    press(tab, "Tab")
    skip = tab.page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    press(tab, "Enter")
    expect(tab.page.locator("#main")).to_be_focused()

    tab.page.reload()
    for _ in range(12):
        press(tab, "Tab")
        width = tab.page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert width >= 2, tab.page.evaluate("document.activeElement.outerHTML")


def test_the_frame_has_its_landmarks_and_works_zoomed_forced_and_printed(open_tab, jobs):  # noqa: ARG001
    check_page(open_tab, "/console")
    # 1280 px at 400 % and at 200 %.
    for width in (320, 640):
        tab = open_tab("/console/jobs", width=width)
        assert width >= tab.page.evaluate("document.documentElement.scrollWidth")
    assert 1 == tab.page.get_by_role("navigation", name="Pages", exact=True).count()
    for landmark in ("banner", "main"):
        assert 1 == tab.page.get_by_role(landmark).count()
    tab.page.set_viewport_size({"width": 640, "height": 400})
    assert "static" == tab.page.evaluate("getComputedStyle(document.querySelector('.frame')).position")
    tab.page.emulate_media(forced_colors="active")
    assert "solid" == tab.page.evaluate("getComputedStyle(document.querySelector('.button')).borderTopStyle")
    tab.page.emulate_media(media="print", forced_colors="none")
    expect(tab.page.locator(".frame")).to_be_hidden()
    expect(tab.page.get_by_role("table")).to_be_visible()
