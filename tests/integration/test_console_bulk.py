"""The console's forms for many jobs: who may send them, what is wrong with one, and what comes of a fault."""

from urllib.parse import urlencode

import falcon.testing
import pytest

from jobs_service.api.access import keys
from jobs_service.api.app import create_app
from jobs_service.api.callers import Scope
from jobs_service.errors import DatabaseUnavailable
from jobs_service.jobs import lifecycle

UNKNOWN = "0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41"


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def send(client):
    """Send a form as a page of the console does, and return the answer and its text."""

    def send(path, fields, *, cookies=None, site="same-origin"):
        return client.simulate_post(
            f"/console{path}",
            body=urlencode(fields),
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept": "text/html",
                "Sec-Fetch-Site": site,
            },
            cookies=cookies,
        )

    return send


@pytest.fixture
def sign_in(database, send):
    """Return the cookies of a browser that has signed in with a key that has these scopes."""

    def sign_in(*scopes):
        answer = send("/sign-in", [("key", keys.create(database, "alice", scopes))])
        assert 303 == answer.status_code
        return {name: cookie.value for name, cookie in answer.cookies.items()}

    return sign_in


@pytest.fixture
def statuses(database):
    return lambda: [status for (status,) in database.rows("SELECT status FROM jobs ORDER BY id")]


def ids(jobs):
    return [("job_id", str(job_id)) for job_id in jobs]


SCOPES = {"cancel": Scope.JOBS_WRITE, "discard": Scope.DEAD_LETTERS_WRITE}


def test_who_may_only_read_changes_nothing_and_is_told_which_scope_is_missing(send, sign_in, submit, statuses):
    selected = ids([submit()])
    cookies = sign_in(Scope.JOBS_READ)

    for action, scope in SCOPES.items():
        for fields in ([("matching", "all=true")], selected):
            confirmed = send("/jobs/actions/confirm", [("action", action), *fields], cookies=cookies)
            assert (403, True) == (confirmed.status_code, str(scope) in confirmed.text), (action, fields)
        assert 403 == send("/jobs/actions", [("action", action), ("matching", "")], cookies=cookies).status_code
    assert ["pending"] == statuses()


def test_the_preview_has_no_button_that_the_key_may_not_press(send, sign_in, submit):
    form = [("action", "cancel"), *ids([submit()])]

    reading = send("/jobs/actions", form, cookies=sign_in(Scope.JOBS_READ))
    writing = send("/jobs/actions", form, cookies=sign_in(Scope.JOBS_READ, Scope.JOBS_WRITE))

    button = '<button class="danger">Cancel 1 job</button>'
    assert (200, False, True) == (
        reading.status_code,
        button in reading.text,
        "<code>jobs:write</code>" in reading.text,
    )
    assert (200, True) == (writing.status_code, button in writing.text)


def test_another_site_can_send_no_form(send, submit, statuses):
    submit()

    for path in ("/jobs/actions", "/jobs/actions/confirm", f"/actions/cancellations/{UNKNOWN}/stop"):
        answer = send(path, [("action", "cancel"), ("matching", "all=true")], site="cross-site")
        assert 403 == answer.status_code, path
    assert ["pending"] == statuses()


def test_a_wrong_form_is_refused_and_says_what_is_wrong(send):
    for fields, words in (
        ([], "expected one of cancel, retry, discard"),
        ([("action", "delete"), ("matching", "")], "expected one of cancel, retry, discard"),
        ([("action", "cancel")], "select at least one job"),
        ([("action", "cancel"), ("job_id", "<script>")], "expected the ids of jobs"),
        ([("action", "cancel"), *ids(range(201))], "select at most 200 jobs"),
        ([("action", "cancel"), ("matching", "created_after=yesterday")], "created_after"),
        ([("action", "cancel"), ("matching", "attempts_min=many")], "attempts_min"),
        ([("action", "discard"), ("matching", "error_group=x")], "group"),
    ):
        for path in ("/jobs/actions", "/jobs/actions/confirm"):
            answer = send(path, fields)
            assert (422, True) == (answer.status_code, words in answer.text), (fields, answer.text)


def test_dates_of_the_list_without_a_time_zone_are_utc(send, submit):
    submit()

    found = send("/jobs/actions", [("action", "cancel"), ("matching", "created_after=2026-01-01T00:00")])

    assert 200 == found.status_code
    assert "Cancel 1 job" in found.text


def test_a_count_that_is_not_the_end_is_shown_as_such(send, submit, monkeypatch):
    monkeypatch.setattr("jobs_service.jobs.unfinished.MOST_COUNTED", 2)
    for _ in range(3):
        submit()

    found = send("/jobs/actions", [("action", "cancel"), ("matching", "")])

    assert "Cancel 2+ jobs</button>" in found.text
    assert "One action changes at most 100,000" in found.text


def test_where_the_database_is_lost_halfway_the_page_says_how_far_it_came(send, submit, statuses, monkeypatch):
    jobs = [submit() for _ in range(3)]
    cancel, calls = lifecycle.cancel, []

    def cancel_one(database, job_id, **options):
        calls.append(job_id)
        if len(calls) > 1:
            raise DatabaseUnavailable("as asked")
        return cancel(database, job_id, **options)

    monkeypatch.setattr(lifecycle, "cancel", cancel_one)
    answer = send("/jobs/actions/confirm", [("action", "cancel"), ("matching", ""), *ids(jobs)])

    assert 503 == answer.status_code
    assert "Cancelled: 1. Skipped: 0." in answer.text
    assert ["cancelled", "pending", "pending"] == statuses()

    monkeypatch.setattr(lifecycle, "cancel", cancel)
    rest = ",".join(str(job_id) for job_id in jobs[1:])
    assert f'name="job_ids" value="{rest}"' in answer.text
    again = send("/jobs/actions/confirm", [("action", "cancel"), ("matching", "type=x"), ("job_ids", rest)])
    assert "/console/jobs?type=x&notice=many-cancel&n=2" == again.headers["location"]
    assert {"cancelled"} == set(statuses())


def test_a_job_that_changed_after_the_preview_is_skipped_and_counted(send, submit):
    waiting, ended = submit(), submit()
    send("/jobs/actions/confirm", [("action", "cancel"), *ids([ended])])

    answer = send("/jobs/actions/confirm", [("action", "cancel"), *ids([waiting, ended, UNKNOWN])])

    assert "/console/jobs?notice=many-cancel&n=1&skipped=2" == answer.headers["location"]


def test_an_action_that_has_ended_cannot_be_stopped_and_shows_that(client, send):
    action = client.simulate_post("/cancellations", json={"all": True}).json

    first, second = (send(f"/actions/cancellations/{action['id']}/stop", []) for _ in range(2))

    assert (303, 303) == (first.status_code, second.status_code)
    assert 404 == send(f"/actions/cancellations/{UNKNOWN}/stop", []).status_code
    assert 404 == send(f"/actions/nonsense/{UNKNOWN}/stop", []).status_code
