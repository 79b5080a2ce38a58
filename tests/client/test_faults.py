"""What a client makes of lost answers, broken connections, restarts and limits: each thing is done once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from eventually import eventually
from proxy import Proxy

from jobs_service.client import Status
from jobs_service.client.errors import AccessDenied, LimitReached, Unavailable

CSV = {"name": "Alice", "score": 95}


@pytest.fixture
def proxy(api):
    with Proxy(api.api_port) as proxy:
        yield proxy


@pytest.fixture
def client(open_client, proxy):
    return open_client(f"http://127.0.0.1:{proxy.port}")


def jobs_of(api, **filters):
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    return api.get(f"/jobs?{query}")[1]["jobs"]


def test_a_lost_answer_makes_no_second_job(api, client, proxy):
    proxy.lose_reply(b"POST /jobs ", times=2)

    submitted = client.submit("csv-generation", CSV, tags=["once"])

    assert 2 == proxy.lost
    assert [str(submitted.job_id)] == [job["job_id"] for job in jobs_of(api, tag="once")]


def test_a_lost_answer_makes_no_second_batch(api, client, proxy):
    proxy.lose_reply(b"POST /jobs/batch")
    jobs = [{"type": "csv-generation", "payload": CSV, "tags": ["batch"]} for _ in range(20)]

    results = list(client.submit_many(jobs))

    assert 1 == proxy.lost
    assert {str(result.job_id) for result in results} == {job["job_id"] for job in jobs_of(api, tag="batch")}


def test_an_action_whose_answer_was_lost_has_been_done(client, proxy):
    waiting = client.submit("csv-generation", CSV, delay_seconds=3_600)
    proxy.lose_reply(b"/cancel")
    assert Status.CANCELLED == client.cancel(waiting, reason="ordered twice").status

    proxy.lose_reply(b"/retry")
    assert not client.retry(waiting).status.is_final or client.get(waiting).status is Status.COMPLETED
    assert 2 == proxy.lost
    assert Status.COMPLETED == client.wait(waiting, timeout=30).status


def test_a_lost_answer_makes_no_second_job_like_a_finished_one(api, client, proxy):
    job = client.run("csv-generation", CSV, timeout=30)
    proxy.lose_reply(b"/retry")

    edited = client.retry(job, tags=["edited"])

    assert 1 == proxy.lost
    assert [str(edited.job_id)] == [job["job_id"] for job in jobs_of(api, tag="edited")]


def test_an_api_that_is_away_is_asked_again_for_as_long_as_the_budget_says(open_client, proxy):
    impatient = open_client(f"http://127.0.0.1:{proxy.port}", budget_seconds=0.2)
    patient = open_client(f"http://127.0.0.1:{proxy.port}")
    proxy.down()
    with pytest.raises(Unavailable, match=r"unreachable: the API gives no answer: .+"):
        impatient.submit("csv-generation", CSV)

    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(patient.submit, "csv-generation", CSV)
        proxy.heal()
        assert submitting.result(60).status is Status.PENDING


def test_a_stream_goes_on_behind_what_it_had(api, client, proxy):
    first = client.submit("test-echo", {})
    position = [event.id for event in client.stream(first)][-1]
    events, seen = client.stream(type="test-echo", last_event_id=position), []
    jobs = [client.submit("test-echo", {}).job_id for _ in range(3)]
    seen.append(next(events))
    proxy.cut()
    jobs += [client.submit("test-echo", {}).job_id for _ in range(3)]
    seen.append(next(events))
    api.children[0].stop(seconds=30)
    api.start_api()
    jobs += [client.submit("test-echo", {}).job_id for _ in range(3)]

    until_all_ended(events, jobs, seen)

    told = [(event.job_id, event.name) for event in seen if event.job_id in jobs]
    assert len(told) == len(set(told))
    assert set(told) == {(job_id, name) for job_id in jobs for name in ("submitted", "processing", "completed")}


def until_all_ended(events, jobs, seen):
    ended = {event.job_id for event in seen if event.status.is_final}
    while not ended >= {*jobs}:
        event = next(events)
        seen.append(event)
        if event.status.is_final:
            ended.add(event.job_id)


def test_a_download_is_whole_after_its_connection_was_lost(client, proxy, tmp_path):
    rows = [{"number": number, "text": "x" * 50} for number in range(10_000)]
    job = client.run("csv-generation", {"rows": rows}, timeout=60)
    with client.output(job) as output:
        assert ("text/csv", f"{job.job_id}.csv") == (output.media_type.partition(";")[0], output.name)
        whole = output.read(10) + output.read()
        assert output.size == len(whole)

    folder = tmp_path / "files"
    folder.mkdir()
    proxy.bytes_per_second = 400_000
    with ThreadPoolExecutor(1) as pool:
        downloading = pool.submit(client.download, job, folder)
        eventually(lambda: any(path.stat().st_size for path in folder.iterdir()), what="a part of the file")
        proxy.cut()
        proxy.heal()
        path = downloading.result(60)

    assert folder / f"{job.job_id}.csv" == path
    assert whole == path.read_bytes()
    assert [path] == [*folder.iterdir()]


def test_a_client_waits_as_the_api_asks_it_to(service, open_client):
    service.start_api(RATE_LIMIT_PER_SECOND="1", RATE_LIMIT_BURST="1")
    client = open_client(f"http://127.0.0.1:{service.api_port}")

    assert 3 == len({client.submit("csv-generation", CSV).job_id for _ in range(3)})
    hasty = open_client(f"http://127.0.0.1:{service.api_port}", budget_seconds=0)
    eventually(lambda: is_refused(hasty, LimitReached), what="a limit")


def is_refused(client, error):
    try:
        client.submit("csv-generation", CSV)
    except error:
        return True
    return False


def test_a_key_is_sent_and_not_shown(service, open_client, monkeypatch):
    service.start_api()
    made = service.make_key("tests", "jobs:read", "jobs:write")
    url = f"http://127.0.0.1:{service.api_port}"

    keyless = open_client(url, budget_seconds=0)
    eventually(lambda: is_refused(keyless, AccessDenied), what="an API that knows of its key")
    assert Status.PENDING == open_client(url, key=made).submit("csv-generation", CSV).status
    monkeypatch.setenv("JOBS_KEY", made)
    monkeypatch.setenv("JOBS_URL", url)
    client = open_client(None)
    assert Status.PENDING == client.submit("csv-generation", CSV).status
    assert made not in repr(client)
