"""The workers in the console: what each runs, which are lost, and which code they run."""

import re
from uuid import uuid4

import pytest
from playwright.sync_api import expect
from rows import claim_one
from samples import new_job
from tab import MAX_BYTES, check_page
from time_travel import MINUTE, set_dates

from jobs_service.jobs import lifecycle

HOSTILE = '<script>alert(1)</script>\u202e"&' + "h" * 200

#: Milliseconds to wait for a page to show what has happened.
PATIENCE = 30_000


@pytest.fixture
def console(service):
    """An API for which workers written by hand are live. No worker takes their jobs meanwhile."""
    service.start_api(LEASE_SECONDS="600")
    return service


@pytest.fixture
def add(database):
    """Write the row of a worker, and return its id."""

    def add(host="worker-1", *, pid=17, queue="default", threads=4, version="0.1.0+4f1c2ab0", silent_seconds=0):
        worker_id = uuid4()
        database.rows(
            """INSERT INTO workers (id, hostname, pid, queues, threads, version, heartbeat_at)
            VALUES (%s, %s, %s, %s, %s, %s, now() - %s * interval '1 second')""",
            (worker_id, host, pid, [queue], threads, version, silent_seconds),
        )
        return worker_id

    return add


@pytest.fixture
def run(database):
    """Have a worker run jobs, of which each began a minute before the one before it. Return their ids."""

    def run(worker_id, count):
        jobs = [new_job() for _ in range(count)]
        lifecycle.submit(database, jobs)
        for minutes, job in enumerate(jobs):
            claim_one(database, job.id, worker_id)
            set_dates(database.rows, "jobs", [job.id], started_at=-(minutes + 0.5) * MINUTE)
        return [str(job.id) for job in jobs]

    return run


def row(tab, name):
    return tab.page.get_by_role("row").filter(has=tab.page.get_by_role("rowheader", name=name, exact=True))


def test_without_workers_the_page_says_what_to_do(open_tab):
    check_page(open_tab, "/console/workers")
    tab = open_tab("/console/workers", scripts=False)

    assert "No worker is live" in tab.text
    assert "python -m jobs_service worker" in tab.text


def test_a_worker_shows_what_it_runs_the_longest_first(open_tab, add, run):
    jobs = run(add(), 4)
    tab = open_tab("/console/workers", scripts=False)
    worker = row(tab, "worker-1:17")

    links = [link.get_attribute("title") for link in worker.get_by_role("link").all()]
    assert [jobs[3], jobs[2]] == [title for title in links if title]
    for text in ("Live", "4 of 4", "2 more", "0.1.0+4f1c2ab0", "default", "3 min ago"):
        assert text in worker.inner_text()
    assert ["1", "4 of 4", "0", "0.1.0+4f1c2ab0"] == tab.page.locator("#workers-figures dd").all_inner_texts()
    assert [jobs[3][-12:]] == re.findall(r"…(\w+)", tab.page.locator("#workers-longest").inner_text())[:1]
    worker.get_by_role("link", name="2 more").click()
    assert "worker-1:17" == tab.page.get_by_role("heading", level=1).inner_text()
    assert 4 == len(re.findall(r"…\w{12}", tab.page.locator("#workers-list").inner_text()))


def test_lost_workers_and_different_versions_are_pointed_out(open_tab, add, run):
    add("worker-1"), add("worker-2", version="0.1.0+00000000"), add("worker-3", version=None)
    run(add("lost-1", silent_seconds=601, version="0.1.0+ffffffff"), 1)
    add(HOSTILE, queue="<b>\u202e" + "q" * 40)
    check_page(open_tab, "/console/workers")
    tab = open_tab("/console/workers", scripts=False)

    assert "The workers run 3 versions of the code" in tab.text
    assert "0.1.0+ffffffff" not in tab.page.locator("#workers-notice").inner_text()
    assert "lost-1:17" == tab.page.get_by_role("rowheader").first.inner_text().strip()
    assert "Lost" in row(tab, "lost-1:17").inner_text()
    tab.page.get_by_role("link", name="Lost 1").click()
    assert 1 == tab.page.get_by_role("rowheader").count()
    tab.open("/console/workers")
    tab.page.get_by_role("link", name="0.1.0+00000000").click()
    assert ["worker-2:17"] == [name.strip() for name in tab.page.get_by_role("rowheader").all_inner_texts()]


def test_a_hundred_busy_workers_fit_into_pages_and_are_found(open_tab, add, run):
    for number in range(100):
        worker_id = add(f"host-{number:03d}.example.net", queue="mail" if number == 7 else "default")
        if number < 30:
            run(worker_id, 4)
    tab = open_tab("/console/workers", scripts=False)

    assert MAX_BYTES > len(tab.page.content().encode())
    tab.open("/console/workers?page=4")
    assert "76 to 100 of 100 workers" in tab.text
    tab.page.get_by_label("Queue").fill("mail")
    tab.page.get_by_role("button", name="Filter").click()
    assert ["host-007.example.net:17"] == [name.strip() for name in tab.page.get_by_role("rowheader").all_inner_texts()]
    tab.page.get_by_role("searchbox").fill("host-9")
    tab.page.get_by_role("button", name="Filter").click()
    assert "No worker matches" in tab.text
    assert "none of them for the queue “mail”" in tab.text
    tab.open(f"/console/workers?worker={uuid4()}")
    assert "This worker has ended" in tab.text
    tab.open("/console/workers?state=broken", status=422)
    assert "expected one of lost, full, idle" in tab.text


def test_a_real_worker_comes_and_runs_a_job_without_a_reload(open_tab, console, tmp_path):
    tab = open_tab("/console/workers")
    expect(tab.page.locator("#workers-notice")).to_contain_text("No worker is live")
    console.start_worker()
    started, go = tmp_path / "started", tmp_path / "go"
    job_id = console.post("test-wait-for-file", {"started": str(started), "go": str(go)})

    expect(tab.page.locator("#workers-list")).to_contain_text(job_id[-12:], timeout=PATIENCE)

    assert "1 of 4" in tab.page.locator("#workers-list").inner_text()
    assert "No worker is live" not in tab.text
    assert re.search(r"0\.1\.0\+[0-9a-f]{8}", tab.page.locator("#workers-figures").inner_text())
    go.touch()
    expect(tab.page.locator("#workers-list")).not_to_contain_text(job_id[-12:], timeout=PATIENCE)
