"""The page of a job in a browser: the whole way of a new user, and what every state of it has to do."""

import json
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest
from playwright.sync_api import expect
from tab import barriers, check_page

# As for everything else that a tab does.
expect.set_options(timeout=30_000)

HOSTILE = "<script>alert(1)</script> \u202eabc " + "x" * 900


def page_of(job_id, path=""):
    return f"/console/jobs/{job_id}{path}"


def pause(console):
    assert 200 == console.request("POST", "/queues/default/pause", {"reason": "a test looks"})[0]


def test_a_new_user_sees_the_job_complete_and_opens_its_csv(open_tab, console):
    pause(console)
    job_id = console.post("csv-generation", {"name": "Zoë", "score": 95})
    tab = open_tab(page_of(job_id))
    tab.page.evaluate("window.isSame = true")
    expect(tab.page.get_by_text("was paused by anonymous")).to_be_visible()

    console.request("POST", "/queues/default/resume")

    expect(tab.page.locator("#head")).to_contain_text("completed")
    expect(tab.page.get_by_text("It completed at")).to_be_visible()
    assert tab.page.evaluate("window.isSame")
    with tab.page.expect_download() as download:
        tab.page.locator("#output").get_by_role("link", name="Download").click()
    assert f"{job_id}.csv" == download.value.suggested_filename
    assert "key,value\nname,Zoë\nscore,95\n" == Path(download.value.path()).read_text()


def test_what_an_attempt_says_is_seen_while_it_runs(open_tab, console, tmp_path):
    job_id = console.post("test-narrate", {"go": str(tmp_path / "go")})
    tab = open_tab(page_of(job_id))

    expect(tab.page.locator("#progress")).to_contain_text("1 of 2 steps")
    expect(tab.page.locator("#attempts")).to_contain_text("First step done")
    expect(tab.page.locator("#explanation")).to_contain_text("Attempt 1 of")
    assert not barriers(tab)
    (tmp_path / "go").touch()
    expect(tab.page.locator("#head")).to_contain_text("completed")


def test_a_running_job_is_cancelled_with_a_reason_and_without_scripts(open_tab, console, tmp_path):
    job_id = console.post("test-narrate", {"go": str(tmp_path / "go")})
    console.when(job_id, "processing")
    tab = open_tab(page_of(job_id), scripts=False)

    tab.page.get_by_text("Cancel this job…").click()
    tab.page.get_by_label("Reason").fill("ordered <b>twice</b>")
    tab.page.get_by_role("button", name="Cancel the job").click()

    assert "The job is cancelled." in tab.text
    assert "ordered <b>twice</b>" in tab.text
    assert "cancelled" == console.job(job_id)["status"]


def test_two_people_act_on_one_job(open_tab, console):
    """The second one learns that the job is not what the page shows, and sees what it is now."""
    job_id = console.post("csv-generation", {"a": 1}, delay_seconds=3_600)
    first, second = (open_tab(page_of(job_id)) for _ in range(2))
    # Else it would be shown the change before it acts.
    second.page.keyboard.press(".")
    expect(second.page.get_by_role("button", name="Paused")).to_be_visible()
    for tab, priority in ((first, "9"), (second, "2")):
        tab.expected.add(412)
        tab.page.get_by_text("Change its start or priority…").click()
        tab.page.get_by_label("Priority").select_option(priority)
        tab.page.get_by_role("button", name="Change the job").click()

    assert "The job is changed." in first.text
    assert "The job is not any more what If-Match says." in second.text
    assert "2" == second.page.get_by_label("Priority").input_value()
    assert not barriers(second)
    second.page.get_by_role("button", name="Change the job").click()
    assert "The job is changed." in second.text
    assert 2 == console.job(job_id)["priority"]


def test_a_dead_letter_runs_again(open_tab, console):
    job_id = console.post("test-fail-times", {"times": 1}, max_attempts=1)
    console.when(job_id, "failed")
    tab = open_tab(page_of(job_id))

    tab.page.locator("summary", has_text="Traceback").click()
    expect(tab.page.locator("#attempts pre")).to_contain_text("RuntimeError: attempt 1 fails, as asked")
    tab.page.get_by_role("button", name="Run again").click()

    expect(tab.page.locator("#attempts article")).to_have_count(2)


@pytest.fixture
def many_attempts(console):
    """A dead letter of a hundred attempts, all that a history keeps of each."""

    def write(job_id):
        entry = {"attempt": 1, "seconds": 1.5, "error": "OSError", "message": HOSTILE, "worker_id": str(uuid4())}
        with psycopg2.connect(console.environ["DATABASE_URL"]) as connection, connection.cursor() as cursor:
            cursor.execute(
                """UPDATE jobs SET history_omitted = 50, max_attempts = 100, history = (
                  SELECT jsonb_agg(%s::jsonb || jsonb_build_object(
                    'attempt', number, 'started_at', finished_at - (101 - number) * interval '1 hour',
                    'traceback', repeat('  File "job.py", line 1, in run\n', 120)
                  ) ORDER BY number)
                  FROM generate_series(1, 100) AS number WHERE number <= 10 OR number > 60
                ), created_at = created_at - interval '5 days' WHERE id = %s""",
                (json.dumps(entry), job_id),
            )
        connection.close()
        return job_id

    return write


def test_every_page_is_for_everyone(open_tab, console, many_attempts):
    """All states that look different: hostile texts, many attempts, a file, and nothing."""
    failed = console.post("test-quote", {"text": HOSTILE}, max_attempts=1, tags=["<script>alert(1)</script>", "x" * 64])
    done = console.post("csv-generation", {"rows": [{"name": "Zoë"}]})
    waiting = console.post("EMAIL_SEND", json.loads(MAIL), delay_seconds=3_600)
    console.when(done, "completed")
    console.when(failed, "failed")

    check_page(open_tab, page_of(waiting))
    check_page(open_tab, page_of(done))
    many_attempts(failed)
    check_page(open_tab, page_of(failed))
    check_page(open_tab, page_of(failed, "/attempts"))
    check_page(open_tab, page_of(failed, "/discard"))
    tab = open_tab(page_of(failed))
    tab.page.locator("#attempts h3 a").first.click()
    check_page(open_tab, tab.path)
    check_page(open_tab, page_of("nope"), status=404)


MAIL = '{"to": "alice@example.com", "subject": "Your report", "body": "It is attached."}'


def test_a_payload_is_downloaded_as_it_was_sent(open_tab, console):
    sent = '{"b":1.50,"a":"<script>alert(1)</script>"}'
    tab = open_tab(page_of(console.post_text("test-echo", sent)))

    with tab.page.expect_download() as download:
        tab.page.locator("#payload").get_by_role("link", name="Download as JSON").click()

    assert sent == Path(download.value.path()).read_text()


def test_a_job_that_is_deleted_while_it_is_watched_has_a_page_that_says_so(open_tab, console):
    job_id = console.post("test-reject", {}, max_attempts=1)
    console.when(job_id, "failed")
    tab = open_tab(page_of(job_id), scripts=False)

    tab.page.get_by_role("link", name="Discard…").click()
    tab.page.get_by_role("button", name="Discard it for good").click()

    assert "The dead letter is deleted." in tab.text
    tab.open(page_of(job_id), status=404)
    assert "There is no such job" in tab.text
