"""A PostgreSQL that goes silent: one thread waits for it, the others are told at once."""

import pytest
from eventually import eventually

from jobs_service import database as module
from jobs_service.config import Settings
from jobs_service.database import open_database
from jobs_service.errors import DatabaseUnavailable


@pytest.fixture
def database(environ):
    impatient = {"DATABASE_CONNECT_TIMEOUT_SECONDS": "1", "DATABASE_STATEMENT_TIMEOUT_SECONDS": "2"}
    database = open_database(Settings.from_env(environ | impatient))
    yield database
    database.discard()


def test_after_one_silence_nobody_else_waits(database, postgres, monkeypatch):
    monkeypatch.setattr(module, "REFUSE_SECONDS", 60)
    sent = []
    monkeypatch.setattr(
        database, "_run", lambda *statement, run=database._run: sent.append(statement) or run(*statement)
    )
    database.rows("SELECT 1")
    postgres.pause()
    try:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                database.rows("SELECT 2")
    finally:
        postgres.resume()

    assert [("SELECT 1", ()), ("SELECT 2", ())] == sent
    monkeypatch.undo()
    database._answering.may_be_asked_soon()
    assert [(1,)] == eventually(lambda: _answer(database), what="an answer")


def test_a_refused_statement_says_nothing_against_the_server(database):
    database._answering.is_away("gone")
    eventually(lambda: _asks_and_errs(database), what="somebody who asks")

    assert [(1,)] == eventually(lambda: _answer(database), what="an answer")


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
