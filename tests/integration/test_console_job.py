"""The pages of a job by HTTP: what they show, what their forms do, and to whom."""

import dataclasses
import re
from html import unescape
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import falcon.testing
import msgspec
import pytest
from rows import claim_one, complete_one
from samples import a_failure

from jobs_service.api.access import keys
from jobs_service.api.app import create_app
from jobs_service.api.console import excerpts
from jobs_service.jobs import lifecycle, notes
from jobs_service.jobs.lifecycle import EndReason
from jobs_service.outputs.local import LocalOutputs

BROWSER = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
FORM = BROWSER | {"Content-Type": "application/x-www-form-urlencoded"}

#: The most bytes of a page.
MAX_BYTES = 60_000


@pytest.fixture
def settings(settings):
    return dataclasses.replace(settings, actor_modules="trying", max_attempts=8)


@pytest.fixture
def client(settings, monkeypatch):
    monkeypatch.syspath_prepend("tests/job_types")
    return falcon.testing.TestClient(create_app(settings))


def show(client, job_id, path="", status=200):
    reply = client.simulate_get(f"/console/jobs/{job_id}{path}", headers=BROWSER)
    assert status == reply.status_code, reply.text
    assert len(reply.content) < MAX_BYTES
    return reply.text


def send(client, job_id, action, **form):
    return client.simulate_post(f"/console/jobs/{job_id}/{action}", body=urlencode(form), headers=FORM)


def words(page):
    """The text of a page, without its tags."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def hidden_fields(page):
    return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page)}


@pytest.fixture
def fail(database, submit, worker_id):
    """Write a dead letter and return its id."""

    def fail(*, message="no space left", **fields):
        claim = claim_one(database, submit(**fields), worker_id)
        failure = dataclasses.replace(a_failure(), message=message)
        lifecycle.fail(database, claim, failure, reason=EndReason.ATTEMPTS_EXHAUSTED)
        return claim.job_id

    return fail


@pytest.fixture
def complete(database, submit, worker_id):
    def complete(result, **fields):
        claim = claim_one(database, submit(**fields), worker_id)
        complete_one(database, claim, result)
        return claim.job_id

    return complete


def test_a_page_says_why_and_all_about_the_job(client, submit):
    job_id = submit(payload={"name": "Zoë"}, tags=["a b", "<i>"], request_id="order-4711", priority=7)

    page = show(client, job_id)

    assert "No live worker serves the queue default." in words(page) or "It is the next of" in words(page)
    assert '"name": "Zoë"' in words(page)
    assert f'<span class="id">{job_id}</span>' in page
    assert 'href="/console/jobs?tag=a%20b"' in page
    assert 'href="/console/jobs?tag=%3Ci%3E"' in page
    assert 'data-copy="order-4711"' in page
    assert f'data-events="/console/jobs/{job_id}/events"' in page


def test_a_job_that_has_ended_is_not_watched(client, complete):
    page = show(client, complete("1"))

    assert "data-events" not in page
    assert "data-refresh" not in page


def test_texts_are_as_they_were_sent(client, database, submit):
    sent = '{"b":1.50,"a":[1e5,-0,"\\u00e9"]}'
    job_id = submit()
    database.rows("UPDATE jobs SET payload = %s, payload_text = %s WHERE id = %s", (sent, sent, job_id))

    assert sent in unescape(show(client, job_id))
    assert sent == show(client, job_id, "/json/payload")


def test_a_long_payload_is_cut_and_leads_to_all_of_it(client, submit):
    job_id = submit(payload={"text": "<" * 100_000})

    page = show(client, job_id)

    assert "The beginning of 100.0 kB" in words(page)
    assert f'href="/console/jobs/{job_id}/json/payload"' in page
    raw = client.simulate_get(f"/console/jobs/{job_id}/json/payload")
    assert {"text": "<" * 100_000} == raw.json
    assert "application/json" in raw.headers["content-type"]
    assert f'attachment; filename="{job_id}.payload.json"' == raw.headers["content-disposition"]


HOSTILE = ["<script>alert(1)</script>", "\u202e\u2066\u200f", '"' * 10_000, "x" * 10_000]


def test_hostile_text_is_harmless_everywhere(client, database, submit, worker_id):
    for text in HOSTILE:
        job_id = write_hostile(database, submit, worker_id, text)
        for path in ("", "/attempts", "/discard", *attempt_paths(show(client, job_id))):
            page = show(client, job_id, path)
            assert "<script>alert" not in page
            # The browser keeps the directions of these to themselves.
            assert "\u202e" not in re.sub(r"<(h1|title|bdi)[ >].*?</\1>", "", page, flags=re.DOTALL), path


def write_hostile(database, submit, worker_id, text):
    """Write a dead letter that has the text wherever it can have one, and return its id."""
    job_id = submit(payload={text: text}, tags=[text[:64]], type=text[:40], request_id="x")
    claim = claim_one(database, job_id, worker_id)
    said = notes.AttemptNotes(job_id, claim.token, attempt=1, job_type=text[:40], queue="default")
    said.add_line("info", text, {text: text})
    said.progress(1, 2, text)
    notes.write(database, [(said, said.state)])
    failure = dataclasses.replace(a_failure(), error=text[:50], message=text, traceback=text)
    lifecycle.fail(database, claim, failure, reason=EndReason.REJECTED)
    return job_id


def attempt_paths(page):
    return {f"/attempts/{key}" for key in re.findall(r"/attempts/(\d+)", page)}


def test_the_page_of_a_job_of_a_hundred_attempts_is_small(client, database, fail):
    job_id = fail()
    texts = {"error": "OSError", "message": "<" * 1_000, "traceback": "<" * 4_000}
    entry = msgspec.json.encode({"attempt": 1, "seconds": 1} | texts).decode()
    database.rows(
        """UPDATE jobs SET history_omitted = 50, history = (
          SELECT jsonb_agg(%s::jsonb || jsonb_build_object('started_at', now() - number * interval '1 minute'))
          FROM generate_series(1, 50) AS number
        ) WHERE id = %s""",
        (entry, job_id),
    )

    assert "All attempts: 100" in words(show(client, job_id))
    every = words(show(client, job_id, "/attempts"))
    assert "100 attempts, of which 50 are kept" in every
    assert "50 attempts, which are not kept" in every


def test_an_attempt_has_its_error_and_its_log(client, database, submit, worker_id):
    claim = claim_one(database, submit(type="test-say"), worker_id)
    said = notes.AttemptNotes(claim.job_id, claim.token, attempt=1, job_type="test-say", queue="default")
    for number in range(50):
        said.add_line("warning", f"line {number}", {"page": number})
    notes.write(database, [(said, said.state)])
    lifecycle.retry(database, claim, a_failure(), delay_seconds=60)

    page = show(client, claim.job_id)
    [path] = attempt_paths(page)

    # The last lines, and a link to all.
    assert "line 49" in page
    assert "line 3 " not in words(page)
    assert "All 50 lines of its log" in words(page)
    assert all(f"line {number} page = {number}" in words(show(client, claim.job_id, path)) for number in range(50))
    assert 50 == len(msgspec.json.decode(show(client, claim.job_id, "/json/logs"))["attempts"][0]["lines"])


def test_what_a_job_does_not_have_is_404(client, submit):
    job_id = submit()

    for path in ("/attempts/1", "/attempts/x", "/json/history"):
        show(client, job_id, path, status=404)


def test_nothing_of_a_sensitive_job_is_shown(client, database, submit, worker_id):
    claim = claim_one(database, submit(type="test-secret", payload={"secret": "hunter2"}), worker_id)
    said = notes.AttemptNotes(claim.job_id, claim.token, attempt=1, job_type="test-secret", queue="default")
    said.add_line("info", "hunter2", {})
    said.progress(1, 2, "hunter2")
    notes.write(database, [(said, said.state)])
    running = show(client, claim.job_id)
    complete_one(database, claim, f'["hunter2", "output/{claim.job_id}.csv"]')

    page = show(client, claim.job_id)
    [path] = attempt_paths(page)

    assert "1 of 2" in words(running)
    assert 2 == words(page).count(" hidden: this type is marked sensitive") - words(page).count("Log lines hidden")
    assert not [shown for shown in (running, page, show(client, claim.job_id, path)) if "hunter2" in shown]
    for part in ("payload", "result", "logs"):
        reply = client.simulate_get(f"/console/jobs/{claim.job_id}/json/{part}", headers=BROWSER)
        assert (303, f"/console/jobs/{claim.job_id}") == (reply.status_code, reply.headers["location"])


def test_the_payload_of_a_type_that_this_version_does_not_know_is_hidden(client, submit):
    page = show(client, submit(type="gone", payload={"secret": "hunter2"}))

    assert "this version does not know the type" in words(page)
    assert "hunter2" not in page


def test_an_unknown_job_has_a_page_that_says_how_long_jobs_are_kept(client):
    for job_id in (uuid4(), "nope", "%3Cscript%3E"):
        page = show(client, job_id, status=404)
        assert "Completed 7 d Failed 90 d Cancelled 7 d" in words(page)
        assert "<script>" not in page

    assert 404 == send(client, uuid4(), "cancel").status_code
    assert 404 == send(client, uuid4(), "discard").status_code


def test_a_cancel_keeps_its_reason(client, submit, row):
    job_id = submit()

    reply = send(client, job_id, "cancel", reason="ordered twice")

    assert (303, f"/console/jobs/{job_id}?notice=cancelled") == (reply.status_code, reply.headers["location"])
    assert ("cancelled", "ordered twice") == row(job_id, "status", "cancel_reason")
    assert "Reason ordered twice" in words(show(client, job_id))


def test_what_the_api_refuses_is_on_the_page_of_the_job(client, complete):
    job_id = complete("1")

    reply = send(client, job_id, "cancel", reason="too <late>")

    assert 409 == reply.status_code
    assert "Only a job that is pending or processing can be cancelled." in words(reply.text)
    assert "data-events" not in reply.text


def test_a_finished_job_runs_again(client, complete, row):
    job_id = complete("1")

    assert f"/console/jobs/new?retry_of={job_id}" in show(client, job_id)
    assert f"/console/jobs/{job_id}?notice=retried" == send(client, job_id, "retry").headers["location"]
    assert "pending" == row(job_id, "status")
    assert 409 == send(client, job_id, "retry").status_code


def test_a_pending_job_gets_another_start_and_priority(client, submit, row):
    job_id = submit(delay_seconds=3_600)
    shown = hidden_fields(show(client, job_id))

    reply = send(client, job_id, "reschedule", **shown, run_at="2026-11-27T10:00", priority="9")

    assert 303 == reply.status_code, words(reply.text)
    assert "2026-11-27T10:00:00+00:00" == row(job_id, "run_at").isoformat()
    assert 9 == row(job_id, "priority")


def test_a_start_that_was_not_changed_stays_as_it_is(client, submit, row):
    job_id = submit(delay_seconds=3_600)
    before = row(job_id, "run_at")
    shown = hidden_fields(show(client, job_id))

    send(client, job_id, "reschedule", **shown, run_at=shown["shown_run_at"], priority="1")

    assert (before, 1) == row(job_id, "run_at", "priority")


def test_a_job_runs_as_soon_as_possible(client, submit, database):
    job_id = submit(delay_seconds=3_600)
    shown = hidden_fields(show(client, job_id))

    send(client, job_id, "reschedule", **shown, run_at=shown["shown_run_at"], priority="5", now="yes")

    assert [(True,)] == database.rows("SELECT run_at BETWEEN now() - interval '1 minute' AND now() FROM jobs")


def test_a_job_that_has_changed_meanwhile_is_not_changed(client, submit, row):
    job_id = submit(delay_seconds=3_600)
    shown = hidden_fields(show(client, job_id))
    send(client, job_id, "reschedule", **shown, priority="9")

    reply = send(client, job_id, "reschedule", **shown, run_at="2026-11-27T10:00", priority="1")

    assert 412 == reply.status_code
    assert "The job is not any more what If-Match says." in words(reply.text)
    assert 'value="2026-11-27T10:00"' in reply.text
    assert 9 == row(job_id, "priority")
    # What was typed can be sent again.
    again = send(client, job_id, "reschedule", **hidden_fields(reply.text), priority="1")
    assert (303, 1) == (again.status_code, row(job_id, "priority"))


def test_an_error_is_beside_its_field(client, submit):
    job_id = submit(delay_seconds=3_600)
    shown = hidden_fields(show(client, job_id))

    for form, field in (({"run_at": "tomorrow", "priority": "5"}, "run-at"), ({"priority": "99"}, "priority")):
        reply = send(client, job_id, "reschedule", **shown, **form)
        assert 422 == reply.status_code
        assert f'aria-describedby="{field}-error"' in reply.text
        assert f'class="wrong" id="{field}-error"' in reply.text


def test_a_dead_letter_is_discarded_after_a_question(client, fail, row):
    job_id = fail()

    assert "Discard it for good" in show(client, job_id, "/discard")
    assert "failed" == row(job_id, "status")
    reply = send(client, job_id, "discard")

    assert "/console/jobs?status=failed&notice=discarded" == reply.headers["location"]
    assert row(job_id, "status") is None


def test_only_a_dead_letter_is_discarded(client, complete):
    job_id = complete("1")

    assert "Discard it for good" not in show(client, job_id, "/discard")
    assert 409 == send(client, job_id, "discard").status_code


def test_the_address_of_an_action_leads_to_the_job(client, submit):
    job_id = submit()

    for action in ("cancel", "retry", "reschedule"):
        reply = client.simulate_get(f"/console/jobs/{job_id}/{action}", headers=BROWSER)
        assert (303, f"/console/jobs/{job_id}") == (reply.status_code, reply.headers["location"])


def test_an_address_can_add_no_header(client):
    reply = client.simulate_get("/console/jobs/x%0d%0aSet-Cookie:%20a=b/cancel", headers=BROWSER)

    assert "/console/jobs/x%0D%0ASet-Cookie%3A%20a%3Db" == reply.headers["location"]


def test_buttons_are_those_that_the_key_may_press(client, database, submit, fail):
    jobs = submit(delay_seconds=60), fail()
    labels = {
        "Cancel the job": "jobs:write",
        "Change the job": "jobs:write",
        "Run again": "jobs:write",
        "Discard…": "dead-letters:write",
    }
    for scopes in (["jobs:read"], ["jobs:read", "jobs:write"], ["jobs:read", "dead-letters:write"]):
        cookie = sign_in(client, keys.create(database, "alice", scopes))

        pages = "".join(
            words(client.simulate_get(f"/console/jobs/{job}", headers=BROWSER | cookie).text) for job in jobs
        )

        assert {label: scope in scopes for label, scope in labels.items()} == {
            label: label in pages for label in labels
        }


def test_an_action_needs_its_scope(client, database, submit):
    job_id = submit()
    cookie = sign_in(client, keys.create(database, "alice", ["jobs:read"]))

    for action in ("cancel", "retry", "reschedule", "discard"):
        reply = client.simulate_post(f"/console/jobs/{job_id}/{action}", body="", headers=FORM | cookie)
        assert 403 == reply.status_code, action
        assert "scope_missing" in reply.text


def sign_in(client, key):
    reply = client.simulate_post("/console/sign-in", body=urlencode({"key": key}), headers=FORM)
    [cookie] = reply.cookies.values()
    return {"Cookie": f"{cookie.name}={cookie.value}"}


def test_grafana_is_linked_where_there_is_one(settings, client, complete):
    job_id = complete("1")
    with_grafana = falcon.testing.TestClient(
        create_app(dataclasses.replace(settings, grafana_url="https://grafana.example"))
    )

    assert "Grafana" not in words(show(client, job_id))
    assert "https://grafana.example/d/jobs-type?from=1" in show(with_grafana, job_id)


def test_files_are_linked_with_what_they_are(client, complete, settings):
    outputs = LocalOutputs(Path(settings.output_dir))
    job_id = complete("1")
    with_files = complete_with_files(complete, outputs)

    assert "/output?" not in show(client, job_id)
    assert "/output?" in show(client, with_files)
    page = words(show(client, with_files))
    assert "text/csv, 8 Bytes" in page
    assert "deleted since" in page
    assert "name é" in page


def complete_with_files(complete, outputs):
    job_id = uuid4()
    outputs.write(f"{job_id}.csv", "name\né\n".encode())
    result = msgspec.json.encode([f"output/{job_id}.csv", f"output/{job_id}.gone.txt"]).decode()
    return complete(result, id=job_id)


def test_the_command_submits_such_a_job(client, submit):
    page = unescape(show(client, submit(payload={"name": "Zoë's"}, priority=9)))

    command = """-d'{"type":"csv-generation","payload":{"name":"Zoë'"'"'s"},"priority":9,"max_attempts":3}'"""
    assert command in "".join(page.split())


def test_a_text_that_msgspec_cannot_format_is_shown(client, complete, monkeypatch):
    monkeypatch.setattr(excerpts, "MAX_PRETTY", 2)

    assert "[1, 2]" in show(client, complete("[1, 2]"))
