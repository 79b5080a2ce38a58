"""What a client does, in front of the service and of the API in memory: the same."""

from dataclasses import dataclass
from uuid import UUID, uuid4

import msgspec
import pytest

from jobs_service.client import ApiError, FakeApi, JobNotCompleted, Status, WaitTimeout
from jobs_service.client.errors import InvalidRequest, JobNotFound, NotFinished, OutputNotFound, WrongStatus


class Score(msgspec.Struct):
    name: str
    score: int


@dataclass
class ScoreData:
    name: str
    score: int


def echo(payload):
    return payload


def none(payload):  # noqa: ARG001
    return None


def reject(payload):
    raise ValueError(f"no attempt will do: {payload}")


HANDLERS = {"test-echo": echo, "test-reject": reject, "csv-generation": none}


@pytest.fixture(params=["service", "fake"])
def client(request, open_client):
    """A client of each API."""
    if request.param == "fake":
        return open_client("http://fake", transport=FakeApi(HANDLERS).transport)
    api = request.getfixturevalue("api")
    return open_client(f"http://127.0.0.1:{api.api_port}")


@pytest.mark.parametrize("payload", [{"name": "Alice", "score": 95}, Score("Alice", 95), ScoreData("Alice", 95)])
def test_a_job_is_submitted_and_its_end_waited_for(client, payload):
    submitted = client.submit("test-echo", payload, priority=7, tags=["a"])
    assert Status.PENDING == submitted.status

    job = client.wait(submitted, timeout=30)

    assert (submitted.job_id, "test-echo", Status.COMPLETED) == (job.job_id, job.type, job.status)
    assert {"name": "Alice", "score": 95} == job.payload == job.result
    assert (7, ["a"], 1) == (job.priority, job.tags, job.attempts)
    assert job.is_final
    assert job.finished_at >= job.created_at
    assert job == client.get(job) == client.get(str(job.job_id))


def test_a_job_is_run_and_its_result_returned(client):
    assert {"n": 1} == client.run("test-echo", {"n": 1}, timeout=30).result

    with pytest.raises(JobNotCompleted, match="no attempt will do") as failed:
        client.run("test-reject", {}, timeout=30)
    assert Status.FAILED == failed.value.job.status


def test_what_is_wrong_is_an_error_that_names_the_field(client):
    with pytest.raises(
        InvalidRequest, match=r"invalid_request: /type: unknown job type 'nope'; known types: .+"
    ) as refused:
        client.submit("nope", {})

    assert (422, "invalid_request") == (refused.value.status, refused.value.code)
    [error] = refused.value.errors
    assert "/type" == error.pointer

    with pytest.raises(JobNotFound, match=r"\(job [0-9a-f-]{36}") as unknown:
        client.get(uuid4())
    assert isinstance(unknown.value, ApiError)


def test_many_jobs_are_submitted_and_matched_to_their_results(client):
    good = [{"type": "test-echo", "payload": {"n": n}} for n in range(5)]
    wrong = [{"type": "test-echo", "payload": {}, "priority": 10}, {"type": "nope", "payload": {}}]
    jobs = [*good[:2], wrong[0], *good[2:], wrong[1]]

    results = list(client.submit_many(iter(jobs)))

    assert jobs == [result.item for result in results]
    refused = [result for result in results if result.error]
    assert wrong == [result.item for result in refused]
    assert ["/priority", "/type"] == [result.error.errors[0].pointer for result in refused]
    assert refused[1].error.detail.startswith("/type: unknown job type")
    ended = client.wait_all([result.job_id for result in results if result.job_id], timeout=30)
    assert [job["payload"] for job in good] == [job.result for job in ended]


def test_jobs_are_listed_newest_first_and_from_a_cursor_on(client):
    ids = [client.submit("test-echo", {}, tags=["list"]).job_id for _ in range(7)]
    client.submit("test-echo", {})

    listed = client.iter_jobs(tag="list", limit=3)
    found = [job.job_id for job in (next(listed) for _ in range(4))]
    assert ids[::-1][:4] == found
    # The fourth job is the first of the second page.
    rest = [job.job_id for job in client.iter_jobs(tag="list", limit=3, cursor=listed.cursor)]
    assert ids[::-1][3:] == rest
    assert ids[::-1] == [job.job_id for job in client.iter_jobs(tag="list", limit=2)]


def test_a_finished_job_runs_again_or_another_one_like_it(client):
    failed = client.submit("test-reject", {"a": 1})
    assert Status.FAILED == client.wait(failed, timeout=30).status

    assert failed.job_id == client.retry(failed).job_id
    assert Status.FAILED == client.wait(failed, timeout=30).status
    edited = client.retry(failed, payload={"a": 2})
    job = client.wait(edited, timeout=30)

    assert failed.job_id != edited.job_id
    assert (failed.job_id, {"a": 2}) == (job.retry_of, job.payload)


def test_an_ended_job_is_not_cancelled(client):
    job = client.run("test-echo", {}, timeout=30)

    with pytest.raises(WrongStatus, match=f"job {job.job_id}"):
        client.cancel(job)


def test_a_stream_of_a_job_ends_with_it(client):
    submitted = client.submit("test-echo", {})

    events = list(client.stream(submitted))

    assert Status.COMPLETED == events[-1].status
    assert {submitted.job_id} == {event.job_id for event in events}
    # Behind the last one there is nothing more.
    assert [] == list(client.stream(submitted, last_event_id=events[-1].id))


def test_a_job_without_a_file_has_no_output(client):
    job = client.run("test-echo", {}, timeout=30)

    with pytest.raises(OutputNotFound):
        client.output(job)


@pytest.fixture(params=["service", "fake"])
def paused(request, open_client):
    """A client of an API whose jobs stay pending."""
    if request.param == "fake":
        return open_client("http://fake", transport=FakeApi(runs=False).transport)
    service = request.getfixturevalue("service")
    service.start_api()
    return open_client(f"http://127.0.0.1:{service.api_port}")


def test_a_pending_job_is_waited_for_no_longer_than_asked(paused):
    submitted = paused.submit("csv-generation", {"name": "Alice"})

    with pytest.raises(WaitTimeout, match=f"job {submitted.job_id} has not ended within 0.2 s; it goes on"):
        paused.wait(submitted, timeout=0.2)
    with pytest.raises(NotFinished):
        paused.output(submitted)
    assert isinstance(submitted.job_id, UUID)


def test_a_pending_job_is_cancelled_with_a_reason(paused):
    submitted = paused.submit("csv-generation", {"name": "Alice"})

    assert Status.CANCELLED == paused.cancel(submitted, reason="ordered twice").status

    job = paused.get(submitted)
    assert (Status.CANCELLED, "ordered twice") == (job.status, job.cancel_reason)
    with pytest.raises(WrongStatus):
        paused.cancel(submitted)
    with pytest.raises(JobNotCompleted, match="cancelled: ordered twice"):
        raise JobNotCompleted(job)
