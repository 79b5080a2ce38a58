"""The overview in a browser: a new user's first click, what appears by itself, and no barrier in any of its states."""

import re

import psycopg2
import pytest
from tab import check_page

from jobs_service.api.console.overview import SHOWN_QUEUES

#: Texts that may stand in an error, a queue's name and a reason.
HOSTILE = '"><script>alert(1)</script>\u202e\u0645 ' + "x" * 10_000


@pytest.fixture
def sql(console):
    """Run a statement in the service's database."""
    connection = psycopg2.connect(console.environ["DATABASE_URL"])
    connection.autocommit = True

    def sql(statement, *values):
        with connection.cursor() as cursor:
            cursor.execute(statement, values)

    yield sql
    connection.close()


def expect(target):
    from playwright.sync_api import expect  # here, so that it is not needed where there is no browser

    # The API keeps a result that took long, and the page is fetched again every ten seconds.
    expect.set_options(timeout=60_000)
    return expect(target)


def test_a_new_user_submits_the_example(open_tab, console):
    check_page(open_tab, "/console")
    tab = open_tab()

    # The page of the job may be one that is yet to come.
    tab.expected.add(404)
    tab.page.get_by_role("button", name="Submit the example").click()
    tab.page.wait_for_url(re.compile("/console/jobs/[0-9a-f-]+"))

    job_id = tab.path.partition("?")[0].rpartition("/")[2]
    assert "csv-generation" == console.when(job_id, "completed")["type"]


def test_the_figures_of_the_first_job_appear_by_themselves(open_tab, console):
    tab = open_tab()
    welcome, queues = tab.page.get_by_text("No job yet"), tab.page.get_by_role("heading", name="Queues", exact=True)
    expect(welcome).to_be_visible()
    expect(queues).to_be_hidden()

    console.post("csv-generation", {"name": "Alice"})

    expect(queues).to_be_visible()
    expect(welcome).to_be_hidden()
    expect(tab.page.get_by_role("link", name="1 completed jobs")).to_be_visible()
    # In both forms of the page the parts are the same: none of them is left behind.
    assert ["attention", "welcome", "flow", "counts", "queues"] == [
        part.get_attribute("id") for part in tab.page.locator("[data-live]").all()
    ]


def test_a_finding_appears_and_goes_by_itself(open_tab, console):
    job_id = console.post("csv-generation", {"name": "Alice"})
    console.when(job_id, "completed")
    tab = open_tab()
    expect(tab.page.get_by_role("heading", name="Nothing needs a person")).to_be_visible()

    failed = console.post("test-reject", {})
    finding = tab.page.get_by_role("listitem").filter(has_text="1 dead letter of test-reject has a new error")
    expect(finding).to_be_visible()
    link = finding.get_by_role("link", name="Open the group")
    assert re.fullmatch("/console/failures/[0-9a-f-]{36}", link.get_attribute("href"))

    console.request("DELETE", f"/dead-letters/{failed}")
    expect(tab.page.get_by_role("heading", name="Nothing needs a person")).to_be_visible()


def test_nothing_moves_while_it_is_paused(open_tab, console):
    console.when(console.post("csv-generation", {"name": "Alice"}), "completed")
    tab, other = open_tab(), open_tab()
    tab.page.keyboard.press(".")

    console.post("test-reject", {})

    # By then the first tab would have it, too.
    expect(other.page.get_by_text("1 dead letter of test-reject")).to_be_visible()
    expect(tab.page.get_by_text("1 dead letter of test-reject")).to_be_hidden()
    tab.page.keyboard.press(".")
    expect(tab.page.get_by_text("1 dead letter of test-reject")).to_be_visible()


def test_the_chart_is_a_table_too(open_tab, console, sql):
    console.when(console.post("csv-generation", {"name": "Alice"}), "completed")
    sql(
        """INSERT INTO job_minutes (minute, queue, submitted, completed, failed, cancelled)
        SELECT date_trunc('minute', now()) - i * interval '1 minute', '', 10 * i, 9 * i, i, 0
        FROM generate_series(1, 60) AS i
        ON CONFLICT (minute, queue) DO UPDATE
        SET submitted = excluded.submitted, completed = excluded.completed, failed = excluded.failed"""
    )
    tab = open_tab()

    tab.page.get_by_text("The figures as a table").click()

    rows = tab.page.get_by_role("region", name="Jobs a minute in the last hour, as a table").get_by_role("row")
    assert ["20", "18", "2"] in [row.split("\t")[1:] for row in rows.all_inner_texts()]
    assert 61 == rows.count()
    drawing = tab.page.get_by_role("img", name="Jobs a minute in the last hour")
    expect(drawing).to_be_visible()
    check_page(open_tab, "/console")


def test_a_page_full_of_trouble_has_no_barrier(open_tab, console, sql):
    """Findings of several kinds, many queues, hostile texts: none is taken for markup, or wider than the page."""
    console.when(console.post("test-quote", {"text": HOSTILE}, max_attempts=1), "failed")
    # Without workers, jobs stay on queues that no type has.
    console.children[-1].kill()
    name = HOSTILE[:50]
    sql("INSERT INTO queue_pauses (queue, reason, paused_by) VALUES (%s, %s, %s)", name, HOSTILE, HOSTILE)
    sql("INSERT INTO servers (name, error, probe_at) VALUES (%s, %s, now() + interval '1 hour')", HOSTILE, HOSTILE)
    sql(
        """INSERT INTO jobs (id, type, status, payload, queue, run_at, publish_at, waits_for)
        SELECT gen_random_uuid(), 'csv-generation', 'pending', '{}', CASE WHEN i = 1 THEN %s ELSE 'queue-' || i END,
               now() - interval '1 hour', now() + interval '1 day', CASE WHEN i = 2 THEN %s END
        FROM generate_series(1, 60) AS i""",
        name,
        HOSTILE,
    )

    check_page(open_tab, "/console")
    tab = open_tab()

    expect(tab.page.get_by_text("No worker process is live, so no job runs. 60 jobs are due.")).to_be_visible()
    for words in ("has paused: ", "which is unavailable: ", "1 dead letter of test-quote has a new error, "):
        expect(tab.page.get_by_role("listitem").filter(has_text=words)).to_be_visible()
    assert SHOWN_QUEUES == tab.page.locator("#queues [data-open]").count()
