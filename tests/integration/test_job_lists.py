"""`GET /jobs`: every filter and every combination, and pages while jobs move."""

import itertools
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import falcon.testing
import pytest
from rows import claim_one, complete_one
from samples import a_failure, new_job

from jobs_service.api.app import create_app
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle, listing, search
from jobs_service.jobs.lifecycle import EndReason

T = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def pages(client):
    """Read a list to its end, and return its pages as lists of ids."""

    def pages(**params):
        found, cursor = [], None
        while cursor is not None or not found:
            reply = client.simulate_get("/jobs", params=params | ({"cursor": cursor} if cursor else {}))
            assert 200 == reply.status_code, reply.json
            found.append([job["job_id"] for job in reply.json["jobs"]])
            cursor = reply.json["next_cursor"]
            assert (cursor is None) == ("Link" not in reply.headers)
        return found

    return pages


@pytest.fixture
def ids(pages):
    return lambda **params: [job_id for page in pages(**params) for job_id in page]


def submit_at(database, moment, *, tags=None, **fields):
    """Write a job that was submitted at this moment."""
    job = new_job(id=new_id(moment.timestamp()), **fields)
    lifecycle.submit(database, [job])
    database.rows(
        "UPDATE jobs SET created_at = %s, tags = %s WHERE id = %s", (moment.replace(tzinfo=None), tags, job.id)
    )
    return job.id


@pytest.fixture
def jobs(database, worker_id):
    """Jobs of every kind: (id, what the filters are about) of each, the oldest first."""
    kinds = itertools.product(["csv-generation", "EMAIL_SEND"], ["default", "mail"], [None, ["a"], ["a", "b"]])
    written = []
    for number, (job_type, queue, tags) in enumerate(kinds):
        for status in ("pending", "completed", "failed"):
            moment = T + timedelta(minutes=len(written))
            payload = json.dumps({"to": f"alice{number % 3}@example.com"})
            job_id = submit_at(database, moment, type=job_type, queue=queue, tags=tags, payload=payload)
            attempts = 0
            if status != "pending":
                claim = claim_one(database, job_id, worker_id)
                attempts = 1
                if number % 2:
                    lifecycle.retry(database, claim, a_failure(message="first try"), delay_seconds=-1)
                    claim, attempts = claim_one(database, job_id, worker_id), 2
                if status == "completed":
                    complete_one(database, claim, "1")
                else:
                    lifecycle.fail(database, claim, a_failure(message="Connection refused"), reason=EndReason.REJECTED)
            facts = {"type": job_type, "queue": queue, "tags": tags or [], "status": status, "attempts": attempts}
            words = f"to alice{number % 3} example com {'connection refused' if status == 'failed' else ''}"
            written.append((str(job_id), facts | {"created_at": moment, "words": words}))
    return written


#: Parameter -> (some values, whether a job matches one of them).
FILTERS = {
    "status": (["pending", "completed", "failed"], lambda facts, value: facts["status"] == value),
    "type": (["csv-generation", "email-send"], lambda facts, value: facts["type"].lower().replace("_", "-") == value),
    "queue": (["default", "mail"], lambda facts, value: facts["queue"] == value),
    "tag": (["a", "b"], lambda facts, value: value in facts["tags"]),
    "created_after": ([T + timedelta(minutes=7)], lambda facts, value: facts["created_at"] >= value),
    "created_before": ([T + timedelta(minutes=30)], lambda facts, value: facts["created_at"] < value),
    "attempts_min": ([1, 2], lambda facts, value: facts["attempts"] >= value),
    "q": (
        ["ALICE1", "alice conn", "alice2@example.com"],
        lambda facts, value: all(
            any(word.startswith(part) for word in facts["words"].split())
            for part in value.lower().replace("@", " ").replace(".", " ").split()
        ),
    ),
}


def test_every_combination_of_filters(client, jobs, database):
    """Once with an index of all words, and once with no word indexed."""
    for index in (lambda: None, lambda: index_all(database)):
        index()
        for names in itertools.chain.from_iterable(itertools.combinations(FILTERS, size) for size in (0, 1, 2, 3, 8)):
            values = {name: FILTERS[name][0][hash_of(names) % len(FILTERS[name][0])] for name in names}
            expected = [
                job_id for job_id, facts in reversed(jobs) if all(FILTERS[n][1](facts, v) for n, v in values.items())
            ]

            reply = client.simulate_get("/jobs", params={n: shown(v) for n, v in values.items()} | {"limit": 200})

            assert (200, expected) == (reply.status_code, [job["job_id"] for job in reply.json["jobs"]]), values
            assert reply.json["next_cursor"] is None
            assert {"count": len(expected), "is_capped": False} == count(
                client, {n: shown(v) for n, v in values.items()}
            )


def count(client, params):
    reply = client.simulate_get("/jobs/count", params=params)
    assert 200 == reply.status_code, reply.json
    return reply.json


@pytest.mark.parametrize("params", [{}, {"tag": "a"}, {"queue": "mail"}, {"type": "EMAIL_SEND"}, {"q": "alice"}])
@pytest.mark.usefixtures("jobs")
def test_jobs_are_counted_to_a_limit(client, ids, params):
    there = len(ids(**params, limit=200))

    assert {"count": there, "is_capped": False} == count(client, params | {"limit": there})
    assert {"count": there - 1, "is_capped": True} == count(client, params | {"limit": there - 1})
    assert {"count": 1, "is_capped": True} == count(client, params | {"limit": 1})


@pytest.mark.usefixtures("jobs")
def test_a_count_that_read_its_share_says_that_there_may_be_more(client, ids, monkeypatch):
    monkeypatch.setattr(listing, "SCANNED_JOBS", 6)
    monkeypatch.setattr(listing, "SCANNED_AT_ONCE", 3)

    counted = count(client, {"queue": "default", "tag": "b"})

    assert counted["is_capped"]
    assert counted["count"] < len(ids(queue="default", tag="b"))


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "cursor=x", "created_after=yesterday", "type=nope"])
def test_a_bad_parameter_of_a_count_is_named(client, query):
    reply = client.simulate_get("/jobs/count", query_string=query)

    assert (422, query.partition("=")[0]) == (reply.status_code, reply.json["errors"][0]["pointer"])


def hash_of(names):
    return sum(len(name) * (place + 1) for place, name in enumerate(names))


def shown(value):
    return value.isoformat() if isinstance(value, datetime) else value


def index_all(database):
    while search.renew_blocks(database):
        pass
    while search.add_blocks(database, settle_seconds=-60):
        pass


@pytest.mark.parametrize("params", [{}, {"tag": "a"}, {"queue": "mail"}, {"type": "EMAIL_SEND"}, {"q": "alice"}])
@pytest.mark.usefixtures("jobs")
def test_pages_are_parts_of_the_list(pages, ids, params):
    whole = ids(**params, limit=200)

    for limit in (1, 7):
        found = pages(**params, limit=limit)
        assert whole == [job_id for page in found for job_id in page]
        assert all(len(page) == limit for page in found[:-1])


def test_a_page_reads_a_limited_number_of_jobs_and_says_where_to_go_on(pages, jobs, monkeypatch):
    monkeypatch.setattr(listing, "SCANNED_JOBS", 6)
    monkeypatch.setattr(listing, "SCANNED_AT_ONCE", 3)

    found = pages(queue="default", tag="b")

    expected = [i for i, facts in reversed(jobs) if facts["queue"] == "default" and "b" in facts["tags"]]
    assert expected == [job_id for page in found for job_id in page]
    assert len(found) > 2


@pytest.mark.parametrize(
    "other", [{"status": "failed"}, {"tag": "b"}, {"q": "x"}, {"created_after": T.isoformat()}, {"attempts_min": 0}]
)
@pytest.mark.usefixtures("jobs")
def test_a_cursor_belongs_to_its_filters(client, other):
    cursor = client.simulate_get("/jobs", params={"tag": "a", "limit": 1}).json["next_cursor"]

    same = client.simulate_get("/jobs", params={"tag": "a", "limit": 5, "cursor": cursor})
    refused = client.simulate_get("/jobs", params={"tag": "a", "cursor": cursor} | other)

    assert 200 == same.status_code
    assert (422, "cursor") == (refused.status_code, refused.json["errors"][0]["pointer"])
    assert "other filters" in refused.json["detail"]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-11-26T09:00:00", "created_after"),
        ("attempts_min=-1", "attempts_min"),
        ("attempts_min=99999999999999999999", "attempts_min"),
        ("q=", "q"),
        ("q=%25_.*", "q"),
        (f"q={'a' * 201}", "q"),
        ("q=" + "+".join(f"w{n}" for n in range(11)), "q"),
        (f"tag={'a' * 65}", "tag"),
        (f"queue={'a' * 51}", "queue"),
        (f"cursor={'A' * 201}", "cursor"),
        (f"cursor={'A' * 32}", "cursor"),
        ("q=%00", "q"),
    ],
)
def test_a_bad_filter_is_named(client, query, pointer):
    reply = client.simulate_get("/jobs", query_string=query)

    assert (422, pointer) == (reply.status_code, reply.json["errors"][0]["pointer"]), reply.json


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("created_after=0001-01-01T00:00:00%2B23:59", 1),
        ("created_before=0001-01-01T00:00:00%2B23:59", 0),
        ("created_after=9999-12-31T23:59:59-23:59", 0),
        ("created_before=9999-12-31T23:59:59-23:59", 1),
    ],
)
def test_the_first_and_the_last_year_can_be_asked_for(client, submit, query, found):
    submit()

    reply = client.simulate_get("/jobs", query_string=query)

    assert 200 == reply.status_code, reply.json
    assert found == len(reply.json["jobs"])


@pytest.mark.parametrize("name", ["tag", "queue"])
def test_a_text_that_postgresql_cannot_have_is_refused(client, name):
    assert 422 == client.simulate_get("/jobs", query_string=f"{name}=a%00b").status_code


def test_pages_while_jobs_are_added_change_their_status_and_are_deleted(client, database, worker_id):
    """A job that matches throughout is listed exactly once; every other one at most once, and only where it matched."""
    written = [submit_at(database, T + timedelta(seconds=number)) for number in range(60)]
    found, cursor, gone, moved = [], None, set(), set()
    for turn in itertools.count():
        params = {"status": "pending", "limit": 7} | ({"cursor": cursor} if cursor else {})
        reply = client.simulate_get("/jobs", params=params).json
        assert {"pending"} <= {job["status"] for job in reply["jobs"]} or not reply["jobs"]
        found += [UUID(job["job_id"]) for job in reply["jobs"]]
        cursor = reply["next_cursor"]
        if cursor is None:
            break
        # New jobs at both ends and in the middle, some that leave the list, one that leaves it and comes back, one
        # that is deleted: the last of the page that was read is among them.
        submit_at(database, T + timedelta(hours=1, seconds=turn))
        moved.add(found[-1])
        claim = claim_one(database, found[-1], worker_id)
        if turn % 2:
            lifecycle.retry(database, claim, a_failure(), delay_seconds=0)
        moved.add(written[turn])
        claim_one(database, written[turn], worker_id)
        gone.add(written[20 + turn])
        database.rows("DELETE FROM jobs WHERE id = %s", (written[20 + turn],))

    assert len(found) == len(set(found))
    assert set(written) - gone - moved <= set(found)
    assert sorted(found, reverse=True) == found


def test_tags_are_listed_as_they_are_changed_and_deleted(ids, database):
    job_id = submit_at(database, T, tags=["x", "x"])
    assert [str(job_id)] == ids(tag="x")

    database.rows("UPDATE jobs SET tags = ARRAY['y'] WHERE id = %s", (job_id,))
    assert ([], [str(job_id)]) == (ids(tag="x"), ids(tag="y"))

    database.rows("DELETE FROM jobs WHERE id = %s", (job_id,))
    assert [] == database.rows("SELECT * FROM job_tags")


def test_a_job_costs_the_index_of_tags_and_words_nothing(database, worker_id):
    job = new_job()
    lifecycle.submit(database, [job])
    complete_one(database, claim_one(database, job.id, worker_id), "1")

    assert [] == database.rows("SELECT tag FROM job_tags UNION ALL SELECT job_id::text FROM search_changes")


def test_a_job_of_an_unknown_id_version_is_listed(ids, database):
    job_id = uuid4()
    database.rows("INSERT INTO jobs (id, type, status, payload) VALUES (%s, 'x', 'pending', '{}')", (job_id,))

    assert [str(job_id)] == ids()
