"""A fault of our own: the clocks of API and workers are off, each in its own direction. PostgreSQL's decides."""

import urllib.error
from datetime import timedelta

import pytest
from eventually import eventually
from service import Service
from time_travel import set_dates

HOUR, DAY = 3_600, 86_400

OFFSET = "jobs_clock_offset_seconds"

#: Loaded by every Python process that finds it on its path.
SITE = """
import os, time
seconds = int(os.environ.get("CLOCK_OFF_BY", "0"))
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + seconds
time.time_ns = lambda: real_ns() + seconds * 10**9
"""


@pytest.fixture
def clocks(stack, tmp_path):
    """Have every process that starts obey CLOCK_OFF_BY."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    stack.service.environ["PYTHONPATH"] = f"{site}:{stack.service.environ['PYTHONPATH']}"


@pytest.mark.usefixtures("clocks")
@pytest.mark.parametrize("seconds", [-DAY, -HOUR, HOUR, DAY])
def test_nothing_is_early_late_or_lost_by_a_wrong_clock(stack, seconds):
    stack.strike()
    stack.start(api={"CLOCK_OFF_BY": str(seconds)}, CLOCK_OFF_BY=str(-seconds))
    stack.submit_load(16)
    late = stack.submit(delay_seconds=1)
    dated = stack.submit(run_at=(by_postgresql(stack) + timedelta(seconds=1)).isoformat())
    stack.settle()

    for job_id in (late, dated):
        assert stack.job(job_id)["started_at"] >= stack.job(job_id)["run_at"]
    assert stack.sql("SELECT max(worker_losses) FROM jobs") == [(0,)]


@pytest.mark.usefixtures("clocks")
@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_dates_are_judged_by_the_clock_of_postgresql(stack, seconds):
    """What an API's clock would call due, late or expired, and is not; and the other way round."""
    stack.service.start_api(CLOCK_OFF_BY=str(seconds))
    now, half_an_hour = by_postgresql(stack), timedelta(minutes=30)

    dated = stack.submit(run_at=(now + half_an_hour).isoformat())
    kept = stack.submit(expires_at=(now + half_an_hour).isoformat(), run_at=(now + half_an_hour / 2).isoformat())
    expired = {"type": "test-effect", "payload": {}, "expires_at": (now - half_an_hour).isoformat()}
    status, refusal = stack.service.request("POST", "/jobs", expired)

    assert (422, "/expires_at") == (status, refusal["errors"][0]["pointer"])
    offsets = [value for name, value in stack.service.metrics(stack.service.api_port).items() if OFFSET in name]
    # To the minute: an answer may take as long as the machine makes it.
    assert [seconds] == [pytest.approx(offset, abs=60) for offset in offsets]
    assert [(2,)] == stack.sql("SELECT count(*) FROM jobs")
    with stack.redis() as client:
        assert 0 == client.zcard("jobs:queue:{default}:test-effect"), "a message before its job is due leads to nothing"
    assert stack.job(dated)["publish_at"] == stack.job(dated)["run_at"]
    # The point is made: half an hour is too long for a test.
    set_dates(stack.sql, "jobs", run_at=0, publish_at=0, expires_at=None)
    stack.service.start_worker()
    stack.until_ended([dated, kept])


@pytest.mark.usefixtures("clocks")
def test_jobs_of_two_apis_wait_in_the_order_of_their_acceptance(stack, tmp_path):
    stack.service.start_api(CLOCK_OFF_BY=str(HOUR))
    other = Service(stack.service.environ, tmp_path / "other")
    other.folder.mkdir()
    try:
        other.environ["API_PORT"] = str(other.api_port)
        other.start_api(CLOCK_OFF_BY=str(-HOUR))
        for number in range(8):
            post_to(other, stack) if number % 2 else stack.submit()
            until_later(stack)
        pending = "/jobs?limit=5&status=pending&type=test-effect"
        status, page = stack.service.get(pending)
        rest = stack.service.get(f"{pending}&cursor={page['next_cursor']}")[1]
    finally:
        other.stop()

    listed = [job["job_id"] for job in (*page["jobs"], *rest["jobs"])]
    assert (200, [*reversed(stack.accepted)]) == (status, listed)
    by_acceptance = stack.sql("SELECT id::text FROM jobs ORDER BY run_at")
    with stack.redis() as client:
        line = client.zrange("jobs:queue:{default}:test-effect", 0, -1, withscores=True)
    places = [place for _, place in line]
    assert 8 == len(places)
    assert len(set(places)) > 1
    assert [job_id for (job_id,) in by_acceptance] == list(stack.accepted)
    due = [
        stack.sql("SELECT floor(extract(epoch FROM run_at) * 1000)::bigint FROM jobs WHERE id::text = %s", row)
        for row in by_acceptance
    ]
    assert [milliseconds for [(milliseconds,)] in due] == [int(place % 10**13) for place in places]
    stack.service.start_worker()


def post_to(service, stack):
    try:
        job_id = service.post("test-effect", {})
    except urllib.error.URLError as error:
        raise AssertionError("the other API does not answer") from error
    stack.accepted[job_id] = "test-effect"


def until_later(stack):
    """Wait until PostgreSQL's clock tells the last job from the next one, however long its time took to learn."""
    eventually(lambda: stack.sql("SELECT max(created_at) < timezone('utc', now()) - interval '0.3 s' FROM jobs")[0][0])


def by_postgresql(stack):
    return stack.sql("SELECT clock_timestamp()")[0][0]
