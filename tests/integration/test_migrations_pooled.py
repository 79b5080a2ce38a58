"""`migrate` through PgBouncer in transaction mode: no two statements of it need the same session."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from databases import opened
from pgbouncer import PgBouncer, needs_pgbouncer

from jobs_service.database.migrations import SEEDS, migrate, read

pytestmark = needs_pgbouncer


@pytest.fixture
def pooled_url(postgres, tmp_path):
    postgres.execute("CREATE DATABASE pooled")
    with PgBouncer(tmp_path, postgres) as pooler:
        yield postgres.url_of("pooled").replace(f":{postgres.port}/", f":{pooler.port}/")
    postgres.execute("DROP DATABASE pooled WITH (FORCE)")


def test_starters_wait_for_each_other_through_a_pooler_too(pooled_url):
    with ThreadPoolExecutor(3) as pool:
        applied = [each.result(120) for each in [pool.submit(_migrate, pooled_url) for _ in range(3)]]

    assert [[], [], [migration.name for migration in read(SEEDS)]] == sorted(applied)


def _migrate(url):
    with opened(url) as database:
        return migrate(database)
