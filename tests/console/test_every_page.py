"""Every page of the console: with hostile texts in all that it shows, with a key that may only read, in an outage."""

import re
import urllib.request

import pytest
from eventually import eventually

from jobs_service.api.app import create_app
from jobs_service.config import Settings

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> \u202e\u2066{{ 7 * 7 }} ' + "W" * 10_000

#: Routes whose answer is no page, or that lead back to one.
NO_PAGES = re.compile(
    r"/console/(events|files/.*|sign-(in|out)|failures/\{group_id\}/\{decision\}"
    r"|jobs/\{job_id\}/(events|output|json/.*|cancel|retry|reschedule))"
)

#: Route -> path, with ids of what the fixture `filled` made.
PAGES = {
    "/console": "/console",
    "/console/jobs": "/console/jobs?tag=hostile",
    "/console/jobs/new": "/console/jobs/new?type=test-echo&retry_of={completed}",
    "/console/jobs/{job_id}": "/console/jobs/{failed}",
    "/console/jobs/{job_id}/attempts": "/console/jobs/{failed}/attempts",
    "/console/jobs/{job_id}/attempts/{key}": "/console/jobs/{failed}/attempts/{attempt}",
    "/console/jobs/{job_id}/discard": "/console/jobs/{failed}/discard",
    "/console/failures": "/console/failures",
    "/console/failures/{group_id}": "/console/failures/{group}",
    "/console/redrives": "/console/redrives",
    "/console/redrives/new": "/console/redrives/new?group={group}",
    "/console/redrives/{redrive_id}": "/console/redrives/{redrive}",
    "/console/actions/{kind}/{action_id}": "/console/actions/cancellations/{cancellation}",
    "/console/queues": "/console/queues",
    "/console/queues/{name}": "/console/queues/default",
    "/console/workers": "/console/workers",
    "/console/types": "/console/types",
    "/console/types/{name}": "/console/types/test-echo",
}


def test_every_route_that_is_a_page_is_tried():
    app = create_app(Settings.from_env({"DATABASE_URL": "postgresql://localhost/x", "REDIS_URL": "redis://localhost"}))
    found = {template for template in templates(app._router._roots) if not NO_PAGES.fullmatch(template)}

    assert found == PAGES.keys()


def templates(nodes, path=""):
    """Yield the templates of the console's routes that answer GET."""
    for node in nodes:
        here = f"{path}/{node.raw_segment}"
        if here.startswith("/console") and node.method_map and "on_get" in dir(node.resource):
            yield here
        yield from templates(node.children, here)


@pytest.fixture
def filled(console):
    """Jobs in each status, with hostile texts wherever a client or a job's code can put one. Return ids."""
    wishes = {"tags": ["hostile", '"><script>alert(1)</script>{{ 7 * 7 }}']}
    completed = console.post("test-echo", {"text": HOSTILE, HOSTILE[:200]: 1}, **wishes)
    failed = console.post("test-fail-while", {"path": "/", "message": HOSTILE}, **wishes)
    waiting = console.post("test-echo", {"text": HOSTILE}, delay_seconds=3_600, **wishes)
    console.when(completed, "completed")
    console.when(failed, "failed")
    cancelling = {"filter": {"tag": "hostile"}, "reason": HOSTILE[:900]}
    status, cancellation = console.request("POST", "/cancellations", cancelling)
    assert 202 == status, cancellation
    console.when(waiting, "cancelled")
    group = console.get("/dead-letters/groups")[1]["groups"][0]["id"]
    redrive = console.request("POST", "/dead-letters/redrives", {"filter": {"group": group}})[1]["id"]
    eventually(lambda: console.get(f"/dead-letters/redrives/{redrive}")[1]["state"] == "completed", what="its end")
    console.when(failed, "failed")
    assert 200 == console.request("POST", "/queues/default/pause", {"reason": HOSTILE[:900]})[0]
    return {
        "completed": completed,
        "failed": failed,
        "group": group,
        "redrive": redrive,
        "cancellation": cancellation["id"],
        "attempt": first_attempt(console, failed),
    }


def first_attempt(console, job_id):
    """Return the name of an attempt in the address of its page."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{console.api_port}/console/jobs/{job_id}/attempts", headers={"Accept": "text/html"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return re.search(rf"/jobs/{job_id}/attempts/(\w+)", answer.read().decode())[1]


def test_a_hostile_text_is_only_a_text(open_tab, filled):
    tab = open_tab()
    tab.page.on("dialog", lambda dialog: tab.complaints.append(f"{tab.page.url}: {dialog.message}"))
    for path in PAGES.values():
        tab.open(path.format_map(filled))
        assert tab.page.locator("h1").count() == 1, path
        # What would be run is in no attribute and no element of its own.
        assert 0 == tab.page.locator("#main script, #main [onerror], #main [onclick]").count(), path
        assert 1280 >= tab.page.evaluate("document.documentElement.scrollWidth"), path
        assert "49 WWW" not in tab.text


def test_a_key_that_may_only_read_has_no_buttons(open_tab, filled, console):
    key = console.make_key("reader", "jobs:read")
    tab = open_tab("/console/sign-in")
    eventually(lambda: "/sign-in" in tab.open("/console").path, what="an API that asks for a key")
    tab.page.get_by_label("API key").fill(key)
    tab.page.get_by_role("button", name="Sign in").click()
    # Pages that are there for an action alone say which scope is missing.
    tab.expected.add(403)

    for path in PAGES.values():
        tab.page.goto(path.format_map(filled))
        actions = tab.page.locator('#main form[method="post"] button:not([data-copy])')
        assert 0 == actions.count(), (path, actions.all_inner_texts())


def test_in_an_outage_every_page_says_what_was_seen_and_that_nothing_is_lost(open_tab, filled, postgres):
    tab = open_tab()
    headings = {}
    for path in PAGES.values():
        tab.open(path.format_map(filled))
        headings[path] = tab.page.locator("h1").first.inner_text()
    postgres.pause()
    try:
        for path in PAGES.values():
            tab.open(path.format_map(filled), status=503)
            assert "The database does not answer" in tab.text, path
            assert "Every accepted job is kept" in tab.text, path
            assert headings[path] in tab.text, path
    finally:
        postgres.resume()
    eventually(lambda: "does not answer" not in tab.open("/console", status=200).text, what="the overview")
