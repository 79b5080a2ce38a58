"""What the console's pages of failures and redrives say, and what their forms do: without a browser."""

import re

import falcon.testing
import pytest
from rows import claim_one
from samples import a_failure
from time_travel import DAY, set_dates

from jobs_service.api.access import keys
from jobs_service.api.app import create_app
from jobs_service.api.console import failures as failure_pages, redrives as redrive_pages
from jobs_service.api.console.redrives import default_rate
from jobs_service.api.resources import error_groups
from jobs_service.jobs import bulk_actions, dead_letters as dead_letter_rows, lifecycle
from jobs_service.jobs.failures import MESSAGE_KEPT, TRACEBACK_KEPT, storable
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.maintenance.bulk_actions import BulkActions
from jobs_service.maintenance.service import Turn

GONE = "8c1f2a6d-9be3-3f10-7c55-04d2a8f0e6b1"
HOSTILE = "<script>alert(1)</script> \N{RIGHT-TO-LEFT OVERRIDE}\N{HEBREW LETTER ALEF} " + "x" * 10_000


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def fail(database, submit, worker_id):
    def fail(message="m", *, error="OSError", traceback="t", **fields):
        claim = claim_one(database, submit(**fields), worker_id)
        failure = a_failure(
            error=error, message=storable(message, MESSAGE_KEPT), traceback=storable(traceback, TRACEBACK_KEPT)
        )
        assert lifecycle.fail(database, claim, failure, reason=EndReason.REJECTED)
        return str(claim.job_id)

    return fail


@pytest.fixture
def get(client):
    """Return the HTML of a page."""

    def get(path, status=200):
        reply = client.simulate_get(f"/console{path}", headers={"Accept": "text/html"})
        assert status == reply.status_code, reply.text
        return reply.text

    return get


@pytest.fixture
def post(client):
    """Send a form as a browser does. Return the status, and the path that it is sent to or the HTML."""

    def post(path, **fields):
        body = "&".join(f"{name}={falcon.uri.encode_value(str(value))}" for name, value in fields.items())
        reply = client.simulate_post(
            f"/console{path}",
            body=body,
            headers={
                "Accept": "text/html",
                "Sec-Fetch-Site": "same-origin",
                "Content-Type": "application/x-www-form-urlencoded",
            },
        )
        return reply.status_code, reply.headers.get("location") or reply.text

    return post


def group_of(client, message):
    [group] = [
        group for group in client.simulate_get("/dead-letters/groups").json["groups"] if message in group["message"]
    ]
    return group["id"]


def links_to_groups(html):
    return re.findall(r'href="/console/failures/([0-9a-f-]{36})"', html)


def test_groups_are_listed_by_their_state(client, get, fail):
    assert "No failed job" in get("/failures")
    fail("disk"), fail("net"), fail("test")
    disk, net, test = (group_of(client, word) for word in ("disk", "net", "test"))
    client.simulate_post(f"/dead-letters/groups/{net}/resolve", json={"reason": "mended"})
    client.simulate_post(f"/dead-letters/groups/{test}/ignore", json={"reason": "tests"})

    for state, expected in (("open", {disk}), ("resolved", {net}), ("ignored", {test}), ("all", {disk, net, test})):
        assert expected == set(links_to_groups(get(f"/failures?state={state}"))), state
    assert [disk] == links_to_groups(get("/failures"))
    assert [disk] == links_to_groups(get("/failures?state=nonsense"))
    assert "No failed job of this type" in get("/failures?type=EMAIL_SEND")
    assert [disk] == links_to_groups(get("/failures?type=csv-generation"))


def test_the_last_seen_groups_are_first_and_further_pages_follow(client, get, fail, monkeypatch):
    monkeypatch.setattr(failure_pages, "SHOWN", 2)
    monkeypatch.setattr(failure_pages, "LOOK", 3)
    for word in ("alpha", "beta", "gamma", "delta"):
        fail(word)

    found, path = [], "/failures"
    while path:
        html = get(path)
        found.append(links_to_groups(html))
        [path] = re.findall(r'href="/console(/failures\?[^"]*)">Next groups', html) or [None]
        path = path and path.replace("&amp;", "&")

    # Of the three groups that a page of the API has, those two that were seen last.
    assert [2, 1, 1] == [len(page) for page in found]
    groups = {group["id"]: group["last_seen"] for group in client.simulate_get("/dead-letters/groups").json["groups"]}
    first = [groups[group_id] for page in found[:2] for group_id in page]
    assert first == sorted(first, reverse=True)
    assert groups.keys() == {group_id for page in found for group_id in page}


def test_a_group_is_new_for_a_day_unless_somebody_has_decided(client, get, database, fail):
    old, new = fail("old"), fail("new")
    set_dates(database.rows, "jobs", [old], finished_at=-2 * DAY)

    html = get("/failures")

    assert 1 == html.count('class="chip new"')
    assert "chip new" in get(f"/failures/{group_of(client, 'new')}")
    assert "chip new" not in get(f"/failures/{group_of(client, 'old')}")
    client.simulate_post(f"/dead-letters/groups/{group_of(client, 'new')}/ignore", json={"reason": "known"})
    assert "chip new" not in get("/failures?state=all")
    assert new in html


def test_a_group_shows_its_last_job_with_the_traceback_and_where_it_failed(client, get, database, fail):
    first, last = fail("disk 1"), fail("disk 2", traceback="File worker.py, line 17")

    html = get(f"/failures/{group_of(client, 'disk')}")

    assert html.count(f"/console/jobs/{last}") == 2
    assert f"/console/jobs/{first}" in html
    assert "File worker.py, line 17" in html
    assert database.row("SELECT hostname FROM workers")[0] in html
    database.rows("DELETE FROM workers")
    assert "Processes that have ended: 2 jobs" in get(f"/failures/{group_of(client, 'disk')}")


def test_jobs_of_a_group_come_in_pages(client, get, fail, monkeypatch):
    monkeypatch.setattr(failure_pages, "JOBS", 2)
    failed = [fail() for _ in range(3)]
    first = get(f"/failures/{group_of(client, 'm')}")
    [path] = re.findall(r'href="/console(/failures/[^"]*)">Next jobs', first)

    second = get(path.replace("&amp;", "&"))

    rows = [re.findall(r'href="/console/jobs/([^"]*)" title="[^"]*" data-open', html) for html in (first, second)]
    assert [failed[2:0:-1], failed[:1]] == rows
    assert "First page" in second


def test_a_group_without_jobs_says_what_has_become_of_them(get):
    html = get(f"/failures/{GONE}", status=404)

    assert "No failed job is left in this group" in html
    assert "redrives" in html


def test_a_group_is_resolved_ignored_and_opened_again_with_a_reason(client, get, post, fail):
    fail()
    group_id = group_of(client, "m")

    assert (303, f"/console/failures/{group_id}?notice=group-resolved") == post(
        f"/failures/{group_id}/resolve", reason="the disk is larger <now>"
    )
    html = get(f"/failures/{group_id}?notice=group-resolved")
    assert "The group is resolved." in html
    assert "the disk is larger &lt;now&gt;" in html
    assert (303, f"/console/failures/{group_id}?notice=group-reopened") == post(f"/failures/{group_id}/reopen")
    assert "Resolve or ignore" in get(f"/failures/{group_id}")
    assert 303 == post(f"/failures/{group_id}/ignore", reason="tests")[0]
    assert "ignored" == client.simulate_get(f"/dead-letters/groups/{group_id}").json["state"]
    assert 404 == post(f"/failures/{group_id}/praise", reason="x")[0]


@pytest.mark.parametrize("reason", ["", "y" * 1_001])
def test_a_decision_without_a_reason_is_refused_beside_its_field(client, post, fail, reason):
    fail()
    status, html = post(f"/failures/{group_of(client, 'm')}/resolve", reason=reason)

    assert 422 == status
    assert 'aria-invalid="true"' in html
    assert "Say in up to 1,000 characters why." in html
    assert f'value="{reason}"' in html
    # A page at the address of a form is not to be fetched again.
    assert "data-refresh" not in html
    assert "data-events" not in html


def test_a_preview_shows_which_jobs_and_how_long_it_takes(client, get, fail):
    failed = [fail() for _ in range(12)]
    fail("other")

    html = get(f"/redrives/new?group={group_of(client, 'm')}")

    assert "Redrive 12 jobs" in html
    assert [job_id for job_id in failed[:10] if job_id in html] == failed[:10]
    assert failed[10] not in html
    assert '<output for="rate" data-jobs="12">2.4 s</output>' in html
    slow = get(f"/redrives/new?group={group_of(client, 'm')}&rate=.1")
    assert '<output for="rate" data-jobs="12">2 min</output>' in slow
    assert {"redrives": [], "next_cursor": None} == client.simulate_get("/dead-letters/redrives").json


def test_a_preview_takes_the_filters_of_the_api(get, fail):
    fail(type="EMAIL_SEND"), fail(queue="b"), fail()

    assert "Redrive 1 job<" in get("/redrives/new?type=email_send")
    assert "Redrive 1 job<" in get("/redrives/new?queue=b")
    assert "Redrive 3 jobs" in get("/redrives/new?end_reason=rejected&finished_after=2020-01-01T00:00:00Z")
    assert "Redrive 3 jobs" in get("/redrives/new?all=yes")
    assert "No failed job matches" in get("/redrives/new?queue=c")
    # Nothing is chosen yet: nothing is wrong either.
    assert "aria-invalid" not in get("/redrives/new")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("group=x", "This is not the id of a group."),
        ("all=yes&queue=a", "but not both"),
        ("finished_after=yesterday", "Write a time such as"),
        ("end_reason=tired", "aria-invalid"),
        ("created_before=2026-11-26T09:30:00", "Write a time such as"),
    ],
)
def test_a_wrong_filter_is_said_and_no_job_is_shown(get, post, fail, query, said):
    fail(queue="a")

    html = get(f"/redrives/new?{query}", status=422)

    assert said in html
    assert "would run again" not in html
    fields = dict(pair.split("=") for pair in query.split("&"))
    assert 422 == post("/redrives/new", **fields, rate="5")[0]


def test_a_redrive_begins_with_the_filter_and_the_rate_of_the_form(client, post, fail):
    fail(queue="a"), fail(queue="b")

    status, path = post("/redrives/new", queue="a", rate="7.5")

    [redrive] = client.simulate_get("/dead-letters/redrives").json["redrives"]
    assert (303, f"/console/redrives/{redrive['id']}?notice=redrive-begun") == (status, path)
    assert ({"queue": "a"}, 7.5, 1) == (redrive["filter"], redrive["rate_per_second"], redrive["matched"])


@pytest.mark.parametrize("rate", ["", "fast", "0", "nan", "20000", "1e999"])
def test_a_wrong_rate_begins_nothing(client, post, fail, rate):
    fail(queue="a")

    status, html = post("/redrives/new", queue="a", rate=rate)

    assert 422 == status
    assert "Redrive 1 job" in html
    assert ("Write a number from 0.1 to 10000." in html) == bool(rate)
    assert [] == client.simulate_get("/dead-letters/redrives").json["redrives"]


@pytest.mark.parametrize(("count", "rate"), [(0, 5), (3, 5), (600, 10), (5_000, 83), (1_000_000, 100)])
def test_a_redrive_takes_about_a_minute_unless_it_has_many_jobs(count, rate):
    assert rate == default_rate(count)


@pytest.fixture
def move_all(database, dead_letters):
    """Let the leader's service go on until no redrive is running."""

    def move_all():
        redrives = BulkActions(database, dead_letters, interval_seconds=1)
        while bulk_actions.running(database, limit=1):
            redrives.run_once(Turn())

    return move_all


@pytest.fixture
def fail_again(database, worker_id):
    def fail_again(job_id):
        claim = claim_one(database, job_id, worker_id)
        assert lifecycle.fail(database, claim, a_failure(), reason=EndReason.REJECTED)

    return fail_again


def test_a_redrive_shows_its_progress_and_what_became_of_its_jobs(get, post, fail, fail_again, move_all):
    job_id = fail()
    _, path = post("/redrives/new", all="yes", rate="10000")
    path = path.removeprefix("/console").partition("?")[0]

    running = get(path)
    move_all()
    waiting = get(path)
    fail_again(job_id)
    ended = get(path)

    assert "Running: 0 of 1" in running
    assert f'action="/console{path}/stop"' in running
    assert 'data-refresh="1"' in running
    assert "Every job has run" not in waiting
    assert 'data-refresh="3"' in waiting
    assert "Some failed again" in ended
    assert job_id in ended
    assert "data-refresh" not in ended
    assert "/stop" not in ended
    assert (303, f"/console{path}?notice=redrive-finished") == post(f"{path}/stop")


def test_a_redrive_is_stopped(get, post, fail):
    fail()
    _, path = post("/redrives/new", all="yes", rate="0.1")
    path = path.removeprefix("/console").partition("?")[0]

    assert (303, f"/console{path}?notice=redrive-stopped") == post(f"{path}/stop")

    assert "Stopped after 0 of 1" in get(path)
    assert "stopped" in get("/redrives")
    assert 404 == post(f"/redrives/{GONE}/stop")[0]
    assert "redrive_not_found" in get(f"/redrives/{GONE}", status=404)


def test_past_redrives_come_in_pages(get, post, fail, monkeypatch):
    monkeypatch.setattr(redrive_pages, "SHOWN", 1)
    assert "No redrive yet" in get("/redrives")
    fail(queue="a")
    for _ in range(2):
        post("/redrives/new", queue="a", rate="0.1")

    first = get("/redrives")
    [path] = re.findall(r'href="/console(/redrives\?[^"]*)">Older redrives', first)
    second = get(path)

    ids = [re.findall(r'href="/console/redrives/([0-9a-f-]{36})"', html) for html in (first, second)]
    assert [1, 1] == [len(set(found)) for found in ids]
    assert ids[0] != ids[1]
    assert "Older redrives" not in second


def test_hostile_texts_are_texts(client, get, post, fail):
    for number in range(2):
        fail(f"{HOSTILE} {number}", error="<b>" + "E" * 5_000, traceback="</pre><script>" + HOSTILE)
    [group] = client.simulate_get("/dead-letters/groups").json["groups"]
    assert 2 == group["count"]
    _, path = post("/redrives/new", all="yes", rate="0.1")
    post(f"/failures/{group['id']}/ignore", reason="<script>" + "y" * 900)

    for page in (
        "/failures?state=all",
        "/failures?type=<script>&state=<script>",
        f"/failures/{group['id']}",
        f"/redrives/new?group={group['id']}",
        "/redrives/new?queue=<script>",
        "/redrives",
        path.removeprefix("/console"),
    ):
        html = get(page)
        assert "<script>" not in html, page
        assert "<b>" not in html, page
        assert len(html.encode()) < 60_000, page


def test_a_full_page_of_groups_is_small(get, fail):
    for number in range(failure_pages.SHOWN):
        fail("".join(chr(0x4E00 + (number * 200 + place) % 20_000) for place in range(200)), error="E" * 80)

    html = get("/failures")

    assert failure_pages.SHOWN == len(links_to_groups(html))
    assert len(html.encode()) < 90_000


def test_a_key_that_may_only_read_sees_no_button_and_no_form_of_its_own_works(settings, database, fail):
    fail()
    group_id = group_of(falcon.testing.TestClient(create_app(settings)), "m")
    key = keys.create(database, "reader", ["jobs:read"])
    headers = {
        "Accept": "text/html",
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    app = create_app(settings)
    signed_in = falcon.testing.TestClient(app, headers=headers).simulate_post("/console/sign-in", body=f"key={key}")
    [cookie] = signed_in.cookies.values()
    client = falcon.testing.TestClient(app, headers={**headers, "Cookie": f"{cookie.name}={cookie.value}"})

    for path in ("/failures", f"/failures/{group_id}", "/redrives"):
        html = client.simulate_get(f"/console{path}").text
        assert "m</bdi>" in html or "No redrive yet" in html
        main = html.partition("<main")[2].partition("</main>")[0]
        assert "<form" not in main, path
        assert "redrives/new" not in main, path
    for path in (
        "/redrives/new",
        f"/failures/{group_id}/resolve",
        f"/failures/{group_id}/reopen",
        f"/redrives/{GONE}/stop",
    ):
        reply = client.simulate_post(f"/console{path}", body="reason=x&all=yes&rate=5")
        assert 403 == reply.status_code, path
        assert "dead-letters:write" in reply.text, path
    preview = client.simulate_get("/console/redrives/new?all=yes")
    assert 403 == preview.status_code
    assert "dead-letters:write" in preview.text


def test_no_page_counts_all_of_a_large_group(get, fail, monkeypatch):
    monkeypatch.setattr(failure_pages, "COUNT_TO", 2)
    monkeypatch.setattr(dead_letter_rows, "MOST_IN_AN_HOUR", 1)
    for _ in range(3):
        fail()

    html = get("/failures")

    assert '<td class="number">2+</td>' in html
    assert "0, 1" in html
    assert error_groups.DEFAULT_LIMIT < failure_pages.LOOK
