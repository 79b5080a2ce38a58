"""The limits on what a client may send, one test each: refused with a clear 4xx, or made harmless.

More about them is in test_bodies.py, test_bodies_fuzz.py, test_mail_fuzz.py and test_csv_fuzz.py; slow clients, and
what is not HTTP, in test_hostile_requests.py and tests/chaos/test_slow_clients.py.
"""

import csv
import json
from uuid import UUID

import falcon.testing
import pytest

from jobs_service.api.app import create_app
from jobs_service.api.resources.job_pages import PAGE_BYTES
from jobs_service.jobs import listing
from jobs_service.jobs.job_types import JobContext, registry
from jobs_service.outputs.local import LocalOutputs


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def post(client):
    """Post text as it is."""

    def post(body):
        return client.simulate_post("/jobs", body=body, headers={"Content-Type": "application/json"})

    return post


def job(payload):
    return f'{{"type":"csv-generation","payload":{payload}}}'


def holding(value):
    return job(f'{{"a":{value}}}')


def mail(**fields):
    payload = {"to": "a@b.example", "subject": "s", "body": "b"} | fields
    return json.dumps({"type": "EMAIL_SEND", "payload": payload})


def assert_refused(reply, status, says, pointer=""):
    """The answer is a problem that says what is wrong, and where."""
    assert status == reply.status_code, reply.text
    assert "application/problem+json" == reply.headers["Content-Type"]
    assert says in reply.json["detail"]
    assert [pointer] == [error["pointer"] for error in reply.json.get("errors", [{"pointer": ""}])]


def test_a_body_beyond_the_limit(post, settings):
    text = "x" * (settings.max_body_bytes - len(holding('""')))
    fits = holding(f'"{text}"')

    assert 201 == post(fits).status_code
    assert_refused(post(fits + " "), 413, f"at most {settings.max_body_bytes} bytes")


def pages_of(client, limit):
    """Follow the cursors from the newest job on, and return the pages' answers."""
    pages, cursor = [], {}
    while cursor is not None:
        pages.append(client.simulate_get("/jobs", params={"limit": limit, **cursor}))
        following = pages[-1].json["next_cursor"]
        cursor = following and {"cursor": following}
    return pages


def ids_of(pages):
    return [job["job_id"] for page in pages for job in page.json["jobs"]]


def test_a_page_of_large_jobs_ends_early(client, post):
    large = holding(f'"{"x" * 1_000_000}"')
    posted = [post(large).json["job_id"] for _ in range(10)]

    pages = pages_of(client, limit=200)

    assert [9, 1] == [len(page.json["jobs"]) for page in pages]
    assert all(len(page.content) < PAGE_BYTES + len(large) + 10_000 for page in pages)
    assert sorted(posted, reverse=True) == ids_of(pages)


def test_a_job_larger_than_a_page_is_a_page(client, post, monkeypatch):
    monkeypatch.setattr("jobs_service.api.resources.job_pages.PAGE_BYTES", 1)
    posted = [post(job("{}")).json["job_id"] for _ in range(3)]

    pages = pages_of(client, limit=2)

    assert [1, 1, 1] == [len(page.json["jobs"]) for page in pages]
    assert sorted(posted, reverse=True) == ids_of(pages)


@pytest.mark.parametrize("limit", [19, 20, 21, 40, 200])
def test_a_page_of_more_jobs_than_are_read_at_once_is_whole(client, post, limit):
    posted = [post(job("{}")).json["job_id"] for _ in range(41)]

    pages = pages_of(client, limit)

    assert sorted(posted, reverse=True) == ids_of(pages)
    assert -(-41 // limit) == len(pages)


def test_a_depth_beyond_the_limit(post):
    assert 201 == post(holding("[" * 30 + "]" * 30)).status_code
    assert_refused(post(holding("[" * 31 + "]" * 31)), 400, "nested more than 32 deep")
    assert_refused(post(job("[" * 200_000)), 400, "nested more than 32 deep")


@pytest.mark.parametrize(
    "number", ["1e64", "-1e308", "1e400", "-1e400", "1e-64", "4.9e-324", "1" * 65, "1e9999999999999999999"]
)
def test_numbers_whose_digits_would_fill_pages(post, number):
    assert_refused(post(holding(number)), 422, "between 1e-64 and 1e64", "/payload/a")
    assert 201 == post(holding("9.9e63")).status_code
    assert 201 == post(holding("0.0")).status_code


def test_a_name_twice_behind_very_many_others(post):
    names = ",".join(f'"{number}":0' for number in range(50_000))

    assert_refused(post(job("{" + names + ',"49999":1}')), 400, "'49999' occurs more than once")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity(post, number):
    assert_refused(post(holding(number)), 400, f"{number} is not a JSON number")


def test_a_number_with_very_many_digits(post):
    assert_refused(post(holding("1" * 4_400)), 422, "at most 1000 characters", "/payload/a")
    assert 201 == post(holding("1." + "3" * 998)).status_code


@pytest.mark.parametrize("zero", ["0e99999", "-0e-99999", "0e-2147483648"])
def test_a_zero_that_postgresql_would_write_out_or_not_read(post, zero):
    assert_refused(post(holding(zero)), 422, "between 1e-64 and 1e64", "/payload/a")
    assert 201 == post(holding("0e-1000")).status_code


def test_nul_characters(post):
    assert_refused(post(job(r'{"a":"x\u0000y"}')), 422, "must not contain NUL characters", "/payload/a")


@pytest.mark.parametrize("text", [r"\ud800", r"\udc00\ud800", r"a\udfff"])
def test_lone_surrogates(post, text):
    assert_refused(post(holding(f'"{text}"')), 422, "must not contain lone surrogates", "/payload/a")


@pytest.mark.parametrize("body", [job('{"a":1,"a":2}'), job(r'{"a":1,"\u0061":2}'), '{"type":"x","type":"y"}'])
def test_names_that_stand_twice(post, body):
    assert_refused(post(body), 400, "occurs more than once in one object")


@pytest.mark.parametrize(
    "field",
    [{"subject": "s\r\nBcc: x@y.example"}, {"to": "a@b.example\nBcc: x@y.example"}, {"reply_to": "a@b\r.example"}],
)
def test_headers_added_to_a_mail(post, field):
    [name] = field

    assert_refused(post(mail(**field)), 422, "expected", f"/payload/{name}")


def test_headers_added_to_an_answer(client, post):
    """What comes from the client into the head of an answer: the request id, and the parameters in `Link`."""
    for _ in range(2):
        post(job("{}"))

    reply = client.simulate_get("/jobs?limit=1&type=CSV_generation", headers={"X-Request-ID": "a b"})
    refused = client.simulate_get("/jobs", query_string="cursor=%0d%0aSet-Cookie:%20a=b")

    assert " " not in reply.headers["X-Request-ID"]
    assert_refused(refused, 422, "expected the next_cursor", "cursor")
    assert not any(set("\r\n") & set(value) for value in (*reply.headers.values(), *refused.headers.values()))


@pytest.mark.parametrize(
    "to", ["a@b.example,c@d.example", "a@b.example c@d.example", "<a@b.example>", "A <a@b.example>"]
)
def test_several_addresses_in_one(post, to):
    assert_refused(post(mail(to=to)), 422, "expected", "/payload/to")


@pytest.mark.parametrize("formula", ["=1+1", "+1+A1", "-1-A1", "@SUM(A1)", "\t=1", "\uff1d1", "x\n=1"])
def test_csv_formulas_are_written_as_text(post, row, tmp_path, formula):
    job_id = UUID(post(job(json.dumps({formula: formula}))).json["job_id"])
    outputs = LocalOutputs(tmp_path)
    job_type = registry.get("csv-generation")

    job_type.function(job_type.decode(row(job_id, "payload")), JobContext(job_id, 1, outputs, mailer=None))

    with (tmp_path / f"{job_id}.csv").open(newline="") as file:
        cells = list(csv.reader(file))[1]
    assert [formula] * 2 == [cell.replace("'", "") for cell in cells]
    assert not any(line.lstrip().startswith(tuple("=+-@\uff1d")) for cell in cells for line in cell.splitlines())


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/../../etc/passwd",
        "/jobs/..%2f..%2fetc%2fpasswd",
        "/jobs/%2e%2e/%2e%2e/etc/passwd",
        "/jobs/%00",
        "/jobs/..\\..\\x",
        "/output/x.csv",
        "/jobs/01a20e7c-c682-7586-8ed8-78a477572b4b.csv",
    ],
)
def test_path_tricks_in_a_url(client, path):
    assert 404 == client.simulate_get(path).status_code


def test_a_path_with_two_slashes_makes_no_link_to_another_host(client, post):
    for _ in range(2):
        post(job("{}"))

    reply = client.simulate_get("//jobs?limit=1")

    assert reply.headers["Link"].startswith("</jobs?limit=1&cursor=")


def test_path_tricks_in_a_payload_name_no_file(post, row, tmp_path):
    """A file is named by its job's id and nothing else."""
    payload = {"../../x": "../../y", "filename": "/etc/passwd", "job_id": "../z"}
    job_id = UUID(post(job(json.dumps(payload))).json["job_id"])
    job_type = registry.get("csv-generation")

    job_type.function(
        job_type.decode(row(job_id, "payload")), JobContext(job_id, 1, LocalOutputs(tmp_path / "output"), None)
    )

    assert [tmp_path / "output" / f"{job_id}.csv"] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_page_is_read_in_two_statements_when_its_jobs_are_small_and_in_pieces_when_they_are_large(
    post, client, monkeypatch
):
    asked = []
    read_page = listing._read_page
    monkeypatch.setattr(
        listing, "_read_page", lambda *given, **named: asked.append(named["limit"]) or read_page(*given, **named)
    )
    for _ in range(60):
        post(job("{}"))

    client.simulate_get("/jobs?limit=59")
    assert [20, 40] == asked

    asked.clear()
    monkeypatch.setattr(listing, "_BYTES_AT_ONCE", 1)
    client.simulate_get("/jobs?limit=59")
    assert [20, 20, 20] == asked
