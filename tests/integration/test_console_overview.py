"""The overview by HTTP: what it shows of the API's answers, and the example of a new installation."""

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4
from xml.etree import ElementTree as ET

import falcon.testing
import pytest
from rows import add_worker, claim_one
from samples import a_failure
from time_travel import HOUR, MINUTE, set_dates

from jobs_service.api.access import keys
from jobs_service.api.app import create_app
from jobs_service.api.callers import Scope
from jobs_service.api.console import overview
from jobs_service.api.console.calls import ApiCalls, CallRefused, Reply
from jobs_service.api.resources import shared_reads
from jobs_service.jobs import lifecycle
from jobs_service.jobs.lifecycle import EndReason

NOW = datetime(2026, 11, 26, 10, 2, 14, tzinfo=UTC)


@pytest.fixture
def client(settings, monkeypatch):
    # However slow this machine is, each request reads anew.
    monkeypatch.setattr(shared_reads, "KEPT_TIMES", 0)
    settings = dataclasses.replace(settings, lease_seconds=HOUR / 2, slo_latency_seconds=60)
    headers = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
    return falcon.testing.TestClient(create_app(settings), headers=headers)


@pytest.fixture
def show(client):
    """The page, without what surrounds its content."""

    def show():
        reply = client.simulate_get("/console")
        assert 200 == reply.status_code, reply.text
        return reply.text.partition("<main")[2].partition("</main>")[0]

    return show


def post_example(client, key):
    return client.simulate_post(
        "/console/jobs/example",
        body=f"key={key}",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )


@pytest.mark.usefixtures("worker_id")
def test_a_new_installation_has_a_command_and_an_example(client, show):
    page = show()

    assert "No job yet" in page
    assert "Nothing needs a person" in page
    # Quoted for a shell, and escaped for HTML.
    assert "curl http://falconframework.org/jobs \\" in page
    assert re.search(r"&#34;type&#34;: ?&#34;csv-generation&#34;", page)
    assert "<svg" not in page.partition('id="flow"')[2]

    [key] = re.findall(r'name="key" value="([^"]+)"', page)
    first, second = post_example(client, key), post_example(client, key)
    assert (303, 303) == (first.status_code, second.status_code)
    assert first.headers["Location"] == second.headers["Location"]
    [job] = client.simulate_get("/jobs").json["jobs"]
    assert f"/console/jobs/{job['job_id']}?notice=submitted" == first.headers["Location"]
    assert {"name": "Alice", "score": 95} == client.simulate_get(f"/jobs/{job['job_id']}").json["payload"]
    assert "No job yet" not in show()


@pytest.mark.usefixtures("worker_id")
def test_a_canary_makes_no_old_installation(show, submit):
    submit(type="canary-default")

    assert "No job yet" in show()


@pytest.mark.parametrize("key", ["", "%22%0d%0aX-Evil%3A+1", "%E2%98%83"])
def test_a_form_with_another_key_submits_a_job(client, key):
    assert 303 == post_example(client, key).status_code


def test_a_second_click_waits_for_the_first(client, monkeypatch):
    """Until its answer is known, the API refuses the same key. Then the second gets the same job."""
    refusals = iter([True, True, False])
    submit = ApiCalls.call

    async def call(self, req, method, path, **options):
        if method == "POST" and next(refusals):
            raise CallRefused(Reply(409, {}, b'{"code": "idempotency_key_in_flight", "detail": "", "status": 409}'))
        return await submit(self, req, method, path, **options)

    monkeypatch.setattr(ApiCalls, "call", call)
    monkeypatch.setattr(overview, "TRIES_SECONDS", (0, 0, 0))

    assert 303 == post_example(client, uuid4()).status_code


def test_who_may_not_submit_sees_no_button_and_cannot_press_it(settings, database):
    key = keys.create(database, "alice", (Scope.JOBS_READ,))
    client = falcon.testing.TestClient(create_app(settings), headers={"Accept": "text/html"})
    form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    signed_in = client.simulate_post("/console/sign-in", body=f"key={key}", headers=form)
    cookie = {"Cookie": "; ".join(f"{name}={one.value}" for name, one in signed_in.cookies.items())}

    page = client.simulate_get("/console", headers=cookie).text
    pressed = client.simulate_post("/console/jobs/example", body=f"key={uuid4()}", headers={**form, **cookie})

    assert "No job yet" in page
    # The command names the variable that is to have the key.
    assert "Authorization: Bearer $JOBS_KEY" in page
    assert '<button class="primary"' not in page
    assert 'href="/console/jobs/new"' not in page
    assert (403, True) == (pressed.status_code, "jobs:write" in pressed.text)


@pytest.mark.usefixtures("worker_id")
def test_findings_lead_to_the_pages_that_mend_them(show, database, submit, worker_id):
    claim = claim_one(database, submit(), worker_id)
    lifecycle.fail(database, claim, a_failure(message="<b>bold</b>"), reason=EndReason.REJECTED)
    set_dates(database.rows, "jobs", [submit(queue="a/b c")], run_at=-HOUR)

    page = show()

    [(group,)] = database.rows(
        "SELECT job_error_group(type, end_reason, error, history) FROM jobs WHERE status = 'failed'"
    )
    assert f'href="/console/failures/{group}"' in page
    assert 2 == page.count('href="/console/queues/a%2Fb%20c"')
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    # The critical one first.
    assert page.index("finding-critical") < page.index("finding-warning")
    assert "No workers</span>" in page


@pytest.mark.usefixtures("worker_id")
def test_many_findings_of_one_kind_do_not_hide_the_others(show, database, submit):
    database.rows("INSERT INTO queue_pauses (queue, reason, paused_by) VALUES ('default', 'why', 'anna')")
    jobs = [submit(queue=f"queue-{number:02}") for number in range(20)]
    set_dates(database.rows, "jobs", [*jobs, submit()], run_at=-2 * MINUTE)

    page = show()

    assert overview.SHOWN_OF_KIND == page.count("finding-critical")
    assert 1 == page.count(f"{20 - overview.SHOWN_OF_KIND} more like this.")
    assert "which anna has paused" in page
    assert overview.SHOWN_QUEUES == page.partition('id="queues"')[2].count("data-open")
    assert "All 21 queues" in page


def test_without_redis_the_page_says_so(settings, database, submit):
    add_worker(database, uuid4())
    submit()
    away = dataclasses.replace(settings, redis_url="redis://127.0.0.1:1/0", lease_seconds=HOUR)

    page = falcon.testing.TestClient(create_app(away)).simulate_get("/console", headers={"Accept": "text/html"})

    assert "because Redis cannot be used" in page.text
    assert 'href="/readyz"' in page.text


def test_without_postgresql_the_page_says_so(settings):
    away = dataclasses.replace(settings, database_url="postgresql://x@127.0.0.1:1/x")

    reply = falcon.testing.TestClient(create_app(away)).simulate_get("/console", headers={"Accept": "text/html"})

    assert (503, True) == (reply.status_code, "Every accepted job is kept" in reply.text)


def minute(back, **figures):
    at = NOW.replace(second=0) - timedelta(minutes=back)
    return {"at": at.isoformat(), "submitted": 0, "completed": 0, "failed": 0, **figures}


def table_of(chart):
    figure = ET.fromstring(str(chart))
    return [["".join(cell.itertext()) for cell in row] for row in figure.iter("tr")]


def test_the_flow_is_the_last_hour_by_minute():
    rows = table_of(overview.flow([minute(2, submitted=7, failed=1), minute(1, completed=5)], NOW))

    assert ["Minute (UTC)", "Submitted", "Completed", "Failed"] == rows[0]
    assert [["10:01", "0", "5", "0"], ["10:00", "7", "0", "1"], ["09:59", "—", "—", "—"]] == rows[1:4]
    assert 1 + overview.MINUTES == len(rows)


@pytest.mark.parametrize(
    ("history", "last"),
    [
        ([], ["10:01", "—", "—", "—"]),
        # The minute that has just ended is not written yet: no gap flickers at the end.
        ([minute(2)], ["10:00", "0", "0", "0"]),
        # Nothing was written for a while: maintenance does not run.
        ([minute(9)], ["10:01", "—", "—", "—"]),
    ],
)
def test_the_end_of_the_flow(history, last):
    assert last == table_of(overview.flow(history, NOW))[1]


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "Idle"),
        ({"depth": {"due": 0, "processing": 1}}, "On time"),
        ({"depth": {"due": 1, "processing": 0}, "oldest_waiting_seconds": 59.0}, "On time"),
        ({"depth": {"due": 1, "processing": 0}, "oldest_waiting_seconds": 61.0}, "Late"),
        ({"depth": {"due": 1, "processing": 0}, "oldest_waiting_seconds": 61.0, "target_seconds": None}, "On time"),
        ({"depth": {"due": 1, "processing": 0}, "oldest_waiting_seconds": 61.0, "live_workers": 0}, "No workers"),
        ({"depth": {"due": 1, "processing": 0}, "oldest_waiting_seconds": 61.0, "paused": {"by": "anna"}}, "Paused"),
    ],
)
def test_the_state_of_a_queue(facts, state):
    queue = {
        "depth": {"due": 0, "processing": 0},
        "oldest_waiting_seconds": None,
        "target_seconds": 60.0,
        "live_workers": 1,
        "paused": None,
    }

    assert state == overview.shown(queue | facts)["state"]


@pytest.mark.parametrize(
    ("finding", "path"),
    [
        ({"kind": "no_workers"}, "/workers"),
        ({"kind": "maintenance_stopped"}, "/workers"),
        ({"kind": "redis_unavailable"}, "/readyz"),
        ({"kind": "queue_late", "queue": "a?b"}, "/queues/a%3Fb"),
        ({"kind": "server_unavailable", "server": "mail", "job_id": "j"}, "/jobs/j"),
        ({"kind": "jobs_held", "group_id": "g", "job_id": "j"}, "/failures/g"),
    ],
)
def test_where_a_finding_is_mended(finding, path):
    assert path == overview.place_of({"queue": None, "server": None, "group_id": None, "job_id": None} | finding).path


def test_the_example_of_other_job_types():
    assert overview.example_of([]) is None
    assert overview.example_of([{"name": "a", "example": None}]) is None
    others = [{"name": "a", "example": None}, {"name": "b", "example": {}}, {"name": "c", "example": 1}]
    assert {"type": "b", "payload": {}} == overview.example_of(others)
