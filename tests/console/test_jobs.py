"""The list of jobs and the form for a new one, in a browser."""

from pathlib import Path
from urllib.parse import parse_qsl

from eventually import eventually
from playwright.sync_api import expect
from tab import barriers, check_page

SCRIPT = "<script>document.title='taken'</script>"
HOSTILE = f'{SCRIPT} & "quoted" \u202eright to left '
LONG = "x" * 10_000


def count(console, **filters):
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    return console.get(f"/jobs/count?{query}")[1]["count"]


def select(tab, job_id):
    return tab.page.locator(f"#job-{job_id}").get_by_role("checkbox")


def check_narrow(tab):
    """Check a state that has no address of its own."""
    assert not barriers(tab), tab.path
    tab.page.set_viewport_size({"width": 320, "height": 800})
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 320
    assert not barriers(tab), tab.path


def test_a_new_user_submits_the_example_without_a_script(open_tab, console):
    check_page(open_tab, "/console/jobs")
    tab = open_tab("/console/jobs", scripts=False)

    tab.page.get_by_role("button", name="Submit this example").click()

    tab.page.wait_for_url("**/console/jobs/*-*")
    [job] = console.get("/jobs")[1]["jobs"]
    assert job["job_id"] in tab.page.url
    console.when(job["job_id"], "completed")


def test_fifty_long_and_hostile_jobs_fit_on_a_page(open_tab, console):
    tags = ["<b>bold</b> & sons", "עברית", "y" * 64, "four"]
    jobs = [
        {"type": "test-quote", "payload": {"text": f"{HOSTILE}{n}", "more": LONG}, "max_attempts": 1, "tags": tags}
        for n in range(50)
    ]
    assert console.request("POST", "/jobs/batch", jobs)[0] == 201
    eventually(lambda: count(console, status="failed") == 50, what="failed jobs")

    check_page(open_tab, "/console/jobs")
    tab = open_tab("/console/jobs")

    assert "Jobs · Jobs" == tab.page.title()
    assert SCRIPT in tab.page.locator("tbody tr p").first.text_content()
    assert 50 == tab.page.locator("tbody tr").count()


def test_a_filter_is_typed_and_is_the_url(open_tab, console):
    job_id = console.post("test-echo", {"name": "Zoe"}, tags=["a"], delay_seconds=60)
    console.post("test-echo", {"name": "Bob"})
    tab = open_tab("/console/jobs")

    tab.page.keyboard.press("/")
    tab.page.keyboard.type("zoe")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url("**/console/jobs?q=zoe")
    tab.page.get_by_label("Type", exact=True).select_option("test-echo")
    tab.page.wait_for_url("**/console/jobs?*type=test-echo*")
    tab.page.get_by_role("navigation", name="Status").get_by_text("pending").click()
    tab.page.wait_for_url("**status=pending*")

    assert {("q", "zoe"), ("type", "test-echo"), ("status", "pending")} == {*parse_qsl(tab.path.partition("?")[2])}
    assert [f"job-{job_id}"] == tab.page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.id)")
    # What hides everything is said, and what is wrong is shown where it was typed.
    check_narrow(open_tab("/console/jobs?tag=nobody&type=test-echo"))
    check_narrow(open_tab("/console/jobs?attempts_min=many", status=422))


def test_rows_change_in_place_and_new_jobs_are_counted(open_tab, console, tmp_path):
    files = {"started": str(tmp_path / "started"), "go": str(tmp_path / "go")}
    job_id = console.post("test-wait-for-file", files)
    console.when(job_id, "processing")
    tab = open_tab("/console/jobs")
    row = tab.page.locator(f"#job-{job_id}")
    expect(row).to_contain_text("processing")
    tab.page.evaluate("window.isTheSamePage = true")

    console.post("test-echo", {})
    expect(tab.page.locator("#new-jobs")).to_have_text("1 new")
    select(tab, job_id).check()
    Path(files["go"]).touch()
    console.when(job_id, "completed")
    console.post("test-echo", {})
    expect(tab.page.locator("#new-jobs")).to_have_text("2 new")
    # Nothing moves while rows are selected.
    expect(row).to_contain_text("processing")
    select(tab, job_id).uncheck()
    tab.page.mouse.move(0, 0)
    expect(row).to_contain_text("completed")
    assert tab.page.evaluate("window.isTheSamePage")
    assert 1 == tab.page.locator("tbody tr").count()

    tab.page.locator("#new-jobs").click()
    expect(tab.page.locator("tbody tr")).to_have_count(3)


def test_selected_jobs_and_all_that_match_are_sent(open_tab, console):
    # In the order of the list, which is that of the ids: two of one moment may have changed places.
    job_ids = sorted(console.post("test-echo", {}, delay_seconds=3_600) for _ in range(3))
    sent = []

    def answer(route):
        sent.append(parse_qsl(route.request.post_data))
        route.fulfill(body="<!doctype html><title>Preview</title>", content_type="text/html")

    tab = open_tab("/console/jobs?status=pending")
    tab.page.route("**/console/jobs/actions", answer)
    of_selected = tab.page.get_by_role("button", name="Cancel the selected jobs")
    expect(of_selected).to_be_disabled()
    tab.page.keyboard.press("j")
    tab.page.keyboard.press("x")
    select(tab, job_ids[0]).check()
    expect(tab.page.locator("[data-selected-count]")).to_have_text("2")
    of_selected.click()
    expect(tab.page).to_have_title("Preview")
    tab.open("/console/jobs?status=pending&type=test-echo")
    tab.page.get_by_label("Select all on this page").check()
    tab.page.get_by_role("button", name="Cancel… all 3 jobs").click()
    expect(tab.page).to_have_title("Preview")

    assert {("action", "cancel"), ("job_id", job_ids[0]), ("job_id", job_ids[2])} == {*sent[0]}
    assert [("matching", "status=pending&type=test-echo"), ("action", "cancel")] == sent[1]


def test_a_form_has_the_fields_of_its_type(open_tab, console):
    check_page(open_tab, "/console/jobs/new?type=test-report")
    tab = open_tab("/console/jobs/new?type=test-report&example=1")
    check_narrow(open_tab("/console/jobs/new"))
    check_narrow(open_tab("/console/jobs/new?type=test-echo&mode=json"))

    tab.page.get_by_label("title").fill(f"{HOSTILE.strip()}'")
    expect(tab.page.locator("#command")).to_contain_text("document.title")
    tab.page.get_by_label("margins").fill('{"top": 2')
    expect(tab.page.locator("#command")).to_contain_text("when every field can be read")
    tab.expected.add(422)
    tab.page.get_by_label("notes").press("Tab")
    tab.page.get_by_role("button", name="Submit", exact=True).last.click()
    expect(tab.page.get_by_role("alert")).to_contain_text("margins: This is not JSON")
    check_narrow(tab)
    tab.page.get_by_label("margins").fill('{"top": 2}')
    tab.page.get_by_role("button", name="Submit", exact=True).last.dblclick()
    tab.page.wait_for_url("**/console/jobs/*-*")

    [job] = console.get("/jobs")[1]["jobs"]
    assert (f"{HOSTILE.strip()}'", {"top": 2}) == (job["payload"]["title"], job["payload"]["margins"])
