"""Ordinary attempts run together, a suspect alone."""

import threading

import pytest

from jobs_service.company import Company


@pytest.fixture
def company():
    return Company()


def in_thread(*steps):
    """Run steps in a thread; return an event that is set once they are through."""
    through = threading.Event()

    def run():
        for step in steps:
            step()
        through.set()

    threading.Thread(target=run, daemon=True).start()
    return through


def test_one_who_is_there_by_himself_is_alone_at_once(company):
    company.join()

    assert company.is_alone_at_once()
    joined = in_thread(company.join)
    assert not joined.wait(0.05)
    company.leave()
    assert joined.wait(5)


def test_one_in_company_is_not_alone_at_once(company):
    in_thread(company.join).wait(5)
    company.join()

    assert not company.is_alone_at_once()
    assert in_thread(company.join).wait(5)


def test_many_are_there_together(company):
    assert all(in_thread(company.join).wait(5) for _ in range(8))


def test_a_suspect_waits_for_the_others_to_leave(company):
    company.join()
    alone = in_thread(company.join, company.be_alone)

    assert not alone.wait(0.05)
    company.leave()
    assert alone.wait(5)


def test_nobody_joins_a_suspect_or_one_that_waits_to_be_alone(company):
    company.join()
    go = threading.Event()
    alone = in_thread(company.join, company.be_alone, go.wait, company.leave)
    while not company._wanting:
        pass

    latecomer = in_thread(company.join)

    assert not latecomer.wait(0.05)
    company.leave()
    assert not alone.is_set()
    assert not latecomer.is_set()
    go.set()
    assert alone.wait(5)
    assert latecomer.wait(5)


def test_suspects_take_turns(company):
    go = threading.Event()
    both = [in_thread(company.join, company.be_alone, go.wait, company.leave) for _ in range(2)]

    go.set()

    assert all(event.wait(5) for event in both)
    assert (0, 0, False) == (company._present, company._wanting, company._taken)
