"""The console's list of jobs and its form for a new one, by HTTP and without a browser."""

import re
from html.parser import HTMLParser
from urllib.parse import urlencode
from uuid import uuid4

import falcon.testing
import pytest
from rows import claim_one, complete_one

from jobs_service.api.app import create_app
from jobs_service.api.callers import CALLER, Caller, Scope

MAIL = {"to": "alice@example.com", "subject": "Hello", "body": "Two\nlines"}


class Form(HTMLParser):
    """The controls of a page's forms: by name, what a browser would send; and what is marked as wrong."""

    def __init__(self, text):
        super().__init__()
        self.values, self.wrong, self.buttons, self._area, self._select = {}, [], [], None, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if given.get("aria-invalid"):
            self.wrong.append(given["name"])
        if "name" not in given and tag in ("input", "select", "textarea"):
            return
        if tag == "input" and (given.get("type") != "checkbox" or "checked" in given):
            self.values[given.get("name")] = given.get("value") or ("on" if given.get("type") == "checkbox" else "")
        elif tag == "textarea":
            self._area = given["name"]
            self.values[self._area] = ""
        elif tag == "select":
            self._select = given["name"]
            self.values[self._select] = ""
        elif tag == "option" and "selected" in given:
            self.values[self._select] = given.get("value")
        elif tag == "button" and "disabled" not in given:
            self.buttons.append((given.get("name"), given.get("value")))

    def handle_data(self, data):
        if self._select and self.values[self._select] is None:
            self.values[self._select] = data
        if self._area:
            self.values[self._area] += data.removeprefix("\n")

    def handle_endtag(self, tag):
        if tag == "textarea":
            self._area = None


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def see(client):
    """Read a page."""

    def see(path, answer=200, scopes=None, **params):
        extras = {CALLER: Caller("ops", frozenset(scopes))} if scopes else {}
        reply = client.simulate_get(path, params=params, extras=extras)
        assert answer == reply.status_code, words(reply.text)
        return reply

    return see


@pytest.fixture
def send(client):
    """Send a form."""

    def send(path, **fields):
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
        return client.simulate_post(path, body=urlencode(fields), headers=headers)

    return send


@pytest.fixture
def finished(submit, database, worker_id):
    """A mail that was sent."""
    job_id = submit(type="EMAIL_SEND", payload=MAIL | {"subject": "First"}, priority=8, tags=["old"])
    complete_one(database, claim_one(database, job_id, worker_id), "1")
    return str(job_id)


def jobs_in(database):
    return [str(job_id) for (job_id,) in database.rows("SELECT id FROM jobs ORDER BY id")]


def links(reply):
    return dict(re.findall(r'<a[^>]* href="([^"]*)"[^>]*>(.*?)</a>', reply.text, re.DOTALL))


def words(markup):
    return " ".join(re.sub("<[^>]*>", "", markup).split())


# ---- The list ----


def test_the_url_has_no_blank_filters_and_times_in_utc(client):
    query = "status=failed&type=&q=+&tag=&created_after=2026-11-26T09:30&attempts_min=&notice=retried"

    reply = client.simulate_get("/console/jobs", query_string=query)

    assert 303 == reply.status_code
    assert (
        "/console/jobs?status=failed&created_after=2026-11-26T09%3A30%3A00Z&notice=retried"
        == (reply.headers["location"])
    )
    assert 200 == client.simulate_get(reply.headers["location"]).status_code


def test_the_form_has_the_filter_as_it_is(see):
    filters = {"status": "failed", "type": "EMAIL_SEND", "tag": "a", "q": "<b>", "attempts_min": "2"}
    times = {"created_after": "2026-11-26T10:30:00+01:00", "created_before": "2026-11-27T00:00:00.250Z"}

    shown = Form(see("/console/jobs", **filters, **times).text).values

    assert filters["q"] == shown["q"]
    assert ("failed", "a", "2") == (shown["status"], shown["tag"], shown["attempts_min"])
    assert ("2026-11-26T09:30:00", "2026-11-27T00:00:00.250") == (shown["created_after"], shown["created_before"])


def test_a_wrong_filter_is_told_at_its_field_and_stays_there(see):
    for name, value in [
        ("type", "nope"),
        ("created_after", "yesterday"),
        ("attempts_min", "many"),
        ("attempts_min", "-1"),
        ("q", "%"),
        ("tag", "x" * 65),
        ("queue", "x" * 51),
    ]:
        reply = see("/console/jobs", 422, **{name: value, "status": "failed"})

        form = Form(reply.text)
        assert [name] == form.wrong
        assert (value, "failed") == (form.values[name], form.values["status"])
        assert f'id="{name}-wrong"' in reply.text
        assert "/docs/errors#invalid_request" in reply.text


def test_a_wrong_status_or_cursor_is_told_with_a_way_back(see):
    assert "All jobs" == words(links(see("/console/jobs", 422, status="lost"))["/console/jobs"])
    reply = see("/console/jobs", 422, tag="a", cursor="AAAA")
    assert "First page" == words(links(reply)["/console/jobs?tag=a"])


def test_every_job_is_on_one_of_the_pages(see, submit):
    submitted = [str(submit()) for _ in range(51)]

    first = see("/console/jobs")
    [following] = [path for path, text in links(first).items() if words(text) == "Next page"]
    second = see(following.replace("&amp;", "&"))

    on_pages = [re.findall(r'<tr id="job-([^"]*)"', page.text) for page in (first, second)]
    assert [50, 1] == [*map(len, on_pages)]
    assert sorted(submitted) == sorted(on_pages[0] + on_pages[1])
    assert "First page" == words(links(second)["/console/jobs"])
    assert "<strong>51</strong> jobs" in first.text
    assert "<strong>51</strong> jobs" in second.text


def test_a_list_whose_filters_hide_everything_says_which_of_them(see, submit, database):
    submit()
    submit(type="EMAIL_SEND")
    database.rows("UPDATE jobs SET tags = '{a}' WHERE type = 'EMAIL_SEND'")

    shown = links(see("/console/jobs", type="csv-generation", tag="a", q="nothing"))

    # Without any one of them there is none: two at a time hide the jobs.
    assert not [text for text in shown.values() if " without " in words(text)]
    shown = links(see("/console/jobs", type="csv-generation", tag="a"))
    assert "1 without type csv-generation" == words(shown["/console/jobs?tag=a"])
    assert "1 without tag a" == words(shown["/console/jobs?type=csv-generation"])


def test_a_list_without_jobs_offers_the_example(see, send, database):
    reply = see("/console/jobs")

    assert "curl http://" in reply.text
    form = Form(reply.text).values
    assert "csv-generation" == form["type"]
    answer = send("/console/jobs/new", **{name: form[name] for name in ("type", "mode", "key", "payload")})
    assert 303 == answer.status_code
    assert [answer.headers["location"].split("/")[3].partition("?")[0]] == jobs_in(database)


READ, WRITE, DISCARD = Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.DEAD_LETTERS_WRITE


def test_only_what_the_caller_may_do_with_such_jobs_has_a_button(see, submit, finished):
    submit()
    for scopes, status, of_selected, of_all in [
        ([READ], "", [], []),
        ([READ, WRITE], "", ["cancel", "retry"], ["cancel", "retry"]),
        ([READ, DISCARD], "", ["discard"], ["discard"]),
        ([READ, WRITE, DISCARD], "", ["cancel", "discard", "retry"], ["cancel", "discard", "retry"]),
        ([READ, WRITE, DISCARD], "completed", ["retry"], []),
        ([READ, WRITE, DISCARD], "pending", ["cancel"], ["cancel"]),
    ]:
        text = see("/console/jobs", scopes=scopes, **({"status": status} if status else {})).text

        offered = [value for name, value in Form(text).buttons if name == "action"]
        assert sorted(of_selected + of_all) == sorted(offered), (scopes, status)
        assert bool(of_selected) == ('name="job_id"' in text)
        matching = f'name="matching" value="{f"status={status}" if status else "all=true"}"'
        assert bool(of_all) == (matching in text)
        assert finished in text or status == "pending"


def test_a_list_of_fifty_long_jobs_is_small(see, submit, database):
    """It has no payload, and only the beginning of an error and of tags."""
    tags = ["<b>bold</b> & sons", "\u05d0" * 64, "&" * 64, "fourth"]
    for _ in range(50):
        submit(payload={"name": "SECRET"}, type="x" * 50, tags=tags)
    database.rows("UPDATE jobs SET error = %s, attempts = 88, max_attempts = 99", (f"<b>{'&' * 10_000}\nsecond",))

    text = see("/console/jobs").text

    assert 60_000 > len(text.encode())
    assert 50 == text.count("<td>88/99</td>")
    assert "&lt;b&gt;&amp;" in text
    for absent in ("SECRET", "second", "fourth", "<b>"):
        assert absent not in text


# ---- The form ----


def new_form(see, **params):
    return Form(see("/console/jobs/new", **params).text)


def filled(form, **texts):
    return {**form.values, **{f"p.{name}": text for name, text in texts.items()}}


def test_a_form_makes_one_job_however_often_it_is_sent(see, send, client, database):
    fields = filled(new_form(see, type="email-send"), **MAIL) | {"priority": "7", "tags": "a\r\nb"}

    answers = [send("/console/jobs/new", **fields) for _ in range(3)]

    [job_id] = jobs_in(database)
    assert [(303, f"/console/jobs/{job_id}?notice=submitted")] * 3 == [
        (answer.status_code, answer.headers["location"]) for answer in answers
    ]
    job = client.simulate_get(f"/jobs/{job_id}").json
    assert ("EMAIL_SEND", MAIL, 7, ["a", "b"]) == (job["type"], job["payload"], job["priority"], job["tags"])


def test_a_form_that_is_sent_again_with_other_values_asks_once_more(see, send, database):
    fields = filled(new_form(see, type="EMAIL_SEND"), **MAIL)
    send("/console/jobs/new", **fields)

    again = send("/console/jobs/new", **fields | {"p.subject": "Another"})

    assert (422, 1) == (again.status_code, len(jobs_in(database)))
    form = Form(again.text).values
    assert ("Another", True) == (form["p.subject"], form["key"] != fields["key"])
    assert 303 == send("/console/jobs/new", **form).status_code
    assert 2 == len(jobs_in(database))


def test_an_error_is_at_its_field_and_what_was_typed_stays(see, send, database):
    fields = filled(new_form(see, type="EMAIL_SEND"), **MAIL)

    for name, text in [
        ("p.to", "nobody"),
        ("p.to", "["),
        ("p.headers", '{"X-A": 5}'),
        ("priority", "10"),
        ("priority", "high"),
        ("tags", "a\na"),
        ("run_at", "2000-01-01T00:00"),
        ("expires_at", "soon"),
        ("queue", '"nowhere"'),
    ]:
        typed = fields | {name: text}
        reply = send("/console/jobs/new", **typed)

        assert 422 == reply.status_code
        form = Form(reply.text)
        assert [name] == form.wrong
        # A list has no choice that is not in it, and a field for dates no text.
        kept = {key: value for key, value in typed.items() if value and key != "queue"}
        assert kept == {key: form.values[key] for key in kept}
    assert not jobs_in(database)
    # Corrected, the same form makes the job.
    assert 303 == send("/console/jobs/new", **form.values).status_code
    assert 1 == len(jobs_in(database))


def test_a_payload_is_typed_as_json_where_its_type_has_no_fields(see, send, client, database):
    fields = new_form(see, type="csv-generation").values | {"payload": '[{"name": "Bob", "price": 1.50}]'}

    assert 303 == send("/console/jobs/new", **fields).status_code

    [job_id] = jobs_in(database)
    assert '"price":1.50' in client.simulate_get(f"/jobs/{job_id}").text.replace(" ", "")


def test_what_is_no_payload_is_told(see, send, database):
    form = new_form(see, type="csv-generation").values

    for payload in ["", "{", '{}, "queue": "x"', '{"a": 1, "a": 2}', '"text"']:
        reply = send("/console/jobs/new", **form | {"payload": payload})

        assert reply.status_code in (400, 422)
        assert 'role="alert"' in reply.text
        assert payload == Form(reply.text).values["payload"]
    assert not jobs_in(database)


def test_what_was_typed_goes_with_the_form_from_fields_to_json_and_back(see, send):
    fields = filled(new_form(see, type="EMAIL_SEND"), **MAIL) | {"priority": "3"}

    as_json = Form(send("/console/jobs/new", **fields, do="json").text).values
    assert ("json", fields["key"], "3") == (as_json["mode"], as_json["key"], as_json["priority"])
    assert '"subject": "Hello"' in as_json["payload"]
    in_fields = Form(send("/console/jobs/new", **as_json, do="form").text).values
    assert ("Hello", "Two\nlines", "3") == (in_fields["p.subject"], in_fields["p.body"], in_fields["priority"])
    unknown = Form(send("/console/jobs/new", **as_json | {"payload": '{"x": 1}'}, do="form").text)
    assert (["payload"], '{"x": 1}') == (unknown.wrong, unknown.values["payload"])


def test_the_command_is_that_of_what_was_typed(see, send):
    fields = filled(new_form(see, type="EMAIL_SEND"), **MAIL)

    assert "report" in see("/console/jobs/new", type="EMAIL_SEND").text.partition('id="command"')[2]
    shown = send("/console/jobs/new", **fields | {"p.subject": "Typed"}, do="show").text.partition('id="command"')[2]
    assert "&#34;subject&#34;: &#34;Typed&#34;" in shown
    assert "JOBS_KEY" not in shown
    with_key = see("/console/jobs/new", type="EMAIL_SEND", scopes=[READ, WRITE])
    assert "Authorization: Bearer $JOBS_KEY" in with_key.text


def test_a_key_without_the_scope_has_no_button_to_submit(see):
    buttons = Form(see("/console/jobs/new", type="EMAIL_SEND", scopes=[READ]).text).buttons

    assert ("do", "submit") not in buttons
    assert ("do", "submit") in Form(see("/console/jobs/new", type="EMAIL_SEND", scopes=[READ, WRITE]).text).buttons


def test_the_types_are_offered(see):
    shown = links(see("/console/jobs/new"))

    assert {"/console/jobs/new?type=EMAIL_SEND", "/console/jobs/new?type=csv-generation"} <= shown.keys()
    see("/console/jobs/new", 404, type="nope")


def test_a_retry_with_changes_is_a_new_job_that_names_the_finished_one(see, send, client, finished, database):
    fields = new_form(see, retry_of=finished).values
    assert ("First", "8", "old") == (fields["p.subject"], fields["priority"], fields["tags"])
    answers = [send("/console/jobs/new", **fields | {"p.subject": "Second", "tags": ""}) for _ in range(2)]

    assert [303, 303] == [answer.status_code for answer in answers]
    [_, made] = jobs_in(database)
    new = client.simulate_get(f"/jobs/{made}").json
    assert (finished, "Second", 8, []) == (new["retry_of"], new["payload"]["subject"], new["priority"], new["tags"])
    assert f"/console/jobs/{made}?notice=submitted" == answers[0].headers["location"]


def test_a_retry_of_a_job_that_is_not_finished_is_told(see, send, submit, database):
    job_id = submit()

    reply = see("/console/jobs/new", retry_of=str(job_id))
    assert "The job is pending" in reply.text
    answer = send("/console/jobs/new", **Form(reply.text).values)

    assert 409 == answer.status_code
    assert "Only a finished job can be run again with changes." in answer.text
    assert 1 == len(jobs_in(database))


def test_a_retry_of_no_job_is_a_page_that_says_so(see, send):
    for job_id in ("nope", "count", "../queues", str(uuid4())):
        assert "There is no job" in see("/console/jobs/new", 404, retry_of=job_id).text
        form = {"type": "EMAIL_SEND", "retry_of": job_id, "mode": "json", "payload": "{}"}
        assert 404 == send("/console/jobs/new", **form).status_code
