"""The text search: what it finds, and that nothing is missed while its index is filled."""

import dataclasses
import json
from datetime import UTC, datetime
from uuid import UUID

import falcon.testing
import psycopg2
import pytest
from rows import claim_one
from samples import a_failure, new_job

from jobs_service.api.app import create_app
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle, search
from jobs_service.maintenance.search_index import SearchIndex
from jobs_service.maintenance.service import Turn


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


@pytest.fixture
def find(client):
    """Return the ids of the jobs that a search finds, in all pages."""

    def find(query):
        found, params = [], {"q": query}
        while True:
            reply = client.simulate_get("/jobs", params=params)
            assert 200 == reply.status_code, reply.json
            found += [UUID(job["job_id"]) for job in reply.json["jobs"]]
            if reply.json["next_cursor"] is None:
                return found
            params["cursor"] = reply.json["next_cursor"]

    return find


@pytest.fixture
def written(database):
    """Write a job with this payload, and return its id."""

    def written(payload, **fields):
        job = new_job(payload=json.dumps(payload), **fields)
        lifecycle.submit(database, [job])
        return job.id

    return written


def index(database):
    """Index all jobs that are committed, however new they are."""
    while search.renew_blocks(database):
        pass
    added = 0
    while count := search.add_blocks(database, settle_seconds=-1):
        added += count
    return added


@pytest.fixture(params=["indexed", "not indexed yet"])
def settle(request, database):
    return (lambda: index(database)) if request.param == "indexed" else (lambda: None)


@pytest.mark.parametrize(
    ("payload", "query"),
    [
        ({"to": "Alice.Smith@example.com"}, "alice"),
        ({"to": "Alice.Smith@example.com"}, "SMITH exam"),
        ({"to": "Alice.Smith@example.com"}, "alice.smith@example.com"),
        ({"note": "first line\nsecond\tline"}, "second line"),
        ({"note": 'back\\slash "quoted"'}, "slash quoted"),
        ({"order_4711": 1.5}, "4711 order"),
        ({"name": "École Москва"}, "École Москва"),
        ({"name": "东京 station"}, "东"),
        ({"rows": [{"deep": ["needle"]}]}, "needle"),
    ],
)
def test_words_are_found(find, written, settle, payload, query):
    wanted = written(payload)
    written({"to": "bob@example.org"})
    settle()

    assert [wanted] == find(query)


@pytest.mark.parametrize(
    "query", ["lice", "alice bob", "a%e", "alic_", "alice'", ".*", "a|b", "alice!*", "\\", "' | 'a"]
)
def test_patterns_and_operators_are_no_more_than_their_words(client, written, settle, query):
    """Neither LIKE's wildcards, nor those of regular expressions or of tsquery."""
    job_id = written({"to": "alice"})
    settle()

    reply = client.simulate_get("/jobs", params={"q": query})

    words = "".join(letter if letter.isalnum() else " " for letter in query).split()
    assert reply.status_code == (200 if words else 422)
    if words:
        expected = [str(job_id)] if all("alice".startswith(word) or "to".startswith(word) for word in words) else []
        assert expected == [job["job_id"] for job in reply.json["jobs"]]


def test_an_error_is_found_when_it_is_written_and_not_after(find, database, written, worker_id):
    job_id = written({})
    assert 1 == index(database)
    claim = claim_one(database, job_id, worker_id)

    lifecycle.retry(database, claim, a_failure(message="Connection refused by mail.example.com"), delay_seconds=0)
    assert [job_id] == find("refused")
    index(database)
    assert [job_id] == find("refused")

    lifecycle.complete(database, [(claim_one(database, job_id, worker_id), "1")])
    assert [] == find("refused")


def test_a_payload_that_is_changed_by_hand_is_found(find, database, written):
    job_id = written({"a": "before"})
    index(database)

    database.rows("""UPDATE jobs SET payload = '{"a": "after"}' WHERE id = %s""", (job_id,))
    assert ([job_id], []) == (find("after"), find("before"))
    index(database)
    assert ([job_id], []) == (find("after"), find("before"))


def test_a_job_with_an_older_id_than_the_indexed_ones_is_found(find, database, written):
    """In a block's range, behind all blocks, and before them."""
    year = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
    first, last = written({"a": "x"}, id=new_id(year)), written({"a": "x"}, id=new_id(year + 20))
    index(database)
    late = [written({"a": "late"}, id=new_id(year + seconds)) for seconds in (-10, 10, 30)]

    assert late[::-1] == find("late")
    index(database)
    assert late[::-1] == find("late")
    assert [late[2], last, late[1], first, late[0]] == find("a")


def test_a_transaction_that_is_still_open_loses_no_job(find, database, database_url, written):
    """Its job has an older id than those that are committed, and is committed when they are indexed."""
    with psycopg2.connect(database_url) as slow:
        job = new_job()
        with slow.cursor() as cursor:
            cursor.execute(
                """INSERT INTO jobs (id, type, status, payload) VALUES (%s, 'x', 'pending', '{"a": "slow"}')""",
                (str(job.id),),
            )
        other = written({"a": "quick"})
        assert 0 == index(database)
        assert ([other], []) == (find("quick"), find("slow"))
    slow.close()

    assert ([other], [job.id]) == (find("quick"), find("slow"))
    assert 2 == index(database)
    assert ([other], [job.id]) == (find("quick"), find("slow"))


def test_a_deleted_job_leaves_no_word(find, database, written):
    kept, deleted = written({"a": "kept"}), written({"a": "secret"})
    index(database)
    assert words(database) == {"a", "kept", "secret"}

    database.rows("DELETE FROM jobs WHERE id = %s", (deleted,))
    index(database)
    assert words(database) == {"a", "kept"}
    assert [kept] == find("kept")

    database.rows("DELETE FROM jobs")
    index(database)
    assert [] == database.rows("SELECT * FROM search_blocks")


def words(database):
    return {word for (found,) in database.rows("SELECT tsvector_to_array(words) FROM search_blocks") for word in found}


def test_many_blocks_are_read_in_order_and_page_by_page(find, database, monkeypatch):
    monkeypatch.setattr("jobs_service.jobs.listing.BLOCKS_AT_ONCE", 2)
    jobs = [new_job(payload=json.dumps({"n": f"n{number}", "odd": number % 2})) for number in range(700)]
    lifecycle.submit(database, jobs)
    index(database)
    assert [(11,)] == database.rows("SELECT count(*) FROM search_blocks")

    in_order = sorted((job.id for job in jobs), reverse=True)
    assert in_order == find("odd")
    assert [jobs[655].id] == find("n655 odd 1")
    assert [jobs[699].id] == find("n699")


def test_a_text_with_more_words_than_fit_is_found(find, database, written):
    job_id = written({"text": " ".join(f"word{number}" for number in range(50_000)), "last": "needle"})
    other = written({"text": "needle"})
    index(database)

    assert [other, job_id] == find("needle")
    assert [job_id] == find("word49999")
    assert [(1,)] == database.rows("SELECT count(*) FROM search_blocks WHERE words IS NULL")


def test_a_changed_range_with_very_many_jobs_is_indexed_in_pieces(find, database, written, monkeypatch):
    monkeypatch.setattr(search, "RANGE_JOBS", 10)
    year = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
    written({"a": "x"}, id=new_id(year)), written({"a": "x"}, id=new_id(year + 90))
    index(database)
    late = [written({"a": f"late{number}"}, id=new_id(year + 1 + number)) for number in range(55)]

    index(database)

    assert late[::-1] == find("late")
    assert [late[54]] == find("late54")
    assert [] == database.rows("SELECT FROM search_blocks WHERE words IS NULL")


def test_without_the_search_a_query_is_refused_and_the_index_is_deleted(settings, database, written, find):
    written({"a": "x"})
    index(database)
    client = falcon.testing.TestClient(create_app(dataclasses.replace(settings, search="off")))

    reply = client.simulate_get("/jobs?q=x")
    assert (422, "q") == (reply.status_code, reply.json["errors"][0]["pointer"])
    assert "SEARCH is off" in reply.json["detail"]

    SearchIndex(database, interval_seconds=1, is_on=False).run_once(Turn())
    assert [] == database.rows("SELECT FROM search_blocks UNION ALL SELECT FROM search_changes")
    # A process that still has it on finds the job, and the index begins anew.
    assert 1 == len(find("x"))
    assert 1 == index(database)
    assert 1 == len(find("x"))


def test_a_run_of_maintenance_indexes_what_has_settled(database, written):
    written({"a": "new"})
    old = written({"a": "old"}, id=new_id(datetime(2025, 1, 1, tzinfo=UTC).timestamp()))

    assert {"renewed": 1, "added": 1} == SearchIndex(database, interval_seconds=1, is_on=True).run_once(Turn())
    assert [(old,)] == database.rows("SELECT last_id FROM search_blocks")


def test_a_database_that_was_restored_on_another_server_is_indexed(database, written):
    """Its transactions are numbered from the beginning again."""
    written({"a": "x"})
    database.rows("UPDATE search_progress SET next_until = indexed_until, next_xid = '4611686018427387904'")

    assert 1 == index(database)


def test_a_leader_that_was_replaced_changes_nothing(database, written):
    written({"a": "x"}, id=new_id(datetime(2025, 1, 1, tzinfo=UTC).timestamp()))

    assert {"renewed": 0, "added": 0} == SearchIndex(database, interval_seconds=1, is_on=True).run_once(Turn(fence=7))
    assert [] == database.rows("SELECT FROM search_blocks")
