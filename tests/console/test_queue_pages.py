"""The queues in the console: what needs a person, the figures of one, and pausing."""

from uuid import uuid4

import pytest
from playwright.sync_api import expect
from rows import add_worker, claim_one, complete_one
from samples import a_failure, new_job
from tab import MAX_BYTES, check_page
from time_travel import HOUR, set_dates

from jobs_service.api.access import keys
from jobs_service.api.callers import Scope
from jobs_service.jobs import lifecycle, queue_pauses
from jobs_service.jobs.deferral import Deferral
from jobs_service.jobs.lifecycle import EndReason

#: What a name may be in the worst case. The column has 50 characters.
HOSTILE = '<script>alert(1)<\\script>\u202e"&\u2066'.ljust(50, "x")

#: Milliseconds to wait for a page to show what has happened.
PATIENCE = 30_000


@pytest.fixture
def console(service):
    """An API for which workers written by hand are live. No worker moves jobs meanwhile."""
    service.start_api(LEASE_SECONDS="600")
    return service


@pytest.fixture
def fill(database):
    """Fill a queue with jobs in every state, of which one is late."""

    def fill(queue="default"):
        worker_id = uuid4()
        add_worker(database, worker_id)
        database.rows("UPDATE workers SET queues = %s WHERE id = %s", ([queue], worker_id))
        jobs = [new_job(queue=queue) for _ in range(7)]
        lifecycle.submit(database, jobs)
        claims = [claim_one(database, job.id, worker_id) for job in jobs[:5]]
        lifecycle.retry(database, claims[0], a_failure(), delay_seconds=HOUR)
        lifecycle.defer(database, claims[1], a_failure(), deferral=Deferral())
        lifecycle.fail(database, claims[2], a_failure(), reason=EndReason.REJECTED)
        complete_one(database, claims[3], "1")
        set_dates(database.rows, "jobs", [jobs[5].id], run_at=-HOUR)
        set_dates(database.rows, "jobs", [jobs[1].id, jobs[6].id], run_at=HOUR)

    return fill


@pytest.fixture
def key(database):
    """Make a key with these scopes."""
    return lambda *scopes: keys.create(database, "anna", scopes)


def sign_in(open_tab, key, path, **options):
    """Open a page as the holder of a key."""
    tab = open_tab("/docs/errors", **options)
    # There is no icon beside that page.
    tab.expected.add(404)
    headers = {"Sec-Fetch-Site": "same-origin"}
    tab.profile.request.post("/console/sign-in", form={"key": key}, headers=headers, max_redirects=0)
    return tab.open(path)


def row(tab, name):
    return tab.page.get_by_role("row").filter(has=tab.page.get_by_role("rowheader", name=name, exact=True))


def test_a_new_installation_has_its_queue(open_tab):
    check_page(open_tab, "/console/queues/default")
    tab = open_tab("/console/queues", scripts=False)

    assert "No workers" in row(tab, "default").inner_text()
    row(tab, "default").get_by_role("link", name="default").click()
    assert "/console/queues/default" == tab.path
    assert "No worker serves this queue." in tab.text


def test_what_needs_a_person_comes_first_and_names_do_no_harm(open_tab, fill, database):
    fill(), fill("mail"), fill(HOSTILE)
    lifecycle.submit(database, [new_job(queue="forgotten", type="gone")])
    queue_pauses.pause(database, "mail", reason=f"{HOSTILE} {'y' * 900}", by="<b>eve</b>")

    check_page(open_tab, "/console/queues")
    check_page(open_tab, "/console/queues/mail")
    tab = open_tab("/console/queues")

    names = [name for name in tab.page.get_by_role("rowheader").all_inner_texts() if name]
    assert ["forgotten", HOSTILE, "default", "mail"] == [name.strip() for name in names]
    shown = row(tab, "default").inner_text().split()
    assert ["Late", "1", "1", "1", "1", "1", "1"] == shown[1:8]
    assert "of 1 min" in row(tab, "default").inner_text()
    assert "Paused by <b>eve</b>" in tab.text
    assert "not now" in row(tab, "forgotten").inner_text()
    row(tab, HOSTILE).get_by_role("link").first.click()
    assert HOSTILE == tab.page.get_by_role("heading", level=1).inner_text()


def test_the_figures_lead_to_the_jobs(open_tab, fill):
    fill()
    tab = open_tab("/console/queues/default", scripts=False)
    card = tab.page.locator("#queue-depth")

    hrefs = [link.get_attribute("href") for link in card.get_by_role("link").all()]

    assert 6 == len(hrefs)
    assert "/console/jobs?queue=default&status=failed" == hrefs[-1]
    assert "/console/jobs?queue=default&status=pending&attempts_min=1" in hrefs
    card.get_by_role("link").last.click()
    assert 1 == tab.page.get_by_role("table").get_by_text("failed").count()


def test_many_queues_are_found_by_name_and_by_state(open_tab, database):
    lifecycle.submit(database, [new_job(queue=f"tenant-{number:03d}") for number in range(200)])
    queue_pauses.pause(database, "tenant-150", reason="r", by="b")
    tab = open_tab("/console/queues", scripts=False)

    assert MAX_BYTES > len(tab.page.content().encode())
    tab.open("/console/queues?page=7")
    assert "181 to 201 of 201 queues" in tab.text
    tab.page.get_by_role("link", name="Previous").click()
    assert "/console/queues?page=6" == tab.path
    tab.page.get_by_label("Name").fill("tenant-15")
    tab.page.get_by_role("button", name="Filter").click()
    assert 10 == tab.page.get_by_role("row").filter(has_text="tenant-15").count()
    tab.page.get_by_role("link", name="Paused 1").click()
    assert ["tenant-150"] == [name.strip() for name in tab.page.get_by_role("rowheader").all_inner_texts()]
    tab.open("/console/queues?state=broken", status=422)
    assert "expected one of late, unserved, paused" in tab.text


def test_a_queue_is_paused_with_a_reason_and_resumed_without_scripts(open_tab, key):
    tab = sign_in(open_tab, key(Scope.JOBS_READ, Scope.QUEUES_WRITE), "/console/queues/default", scripts=False)

    tab.expected.add(422)
    tab.page.get_by_label("Reason").fill("   ")
    tab.page.get_by_role("button", name="Pause the queue").click()
    assert "true" == tab.page.get_by_label("Reason").get_attribute("aria-invalid")
    assert "Expected `str` of length >= 1" in tab.text
    tab.page.get_by_label("Reason").fill("the <b>mail</b> server moves")
    tab.page.get_by_role("button", name="Pause the queue").click()
    assert "/console/queues/default?notice=queue-paused" == tab.path
    assert "By anna, since" in tab.text
    assert "the <b>mail</b> server moves" in tab.text
    assert not tab.page.get_by_label("Reason").count()
    tab.page.get_by_role("button", name="Resume the queue").click()
    assert "The queue runs again." in tab.text
    assert not tab.page.get_by_role("button", name="Resume the queue").count()


def test_a_reason_that_is_too_long_is_refused_and_kept(open_tab, console):
    tab = open_tab("/console/queues/default", scripts=False)
    tab.expected.add(422)
    reason = "x" * 1_001
    field = tab.page.get_by_label("Reason")

    # As a client that knows nothing of the field's limit.
    tab.page.locator("#reason").evaluate("field => field.removeAttribute('maxlength')")
    field.fill(reason)
    tab.page.get_by_role("button", name="Pause the queue").click()

    assert reason == tab.page.get_by_label("Reason").input_value()
    assert tab.page.locator("#reason-wrong").inner_text()
    assert console.get("/queues/default")[1]["paused"] is None


def test_a_queue_that_is_paused_already_keeps_its_pause(open_tab, database, console):
    tab = open_tab("/console/queues/default", scripts=False)
    queue_pauses.pause(database, "default", reason="the first", by="operations")

    tab.page.get_by_label("Reason").fill("the second")
    tab.page.get_by_role("button", name="Pause the queue").click()

    assert "The queue was paused already." in tab.text
    assert "the first" in tab.text
    assert "the first" == console.get("/queues/default")[1]["paused"]["reason"]


def test_a_pause_that_somebody_began_meanwhile_is_not_ended(open_tab, database, console):
    queue_pauses.pause(database, "default", reason="the first", by="operations")
    tab = open_tab("/console/queues/default", scripts=False)
    queue_pauses.resume(database, "default")
    queue_pauses.pause(database, "default", reason="the second", by="security")

    tab.expected.add(409)
    tab.page.get_by_role("button", name="Resume the queue").click()

    assert "The queue is still paused" in tab.text
    assert "the second" in tab.text
    assert console.get("/queues/default")[1]["paused"]["by"] == "security"
    tab.page.get_by_role("button", name="Resume the queue").click()
    assert console.get("/queues/default")[1]["paused"] is None


def test_a_queue_that_no_job_type_has_is_not_paused(open_tab, database):
    lifecycle.submit(database, [new_job(queue="forgotten")])
    tab = open_tab("/console/queues/forgotten", scripts=False)

    tab.expected.add(404)
    tab.page.get_by_label("Reason").fill("why not")
    tab.page.get_by_role("button", name="Pause the queue").click()

    assert "There is no such queue; known queues: default." in tab.page.locator("#reason-wrong").inner_text()
    assert "why not" == tab.page.get_by_label("Reason").input_value()


def test_who_may_only_read_has_no_button_and_is_refused(open_tab, key):
    tab = sign_in(open_tab, key(Scope.JOBS_READ), "/console/queues/default")
    assert not tab.page.get_by_role("button", name="Pause the queue").count()

    tab.expected.add(403)
    answer = tab.page.evaluate(
        """async () => (await fetch(location.href, {
          method: "POST", body: new URLSearchParams({ action: "pause", reason: "x" }),
        })).status"""
    )

    assert 403 == answer


def test_a_queue_that_does_not_exist_and_an_action_that_does_not_exist(open_tab):
    assert "There is no queue" in open_tab("/console/queues/nope", status=404).text
    tab = open_tab("/console/queues/default")
    tab.expected.add(422)

    status = tab.page.evaluate(
        "async () => (await fetch('', { method: 'POST', body: new URLSearchParams({ action: 'drop' }) })).status"
    )

    assert 422 == status


def test_a_page_shows_a_pause_and_jobs_by_itself_and_keeps_what_is_being_typed(open_tab, database, console):
    tab = open_tab("/console/queues/default")
    tab.page.get_by_label("Reason").fill("half a sen")
    console.post("csv-generation", {"a": 1})

    expect(tab.page.locator("#queue-depth").get_by_role("link", name="1")).to_be_visible(timeout=PATIENCE)
    assert "half a sen" == tab.page.get_by_label("Reason").input_value()
    queue_pauses.pause(database, "default", reason="elsewhere", by="operations")
    expect(tab.page.locator("#queue-paused")).to_contain_text("elsewhere", timeout=PATIENCE)
    # The form stays as long as somebody is at it.
    tab.page.get_by_label("Reason").fill("")
    tab.page.get_by_label("Reason").blur()
    expect(tab.page.get_by_label("Reason")).to_have_count(0, timeout=PATIENCE)


def test_the_list_is_live_and_read_by_keys(open_tab, database, console):
    tab = open_tab("/console/queues")
    expect(row(tab, "default")).to_contain_text("No workers")
    lifecycle.submit(database, [new_job(queue="arrived")])
    console.post("csv-generation", {"a": 1})

    expect(row(tab, "arrived")).to_be_visible(timeout=PATIENCE)
    for key in ("/", "Escape", "g", "q"):
        tab.page.keyboard.press(key)
    tab.page.locator("body").click(position={"x": 1, "y": 1})
    tab.page.keyboard.press("j")
    assert "arrived" == tab.page.locator(":focus").inner_text()
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url("**/console/queues/arrived")
