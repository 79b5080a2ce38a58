"""Actions on many jobs: the preview, selected jobs one by one, all that match by an action of the API, its progress."""

import re

import pytest
from eventually import eventually
from playwright.sync_api import expect
from tab import MAX_BYTES, barriers, check_page

LATER = {"delay_seconds": 86_400}
#: Text that must not act, or be cut in a way that breaks the page.
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def submit_form(open_tab):
    """Send the form that the list of jobs sends, and return the tab with the preview."""

    def submit_form(fields, **options):
        tab = open_tab("/console/jobs", **{**options, "scripts": True})
        with tab.page.expect_navigation():
            tab.page.evaluate(
                """(fields) => {
                  const form = document.createElement("form");
                  form.method = "post";
                  form.action = "/console/jobs/actions";
                  for (const [name, value] of fields) {
                    const field = document.createElement("input");
                    Object.assign(field, { type: "hidden", name, value });
                    form.append(field);
                  }
                  document.body.append(form);
                  form.submit();
                }""",
                fields,
            )
        return tab

    return submit_form


def heading(tab):
    return tab.page.get_by_role("heading", level=1).inner_text()


def confirm(tab, name):
    with tab.page.expect_navigation():
        tab.page.get_by_role("button", name=name, exact=True).click()


def test_selected_jobs_are_cancelled_one_by_one_and_others_are_left_out(console, submit_form):
    jobs = [console.post("csv-generation", {"name": "Alice", "score": 1}, **LATER) for _ in range(2)]
    done = console.post("csv-generation", {"name": "Alice", "score": 1})
    console.when(done, "completed")
    gone = "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41"

    tab = submit_form([["action", "cancel"], *(["job_id", job_id] for job_id in [*jobs, done, gone])])

    assert "Cancel 2 jobs" == heading(tab)
    assert "2 of the selected jobs are left out: 1 completed, 1 deleted." in tab.text.replace("\n", " ")
    assert {"pending"} == {console.job(job_id)["status"] for job_id in jobs}
    tab.page.get_by_label("Reason").fill("ordered twice")
    confirm(tab, "Cancel 2 jobs")
    expect(tab.page.get_by_role("status")).to_have_text("Cancelled: 2. Skipped, because they had ended: 2.")
    assert {("cancelled", "ordered twice")} == {(job["status"], job["cancel_reason"]) for job in map(console.job, jobs)}


def test_all_that_match_are_cancelled_while_one_watches(console, submit_form):
    jobs = [console.post("csv-generation", {"name": "Alice", "score": 1}, tags=["a"], **LATER) for _ in range(12)]
    other = console.post("csv-generation", {"name": "Alice", "score": 1}, **LATER)

    tab = submit_form([["action", "cancel"], ["matching", "tag=a&type=csv-generation&status=&cursor=x"]])
    assert "Cancel 12 jobs" == heading(tab)
    assert 10 == tab.page.locator("tbody tr").count()
    assert not barriers(tab)
    tab.page.get_by_label("Reason").fill("withdrawn")
    confirm(tab, "Cancel 12 jobs")

    # The page shows the end without being loaded again.
    assert re.fullmatch(r"/console/actions/cancellations/[0-9a-f-]{36}", tab.path)
    expect(tab.page.get_by_role("heading", name="Finished: 12 jobs")).to_be_visible()
    assert "withdrawn" in tab.text
    assert {"cancelled"} == {console.job(job_id)["status"] for job_id in jobs}
    assert "pending" == console.job(other)["status"]
    tab.page.get_by_role("link", name="Show the jobs").click()
    assert "/console/jobs?status=cancelled&type=csv-generation&tag=a" == tab.path


def test_failed_jobs_are_run_again_or_discarded(console, submit_form):
    failed = [console.post("test-fail-times", {"times": 9}, max_attempts=1) for _ in range(3)]
    for job_id in failed:
        console.when(job_id, "failed")

    tab = submit_form([["action", "retry"], ["matching", "type=test-fail-times&status=failed"]])
    assert "Run 3 jobs again" == heading(tab)
    confirm(tab, "Run 3 jobs again")
    expect(tab.page.get_by_role("heading", name="Finished: 3 jobs")).to_be_visible()
    assert tab.path.startswith("/console/redrives/")

    for job_id in failed:
        eventually(lambda job_id=job_id: len(console.job(job_id)["history"]) == 2, what="a second failure")
        console.when(job_id, "failed")
    # As the list of a group sends it.
    group = console.get("/dead-letters/groups")[1]["groups"][0]["id"]
    tab = submit_form([["action", "discard"], ["matching", f"error_group={group}"]])
    confirm(tab, "Discard 3 jobs")
    expect(tab.page.get_by_role("heading", name="Finished: 3 jobs")).to_be_visible()
    assert {404} == {console.get(f"/jobs/{job_id}")[0] for job_id in failed}


def test_an_action_is_stopped(console, submit_form):
    jobs = [console.post("csv-generation", {"name": "Alice", "score": 1}, **LATER) for _ in range(5)]

    tab = submit_form([["action", "cancel"], ["matching", "all=true"]])
    assert "all pending and processing jobs" in tab.text
    tab.page.get_by_label("Jobs a second, at most").fill("0.1")
    confirm(tab, "Cancel 5 jobs")
    confirm(tab, "Stop")

    expect(tab.page.get_by_role("heading", name=re.compile("Stopped after [01] of 5"))).to_be_visible()
    assert 4 <= sum(console.job(job_id)["status"] == "pending" for job_id in jobs)
    check_progress = tab.path
    assert 0 == tab.page.get_by_role("button", name="Stop").count()
    assert 200 == tab.page.request.get(check_progress).status


def test_what_the_api_refuses_is_shown_beside_its_field(console, submit_form):
    console.post("csv-generation", {"name": "Alice", "score": 1}, **LATER)
    tab = submit_form([["action", "cancel"], ["matching", "type=csv-generation"]])
    tab.page.get_by_label("Reason").fill("kept")
    rate = tab.page.get_by_label("Jobs a second, at most")
    rate.evaluate("(field) => { field.type = 'text'; field.value = '0'; field.form.noValidate = true; }")
    tab.expected.add(422)

    confirm(tab, "Cancel 1 job")

    assert "true" == rate.get_attribute("aria-invalid")
    assert "0.1" in tab.page.locator("#rate-help").inner_text()
    assert "kept" == tab.page.get_by_label("Reason").input_value()
    assert "Cancel 1 job" == heading(tab)


def test_where_nothing_would_be_done_the_page_says_why(submit_form):
    for fields, why in (
        ([["action", "cancel"], ["matching", "status=completed&limit=50"]], "The list has completed jobs"),
        ([["action", "cancel"], ["matching", "q=alice"]], "a search for words"),
        ([["action", "retry"], ["matching", "attempts_min=2"]], "cannot be limited by attempts_min"),
        ([["action", "discard"], ["matching", "type=csv-generation"]], "No job matches the filter and is failed"),
        ([["action", "cancel"], ["job_id", "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41"]], "1 is deleted"),
    ):
        tab = submit_form(fields)
        assert "Nothing to do" == heading(tab)
        assert why in tab.text.replace("\n", " ")
        assert 0 == tab.page.locator(".bulk-form").count()


def test_hostile_text_is_harmless_and_everything_fits(console, submit_form):
    text = HOSTILE + "\u202e" + "x" * 10_000
    jobs = [console.post("test-quote", {"text": text}, tags=[HOSTILE], max_attempts=1) for _ in range(3)]
    for job_id in jobs:
        console.when(job_id, "failed")
    for dark, width in ((False, 320), (True, 1280)):
        tab = submit_form(
            [["action", "discard"], *(["job_id", job_id] for job_id in jobs), ["matching", f"tag={HOSTILE}"]],
            dark=dark,
            width=width,
        )
        assert not barriers(tab)
        assert width >= tab.page.evaluate("document.documentElement.scrollWidth")
        assert MAX_BYTES > len(tab.page.content().encode())


def test_the_page_of_an_action_has_no_barrier(console, open_tab):
    for _ in range(5):
        console.post("csv-generation", {"name": "Alice", "score": 1}, tags=[HOSTILE], **LATER)
    body = {"filter": {"tag": HOSTILE}, "reason": HOSTILE + "x" * 900, "rate_per_second": 0.1}
    status, action = console.request("POST", "/cancellations", body)
    assert 202 == status, action
    eventually(lambda: console.get(f"/cancellations/{action['id']}")[1]["moved"] == 1, what="the first cancelled job")

    check_page(open_tab, f"/console/actions/cancellations/{action['id']}")
    assert 404 == console.get("/console/actions/cancellations/nonsense")[0]
