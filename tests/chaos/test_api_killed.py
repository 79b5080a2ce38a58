"""Fault 1: an API process is killed around the commit of a job, or is refused what it asks for just then."""

import pytest
from eventually import eventually


@pytest.mark.parametrize("place", ["api.before_commit", "api.after_commit", "api.after_publish"])
def test_a_job_of_a_killed_api_process_is_whole_or_not_there(stack, place):
    """Gunicorn starts another process; what was committed runs, though the client never got its answer."""
    stack.start(api={"FAILPOINTS": f"{place}=kill once"})

    assert stack.submit("csv-generation", {"name": "Alice", "score": 95}) is None
    stack.strike()
    assert eventually(stack.submit, what="an accepted job")
    stack.settle()

    found = stack.sql("SELECT count(*) FROM jobs WHERE type = 'csv-generation'")[0][0]
    assert found == (0 if place == "api.before_commit" else 1)
    eventually(lambda: not stack.sql("SELECT id FROM jobs WHERE finished_at IS NULL"), what="the end of every job")


def test_all_api_processes_killed_under_load_lose_nothing_they_accepted(stack):
    stack.start()
    api = stack.service.children[0]
    stack.submit_load(16)

    stack.strike()
    api.kill()
    assert stack.submit() is None
    stack.service.start_api()

    assert stack.submit()
