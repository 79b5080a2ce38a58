"""Live pages: what changes is replaced in place, streams are shared and resumed, nothing moves below the pointer."""

from itertools import pairwise

import pytest
from eventually import eventually
from playwright.sync_api import expect
from proxy import Proxy
from tab import Tab

LATER = {"type": "csv-generation", "payload": {"name": "Alice"}, "delay_seconds": 3600}

#: What a browser says while nobody answers.
AWAY = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")


@pytest.fixture
def console(service):
    """An API alone: the jobs of these tests run in an hour."""
    service.start_api()
    return service


@pytest.fixture
def away(open_tab):
    """Open a tab that may complain that the service is away."""

    def away(*arguments, **options):
        tab = open_tab(*arguments, **options)
        tab.expected_texts |= set(AWAY)
        return tab

    return away


def submit(service):
    """Submit a job that stays pending."""
    status, body = service.request("POST", "/jobs", LATER)
    assert 201 == status
    return body["job_id"]


def cancel(service, job_id):
    assert 200 == service.request("POST", f"/jobs/{job_id}/cancel")[0]


def row(tab, job_id):
    return tab.page.locator(f"#job-{job_id}")


def is_live(tab):
    expect(tab.page.locator("#live-words")).to_have_text("Live")


def counted(tab):
    """Count the fetches of the page, of a tab that is at rest."""
    asked = []
    tab.page.on("request", lambda request: request.resource_type == "fetch" and asked.append(request.url))
    return asked


def test_a_row_changes_in_place_and_keeps_the_focus(open_tab, console):
    job_id = submit(console)
    tab = open_tab("/console/jobs")
    is_live(tab)
    row(tab, job_id).get_by_role("link").first.focus()

    cancel(console, job_id)

    expect(row(tab, job_id)).to_contain_text("cancelled")
    assert row(tab, job_id).evaluate("row => row.contains(document.activeElement)")


def test_tabs_of_a_browser_share_streams_and_none_blocks_the_others(open_tab, console):
    """A browser opens six connections to a server without TLS, for all of its tabs."""
    job_ids = [submit(console) for _ in range(2)]
    paths = ["/console/jobs", "/console/jobs", "/console/jobs?type=csv-generation", "/console"] * 2
    first = open_tab(paths[0])
    tabs = [first]
    for path in paths[1:]:
        tab = Tab(first.profile)
        tabs.append(tab.open(path))
    assert 8 == len(first.profile.pages)

    for tab in tabs:
        is_live(tab)
    streams = eventually(lambda: _streams(console), what="streams")
    assert 1 <= streams <= 3
    cancel(console, job_ids[0])
    for tab, path in zip(tabs, paths, strict=True):
        if path.startswith("/console/jobs"):
            expect(row(tab, job_ids[0])).to_contain_text("cancelled")
        assert not tab.complaints
    # Every one of them can still be opened anew.
    for tab in tabs:
        tab.page.reload()
        is_live(tab)


def _streams(service):
    sample = service.metrics(service.api_port)
    open_streams = sum(value for name, value in sample.items() if name.startswith("jobs_event_streams"))
    assert open_streams
    return open_streams


def test_a_stream_that_breaks_is_resumed_and_nothing_is_missed(away, console):
    with Proxy(console.api_port) as proxy:
        job_ids = [submit(console) for _ in range(3)]
        tab = away("/console/jobs", port=proxy.port)
        is_live(tab)
        cancel(console, job_ids[0])
        expect(row(tab, job_ids[0])).to_contain_text("cancelled")

        proxy.down()
        cancel(console, job_ids[1])
        expect(tab.page.locator("#live-words")).to_have_text("Reconnecting")
        cancel(console, job_ids[2])
        proxy.heal()

        for job_id in job_ids:
            expect(row(tab, job_id)).to_contain_text("cancelled")
        is_live(tab)
        expect(tab.page.locator("#outage")).to_be_hidden()


def test_a_restart_of_the_api_is_survived(away, service):
    api = service.start_api()
    job_id = submit(service)
    tab = away("/console/jobs", service=service)
    is_live(tab)

    api.stop(seconds=30)
    service.start_api()
    cancel(service, job_id)

    expect(row(tab, job_id)).to_contain_text("cancelled")
    is_live(tab)


def test_nothing_moves_while_it_is_paused_below_the_pointer_or_selected(open_tab, console):
    job_ids = [submit(console) for _ in range(3)]
    tab = open_tab("/console/jobs")
    is_live(tab)

    tab.page.get_by_role("button", name="Live").click()
    expect(tab.page.locator("#live-words")).to_have_text("Paused")
    asked = counted(tab)
    cancel(console, job_ids[0])
    _told(tab, console)
    assert [] == asked
    tab.page.keyboard.press(".")
    expect(row(tab, job_ids[0])).to_contain_text("cancelled")

    row(tab, job_ids[1]).hover()
    asked.clear()
    cancel(console, job_ids[1])
    _told(tab, console)
    assert [] == asked
    expect(row(tab, job_ids[1])).to_contain_text("pending")
    tab.page.mouse.move(1, 1)
    expect(row(tab, job_ids[1])).to_contain_text("cancelled")

    box = row(tab, job_ids[2]).get_by_role("checkbox")
    row(tab, job_ids[2]).get_by_role("link").first.focus()
    tab.page.keyboard.press("x")
    expect(box).to_be_checked()
    cancel(console, job_ids[2])
    _told(tab, console)
    expect(row(tab, job_ids[2])).to_contain_text("pending")
    tab.page.keyboard.press("Escape")
    expect(row(tab, job_ids[2])).to_contain_text("cancelled")


def _told(tab, console):
    """Wait until an event that follows has reached the tab: those before have, too."""
    tab.page.evaluate(
        "() => { live.told = 0; const hear = Object.getPrototypeOf(live).hear ?? live.hear;"
        " live.hear = (message) => { hear.call(live, message); live.told += Boolean(message.submitted?.length); }; }"
    )
    submit(console)
    eventually(lambda: tab.page.evaluate("live.told > 0"), what="an event in the tab")


def test_many_events_make_at_most_one_fetch_a_second(open_tab, console):
    tab = open_tab("/console/jobs")
    is_live(tab)
    tab.page.evaluate(
        "() => { window.starts = []; const fetch_ = window.fetch;"
        " window.fetch = (...given) => { starts.push(performance.now()); return fetch_(...given); }; }"
    )

    body = [{"type": "csv-generation", "payload": {"name": str(number)}} for number in range(200)]

    def fetches():
        assert 201 == console.request("POST", "/jobs/batch", body)[0]
        return tab.page.evaluate("starts.length")

    eventually(lambda: fetches() >= 4, what="four fetches")

    starts = tab.page.evaluate("starts")
    # Each begins a second after the one before has ended.
    assert min(later - earlier for earlier, later in pairwise(starts)) >= 990


def test_a_hidden_tab_asks_nothing_and_is_current_when_it_is_seen(open_tab, console):
    job_id = submit(console)
    tab, other = open_tab("/console/jobs"), open_tab("/console/jobs")
    is_live(tab)
    asked = counted(tab)
    _hide(tab, is_hidden=True)
    asked.clear()

    cancel(console, job_id)
    expect(row(other, job_id)).to_contain_text("cancelled")
    assert [] == asked
    expect(row(tab, job_id)).to_contain_text("pending")
    _hide(tab, is_hidden=False)

    expect(row(tab, job_id)).to_contain_text("cancelled")


def _hide(tab, *, is_hidden):
    tab.page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )


def test_events_come_from_every_process_of_the_api(open_tab, service):
    service.start_api(API_PROCESSES="2")
    tab = open_tab("/console/jobs", service=service)
    is_live(tab)
    for _ in range(4):
        job_id = submit(service)
        tab.page.reload()
        is_live(tab)
        cancel(service, job_id)
        expect(row(tab, job_id)).to_contain_text("cancelled")


def test_a_badge_counts_what_has_no_row(open_tab, console):
    job_id = submit(console)
    tab = open_tab("/console/jobs")
    is_live(tab)
    # As the list has it.
    tab.page.evaluate(
        "() => { const badge = document.getElementById('new-jobs') ?? document.createElement('a');"
        " badge.id = 'new-jobs'; badge.hidden = true; main.prepend(badge); live.badge = badge; }"
    )
    cancel(console, job_id)
    expect(row(tab, job_id)).to_contain_text("cancelled")
    expect(tab.page.locator("#new-jobs")).to_be_hidden()

    for number in range(1, 4):
        submit(console)
        expect(tab.page.locator("#new-jobs")).to_have_text(f"{number} new")


def test_a_row_that_has_left_the_list_says_so(open_tab, console):
    job_id = submit(console)
    tab = open_tab("/console/jobs?status=pending")
    is_live(tab)

    cancel(console, job_id)

    expect(row(tab, job_id)).to_contain_text("not on this list any more")


def test_a_page_that_is_live_no_more_is_left_alone(open_tab, console):
    tab = open_tab("/console/jobs")
    is_live(tab)

    # As the page of a job that has ended. This one has not: what is fetched now would make it live again.
    tab.page.evaluate(
        "() => { live.flush = live.replace = () => {}; main.dataset.was = live.events; live.follow({}); }"
    )
    expect(tab.page.locator("#live")).to_be_hidden()
    expect(tab.page.get_by_role("link", name="Refresh")).to_be_visible()
    tab.page.evaluate("() => live.follow({events: main.dataset.was})")
    is_live(tab)
    job_id = submit(console)
    tab.page.reload()
    expect(row(tab, job_id)).to_contain_text("pending")


def test_times_go_on_by_the_services_clock(open_tab, console):
    submit(console)
    tab = open_tab("/console/jobs")
    time = tab.page.locator("time[data-ago]").first
    tab.page.evaluate("() => { const now = Date.now; Date.now = () => now() + 7200_000; showTimes(); }")

    expect(time).to_have_text("2 h ago")


def test_what_is_typed_or_selected_stays(open_tab, console):
    job_id = submit(console)
    tab = open_tab("/console/jobs")
    is_live(tab)
    tab.page.evaluate(
        "id => { const field = document.createElement('input'); field.setAttribute('aria-label', 'note');"
        " document.getElementById(`job-${id}`).cells[1].append(field); field.focus(); }",
        job_id,
    )
    tab.page.keyboard.type("half a sen")
    cancel(console, job_id)
    _told(tab, console)
    assert "half a sen" == tab.page.get_by_label("note").input_value()
    # Also when somebody looks elsewhere before it is sent.
    tab.page.get_by_label("note").blur()
    _told(tab, console)
    assert "half a sen" == tab.page.get_by_label("note").input_value()

    tab.page.get_by_label("note").fill("")
    tab.page.get_by_label("note").blur()
    expect(row(tab, job_id)).to_contain_text("cancelled")
