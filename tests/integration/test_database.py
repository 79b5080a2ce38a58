"""A PostgreSQL that goes silent: one thread waits for it, the others are told at once."""

import time

import pytest
from eventually import eventually

from jobs_service.config import Settings
from jobs_service.database import open_database
from jobs_service.errors import DatabaseUnavailable


@pytest.fixture
def database(environ):
    impatient = {"DATABASE_CONNECT_TIMEOUT_SECONDS": "1", "DATABASE_STATEMENT_TIMEOUT_SECONDS": "2"}
    database = open_database(Settings.from_env(environ | impatient))
    yield database
    database.discard()


def test_after_one_silence_nobody_else_waits(database, postgres):
    database.rows("SELECT 1")
    postgres.pause()
    try:
        waited = _seconds_refused(database)
        at_once = _seconds_refused(database)
    finally:
        postgres.resume()

    assert at_once < waited / 5
    assert [(1,)] == eventually(lambda: _answer(database), what="an answer")


def test_a_refused_statement_says_nothing_against_the_server(database):
    database._answering.is_away("gone")
    eventually(lambda: _asks_and_errs(database), what="somebody who asks")

    assert [(1,)] == eventually(lambda: _answer(database), what="an answer")


def _seconds_refused(database):
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        database.rows("SELECT 1")
    return time.monotonic() - started


def _answer(database):
    try:
        return database.rows("SELECT 1")
    except DatabaseUnavailable:
        return None


def _asks_and_errs(database):
    try:
        database.rows("SELECT nothing_of_this_name")
    except DatabaseUnavailable:
        return False
    except Exception:  # noqa: BLE001 - PostgreSQL answered, which is the point
        return True
    return False
