"""The pruner: expired jobs go with their files, in pieces, whatever happens in between."""

import errno
import os
import time

import pytest
from rows import pruner
from time_travel import DAY, set_dates

from jobs_service.errors import DatabaseUnavailable
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle
from jobs_service.maintenance import pruner as pruner_module
from jobs_service.maintenance.service import Turn
from jobs_service.outputs import contract, local as storage_module


def names_in(outputs):
    return [path.name for path in outputs._directory.iterdir() if path.is_file()]


def test_what_is_older_than_its_retention_goes_with_its_file(database, outputs, finish, row):
    [old], [young] = finish(days=8), finish(days=6)

    assert 1 == pruner(database, outputs, completed=7, failed=7).run_once(Turn())["completed"]

    assert (None, "completed") == (row(old, "status"), row(young, "status"))
    assert [f"{young}.csv"] == names_in(outputs)


@pytest.mark.parametrize("days", [-365, 365])
def test_what_is_old_is_old_by_the_clock_of_postgresql(database, outputs, finish, monkeypatch, days):
    finish(days=8)
    [young] = finish(days=6)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + days * 86_400)

    assert 1 == pruner(database, outputs, completed=7).run_once(Turn())["completed"]

    assert [f"{young}.csv"] == names_in(outputs)


def test_a_retention_of_zero_keeps_everything(database, outputs, finish, row):
    [old] = finish(days=3_000)

    pruner(database, outputs, completed=0).run_once(Turn())

    assert "completed" == row(old, "status")


def test_many_are_pruned_in_batches_by_walking_on(database, outputs, finish, monkeypatch):
    monkeypatch.setattr(pruner_module, "BATCH", 3)
    monkeypatch.setattr(pruner_module, "BATCHES", 2)
    finish(days=8, count=14)
    service = pruner(database, outputs, completed=7)

    assert [6, 6, 2, 0] == [service.run_once(Turn())["completed"] for _ in range(4)]
    assert [] == names_in(outputs)


def test_the_walk_begins_anew_at_its_end(database, outputs, finish, monkeypatch):
    monkeypatch.setattr(pruner_module, "BATCH", 2)
    monkeypatch.setattr(pruner_module, "LOOKS", 1)
    ids = finish(days=8, count=3)
    # Old, and finished a moment ago: scheduled for long, or redriven.
    set_dates(database.rows, "jobs", ids[:2], finished_at=0)
    service = pruner(database, outputs, completed=7)

    assert [0, 1] == [service.run_once(Turn())["completed"] for _ in range(2)]
    set_dates(database.rows, "jobs", ids[:2], finished_at=-8 * DAY)
    assert 2 == service.run_once(Turn())["completed"]


def test_a_row_whose_file_was_deleted_by_a_run_that_died_is_pruned_by_the_next(database, outputs, finish, row):
    [old] = finish(days=8)
    outputs.remove([f"{old}.csv"])

    assert 1 == pruner(database, outputs, completed=7).run_once(Turn())["completed"]

    assert row(old, "status") is None


def test_a_large_folder_is_read_a_piece_a_run_and_only_for_jobs_to_delete(database, outputs, finish, monkeypatch):
    monkeypatch.setattr(contract, "_PIECE", 2)
    monkeypatch.setattr(pruner_module, "SEARCH_SHARE", 0)
    finish(days=8, count=3)
    finish(days=6, count=4)
    service = pruner(database, outputs, completed=7)

    # Seven files and the folder of temporary ones, which is no name of a file.
    assert [0, 0, 0, 3] == [service.run_once(Turn())["completed"] for _ in range(4)]
    assert 4 == len(names_in(outputs))
    monkeypatch.setattr(outputs, "search", lambda _: pytest.fail("nothing is expired, and the folder is read"))
    assert 0 == service.run_once(Turn())["completed"]


def test_a_job_that_is_redriven_while_the_folder_is_read_keeps_its_file(database, outputs, finish, row, monkeypatch):
    monkeypatch.setattr(contract, "_PIECE", 1)
    monkeypatch.setattr(pruner_module, "SEARCH_SHARE", 0)
    gone, redriven = finish(days=8, count=2)
    service = pruner(database, outputs, completed=7)
    assert 0 == service.run_once(Turn())["completed"]

    assert lifecycle.redrive(database, redriven)

    assert 1 == sum(service.run_once(Turn())["completed"] for _ in range(3))
    assert [f"{redriven}.csv"] == names_in(outputs)
    assert (None, "pending") == (row(gone, "status"), row(redriven, "status"))


def test_all_files_of_a_job_go_with_it(database, outputs, finish):
    [old], [young] = finish(days=8), finish(days=6)
    for name in (f"{old}.report.txt", f"{young}.txt"):
        outputs.write(name, b"x")

    pruner(database, outputs, completed=7).run_once(Turn())

    assert {f"{young}.csv", f"{young}.txt"} == set(names_in(outputs))


def test_rows_that_postgresql_did_not_delete_are_deleted_by_the_next_run(database, outputs, finish, monkeypatch):
    finish(days=8, count=2)
    service = pruner(database, outputs, completed=7)

    def away(*_, **__):
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(lifecycle, "prune", away)
        with pytest.raises(DatabaseUnavailable):
            service.run_once(Turn())
    assert [] == names_in(outputs)

    assert 2 == service.run_once(Turn())["completed"]
    assert (0,) == database.row("SELECT count(*) FROM jobs")


def test_a_folder_that_cannot_be_read_to_its_end_deletes_nothing(database, outputs, finish, monkeypatch):
    [old] = finish(days=8)
    service = pruner(database, outputs, completed=7)

    def broken(_):
        yield f"{new_id()}.csv"
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(storage_module, "_names", broken)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                service.run_once(Turn())
    assert [f"{old}.csv"] == names_in(outputs)

    assert 1 == service.run_once(Turn())["completed"]
    assert [] == names_in(outputs)
