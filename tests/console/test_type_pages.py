"""The job types in the console: what they take, how they run, and how it goes with them."""

import pytest
from rows import add_worker, claim_one, complete_one
from samples import a_failure, new_job
from tab import check_page

from jobs_service.jobs import lifecycle
from jobs_service.jobs.lifecycle import EndReason

HOSTILE = "<script>alert(1)<\\script>\u202e".ljust(50, "x")


@pytest.fixture
def console(service):
    """An API. No worker takes jobs meanwhile."""
    service.start_api()
    return service


def test_the_types_with_what_they_do_and_how_it_goes(open_tab, database):
    lifecycle.submit(database, [new_job(), new_job(queue="other"), new_job(type=HOSTILE)])
    check_page(open_tab, "/console/types")
    tab = open_tab("/console/types", scripts=False)

    csv = tab.page.get_by_role("row").filter(has_text="csv-generation").inner_text()
    assert "Write the file and return its reference" in csv
    assert "default\t2\t0\t0\t0.4, 0" in csv
    assert "Jobs of types that this version does not know" in tab.text
    assert HOSTILE in tab.page.locator("#types-unknown").inner_text()
    tab.page.get_by_label("Name").fill("nothing-like-it")
    tab.page.get_by_role("button", name="Filter").click()
    assert "No job type matches" in tab.text
    tab.page.get_by_role("link", name="Show all").click()
    tab.page.get_by_role("link", name="EMAIL_SEND").click()
    assert "/console/types/EMAIL_SEND" == tab.path


def test_a_type_shows_its_payload_its_limits_and_its_figures(open_tab, database, worker_id):
    jobs = [new_job(type="EMAIL_SEND") for _ in range(3)]
    lifecycle.submit(database, jobs)
    complete_one(database, claim_one(database, jobs[0].id, worker_id), "1")
    lifecycle.fail(database, claim_one(database, jobs[1].id, worker_id), a_failure(), reason=EndReason.REJECTED)
    check_page(open_tab, "/console/types/EMAIL_SEND")
    tab = open_tab("/console/types/email-send", scripts=False)

    assert "EMAIL_SEND" == tab.page.get_by_role("heading", level=1).inner_text()
    assert "Send the mail and return its message id." in tab.text
    assert ["1", "0", "0", "0", "0", "1"] == tab.page.locator("#type-depth dd").all_inner_texts()
    rates = tab.page.locator("#type-rates").inner_text()
    assert "0.6 a minute" in rates
    assert "0.2 a minute" in rates
    field = tab.page.get_by_role("row").filter(has=tab.page.get_by_role("rowheader", name="subject", exact=True))
    assert ["text", "yes", "at most 998 characters"] == [
        cell.strip() for cell in field.get_by_role("cell").all_inner_texts()
    ]
    assert "attachments[].filename" in tab.text
    assert "3, unless the job says otherwise" in tab.text
    assert '"subject": "Your report"' in tab.text
    tab.page.get_by_text("The JSON Schema").click()
    assert '"$defs"' in tab.text


def test_a_type_leads_to_its_jobs_its_failures_and_a_new_job(open_tab):
    tab = open_tab("/console/types/csv-generation", scripts=False)
    hrefs = {
        link.inner_text(): link.get_attribute("href") for link in tab.page.locator(".head").get_by_role("link").all()
    }

    assert {
        "Recent jobs": "/console/jobs?type=csv-generation",
        "Failures": "/console/failures?type=csv-generation",
        "New job": "/console/jobs/new?type=csv-generation",
    } == hrefs
    example = tab.page.get_by_role("link", name="New job from the example")
    assert "/console/jobs/new?type=csv-generation&example=1" == example.get_attribute("href")
    tab.page.get_by_role("link", name="Recent jobs").click()
    assert "/console/jobs?type=csv-generation" == tab.path


def test_a_type_that_nobody_knows_is_a_page_that_says_so(open_tab):
    tab = open_tab("/console/types/nope", status=404)

    assert "There is no job type 'nope'." in tab.text


@pytest.fixture
def worker_id(database):
    """A worker of these tests' own."""
    job = new_job()
    add_worker(database, job.id)
    return job.id
