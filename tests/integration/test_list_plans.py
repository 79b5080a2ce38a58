"""What a page of a list costs, by each index and where no index has all of its filters: on a table of 100,000 jobs."""

from itertools import count

import falcon.testing
import pytest
from plans import FEW_PAGES, Watch, assert_small, fill

from jobs_service.api.app import create_app
from jobs_service.jobs import listing, search

_numbers = count(1)

# At the old end and in the middle: a rare queue and a rare tag, and a tag that every fifth job has.
_SPREAD = """
UPDATE jobs SET
  queue = CASE WHEN place <= 60 OR place BETWEEN 40000 AND 40100 THEN 'mail' ELSE queue END,
  attempts = CASE WHEN place BETWEEN 200 AND 300 THEN 4 ELSE attempts END,
  tags = CASE WHEN place BETWEEN 100 AND 120 THEN ARRAY['rare', 'often'] WHEN place % 5 = 0 THEN ARRAY['often'] END,
  payload = CASE WHEN place BETWEEN 500 AND 520 THEN '{"name": "Zoe"}' ELSE payload END
FROM (SELECT id AS job_id, row_number() OVER (ORDER BY id) AS place FROM jobs) AS places
WHERE id = job_id AND (place % 5 = 0 OR place <= 520 OR place BETWEEN 40000 AND 40100)"""


@pytest.fixture(scope="module", params=["fresh statistics", "statistics of an empty table"])
def full_database_url(request, postgres):
    name = f"test_list_plans_{next(_numbers)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE jobs_template")
    for table in ("jobs", "search_blocks", "search_changes", "job_tags"):
        postgres.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)", name)
    if "empty" in request.param:
        postgres.execute("ANALYZE", name)
    fill(postgres, name)
    postgres.execute(_SPREAD, name)
    # What was written just now is noted as late. It is indexed from the beginning.
    postgres.execute("TRUNCATE search_changes", name)
    if "fresh" in request.param:
        postgres.execute("ANALYZE", name)
    yield postgres.url_of(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(full_database_url):
    return full_database_url


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


@pytest.fixture
def client(settings):
    return falcon.testing.TestClient(create_app(settings))


def read(client, **params):
    reply = client.simulate_get("/jobs", params={"limit": 50} | params)
    assert 200 == reply.status_code, reply.json
    return reply.json


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"queue": "mail"}, 50),
        ({"tag": "rare"}, 21),
        ({"tag": "often"}, 50),
        ({"attempts_min": 2}, 50),
        ({"created_after": "2001-01-01T00:00:00Z"}, 50),
        ({"created_before": "2001-01-01T00:00:00Z"}, 0),
    ],
)
def test_a_filter_with_an_index_reads_a_page(watch, client, params, found):
    watch.clear()

    assert found == len(read(client, **params)["jobs"])

    # Times are tested on the rows, a thousand at once. And while PostgreSQL takes a queue for a small one, it may read
    # all of its entries and sort them.
    rows = 1_300 if {"created_after", "attempts_min", "queue"} & params.keys() else 110
    assert_small(watch, rows=rows, pages=FEW_PAGES + 8 * rows)


#: Combinations that no index has, of which few jobs or none are left.
RARE = [
    {"queue": "mail", "status": "cancelled"},
    {"queue": "mail", "status": "pending", "type": "csv-generation"},
    {"tag": "often", "queue": "mail"},
    {"tag": "often", "attempts_min": 4},
    {"type": "csv-generation", "attempts_min": 90},
    {"status": "completed", "queue": "default", "created_before": "2001-01-01T00:00:00Z"},
    {"queue": "default", "attempts_min": 1, "status": "completed", "type": "EMAIL_SEND"},
]


@pytest.mark.parametrize("params", RARE, ids="-".join)
def test_a_rare_combination_reads_no_more_than_its_share(watch, client, params):
    """Each statement a thousand entries, of each status for lists by type; the page ten such statements."""
    # Without what a first connection asks.
    read(client, limit=1)
    watch.clear()

    read(client, **params)

    assert len(watch.plans) <= listing.SCANNED_JOBS // listing.SCANNED_AT_ONCE
    assert_small(watch, rows=6 * listing.SCANNED_AT_ONCE, pages=12 * listing.SCANNED_AT_ONCE)


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({}, 1_000),
        ({"status": "pending"}, 1_000),
        ({"type": "csv-generation"}, 1_000),
        ({"type": "EMAIL_SEND"}, 100),
        ({"status": "failed"}, 20),
        ({"queue": "mail"}, 161),
        ({"tag": "rare"}, 21),
        ({"tag": "often"}, 1_000),
    ],
)
def test_a_count_walks_the_index_of_the_list(watch, client, params, found):
    count(client, limit=1)
    watch.clear()

    assert {"count": found, "is_capped": found == 1_000} == count(client, **params)

    assert len(watch.plans) == 1
    # A list by type reads so many of each status.
    rows = 5_100 if "type" in params else 1_300
    assert_small(watch, rows=rows, pages=FEW_PAGES + rows)


@pytest.mark.parametrize("params", RARE, ids="-".join)
def test_a_count_of_a_rare_combination_reads_no_more_than_a_page(watch, client, params):
    count(client, limit=1)
    watch.clear()

    count(client, **params)

    assert len(watch.plans) <= listing.SCANNED_JOBS // listing.SCANNED_AT_ONCE
    assert_small(watch, rows=6 * listing.SCANNED_AT_ONCE, pages=12 * listing.SCANNED_AT_ONCE)


def count(client, **params):
    reply = client.simulate_get("/jobs/count", params=params)
    assert 200 == reply.status_code, reply.json
    return reply.json


def test_a_search_reads_the_blocks_that_have_its_words(watch, client, database):
    watch.clear()
    assert [] == read(client, q="zoe")["jobs"]
    # Nothing is indexed yet: the newest ten thousand are read, and the page ends there.
    assert_small(watch, rows=6 * listing.SCANNED_AT_ONCE, pages=12 * listing.SCANNED_AT_ONCE)

    while search.add_blocks(database):
        pass
    watch.clear()
    assert 21 == len(read(client, q="zoe")["jobs"])
    assert_small(watch, rows=2_000, pages=4_000)
    assert 50 == len(read(client, q="alice 95")["jobs"])
    # As many blocks as have the words are told apart, one for 64 jobs.
    assert_small(watch, rows=2_000, pages=6_000)
    assert [] == read(client, q="nobody")["jobs"]
    assert_small(watch, rows=2_000, pages=2_000)


def test_the_index_of_the_search_is_kept_in_small_pieces(watch, database):
    watch.clear()
    database.rows("UPDATE search_progress SET indexed_until = '01890000-0000-7000-8000-000000000000'")
    watch.clear()

    search.add_blocks(database)
    assert_small(watch, rows=70_000, pages=40_000)
    database.rows("INSERT INTO search_changes (job_id) SELECT id FROM jobs ORDER BY id LIMIT 40")
    watch.clear()
    search.renew_blocks(database)

    assert_small(watch, rows=5_000, pages=20_000)
