"""Clients that watch jobs, on real processes: Server-Sent Events, and `GET /jobs/{job_id}?wait=`."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from event_source import EventSource
from eventually import eventually

ALICE = {"name": "Alice", "score": 95}


@pytest.fixture
def source(service):
    """Open streams. All are closed at the end."""
    opened = []

    def source(path, **options):
        opened.append(EventSource(service.api_port, path, **options))
        return opened[-1]

    yield source
    for each in opened:
        each.close()


def names(messages):
    return [message.name for message in messages]


def is_last(message):
    return message.data["status"] in {"completed", "failed", "cancelled"}


def test_a_job_is_watched_until_it_has_ended(service, source):
    service.start_api()
    job_id = service.post("csv-generation", ALICE)
    stream = source(f"/jobs/{job_id}/events")
    assert 200 == stream.connect()
    assert stream.reply.headers["Content-Type"].startswith("text/event-stream")
    assert "no-store" == stream.reply.headers["Cache-Control"]
    messages = [next(iter(stream))]
    assert ("state", "pending") == (messages[0].name, messages[0].data["status"])

    service.start_worker()
    messages += list(stream)

    assert ["state", "processing", "completed"] == names(messages)
    assert {(job_id, "csv-generation", "default")} == {
        (message.data["job_id"], message.data["type"], message.data["queue"]) for message in messages
    }
    assert [0, 1, 1] == [message.data["attempt"] for message in messages]
    # What a browser does next: it has all, and is told not to come back.
    assert 204 == stream.connect()
    # A client that comes anew is told the state.
    late = source(f"/jobs/{job_id}/events")
    late.connect()
    assert [("state", "completed")] == [(message.name, message.data["status"]) for message in late]


def test_the_events_of_all_jobs_and_of_some(service, source):
    service.start_api()
    streams = {
        path: source(path)
        for path in ("/events", "/events?type=TEST_ECHO", "/events?status=completed", "/events?queue=other")
    }
    for stream in streams.values():
        assert 200 == stream.connect()
        stream.has_begun()
    service.start_worker()

    csv, echo = service.post("csv-generation", ALICE), service.post("test-echo", {})
    for job_id in (csv, echo):
        service.when(job_id, "completed")

    ended = set()

    def both_ended(message):
        if message.name == "completed":
            ended.add(message.data["job_id"])
        return len(ended) == 2

    every = streams["/events"].until(both_ended)
    assert {
        csv: ["submitted", "processing", "completed"],
        echo: ["submitted", "processing", "completed"],
    } == _by_job(every)
    assert {echo: ["submitted", "processing", "completed"]} == _by_job(streams["/events?type=TEST_ECHO"].until(is_last))
    ended.clear()
    assert {csv: ["completed"], echo: ["completed"]} == _by_job(streams["/events?status=completed"].until(both_ended))
    assert streams["/events?queue=other"].parser.comments == []


def test_a_stream_goes_on_where_it_was_in_another_process_and_after_a_restart(service, source):
    """Whatever happened meanwhile: nothing is skipped, and nothing is sent twice."""
    api = service.start_api()
    stream = source("/events")
    stream.connect()
    stream.has_begun()
    first = service.post("test-echo", {})
    messages = stream.until(lambda message: message.name == "submitted")
    api.stop(seconds=15)
    messages += list(stream)
    service.start_worker()
    service.start_api()
    missed = [service.post("test-echo", {}) for _ in range(5)]
    for job_id in (first, *missed):
        service.when(job_id, "completed")

    assert 200 == stream.connect()
    live = service.post("test-echo", {})
    messages += stream.until(lambda message: message.data["job_id"] == live and is_last(message))

    told = ["submitted", "processing", "completed"]
    assert dict.fromkeys((first, *missed, live), told) == _by_job(messages)


def test_a_stop_ends_streams_and_waits_at_once(service, source):
    api = service.start_api()
    job_id = service.post("csv-generation", ALICE)
    streams = [source("/events"), source(f"/jobs/{job_id}/events")]
    for stream in streams:
        stream.connect()
        stream.has_begun()
    with ThreadPoolExecutor() as clients:
        waiting = clients.submit(service.get, f"/jobs/{job_id}?wait=60")
        eventually(lambda: "http_server_active_requests 2.0\n" in service.get("/metrics")[1], what="a waiting client")

        api.stop(seconds=15)

        assert (200, "pending") == (waiting.result()[0], waiting.result()[1]["status"])
    for stream in streams:
        # Ends orderly: a connection that was cut would raise.
        assert names(stream) in ([], ["state"])
        assert 500 <= stream.parser.retry_ms <= 1_500


def test_streams_stay_open_while_postgresql_is_away(service, source, postgres, database_url):
    service.start_api()
    stream = source("/events")
    stream.connect()
    stream.has_begun()
    name = database_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS FALSE")
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    [api] = service.children
    eventually(lambda: "Events not read" in service.log(api), what="an API without PostgreSQL")
    fresh = source("/events")
    assert 200 == fresh.connect()

    postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS TRUE")
    fresh.has_begun()
    job_id = eventually(lambda: service.request("POST", "/jobs", {"type": "test-echo", "payload": {}})[1].get("job_id"))

    for each in (stream, fresh):
        assert [job_id] == [message.data["job_id"] for message in each.until(lambda _: True)]


def test_events_that_were_deleted_are_a_gap(service, source, database):
    service.start_api()
    stream = source("/events")
    stream.connect()
    stream.has_begun()
    stream.close()
    job_id = service.post("test-echo", {})
    database.rows("UPDATE job_events_horizon SET xact = (SELECT max(xact::text::bigint) FROM job_events)::text::xid8")
    database.rows("DELETE FROM job_events")

    stream.connect()
    [reset] = stream.until(lambda _: True)
    assert ("reset", {"reason": "expired"}) == (reset.name, reset.data)
    of_job = source(f"/jobs/{job_id}/events", last_event_id="0_1")
    of_job.connect()
    reset, state = [next(iter(of_job)) for _ in range(2)]
    assert ("reset", {"reason": "unknown"}) == (reset.name, reset.data)
    assert ("state", "pending") == (state.name, state.data["status"])
    # Both go on from the present.
    service.start_worker()
    assert ["processing", "completed"] == names(of_job)
    assert ["processing", "completed"] == names(stream.until(is_last))


#: Path, Last-Event-ID, and what is answered.
REFUSED = (
    ("/jobs/0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41/events", "", (404, "job_not_found")),
    ("/jobs/nonsense/events", "", (404, "job_not_found")),
    ("/events", "nonsense", (422, "invalid_request")),
    ("/events?type=nonsense", "", (422, "invalid_request")),
    ("/events?status=nonsense", "", (422, "invalid_request")),
    ("/events?wait=1", "", (422, "invalid_request")),
    ("/jobs/0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41?wait=61", "", (422, "invalid_request")),
    ("/jobs/0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41?wait=-1", "", (422, "invalid_request")),
    ("/jobs/0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41?wait=nan", "", (422, "invalid_request")),
    ("/jobs/0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41?wait=30", "", (404, "job_not_found")),
)


def test_what_is_refused(service, source):
    service.start_api()

    assert 200 == service.request("HEAD", "/events")[0]
    for path, last_event_id, refusal in REFUSED:
        stream = source(path, last_event_id=last_event_id)
        assert refusal == (stream.connect(), json.loads(stream.reply.read())["code"]), path


def test_a_wait_ends_with_the_job(service):
    service.start_api()
    job_id = service.post("csv-generation", ALICE)
    with ThreadPoolExecutor() as clients:
        waiting = [clients.submit(service.get, f"/jobs/{job_id}?wait=60") for _ in range(4)]
        started = time.monotonic()
        assert "pending" == service.get(f"/jobs/{job_id}?wait=0.1")[1]["status"]
        service.start_worker()

        assert ["completed"] * 4 == [answer.result()[1]["status"] for answer in waiting]
    assert time.monotonic() - started < 60
    # It has ended: answered at once.
    assert "completed" == service.get(f"/jobs/{job_id}?wait=60")[1]["status"]


def test_nobody_watches_and_nothing_is_asked(service, source, database):
    service.start_api()
    stream = source("/events")
    stream.connect()
    stream.has_begun()
    eventually(lambda: _looks(database), what="a look for events")
    stream.close()
    # The API notices with an event or a heartbeat that the client has gone.
    eventually(lambda: service.post("test-echo", {}) and "jobs_event_streams 0.0\n" in service.get("/metrics")[1])

    # The connections do other things now.
    eventually(lambda: service.get("/jobs")[0] == 200 and not _looks(database), what="no look for events")
    for _ in range(40):
        service.get("/jobs")
        assert not _looks(database)


def _looks(database):
    """Return how many connections have looked for events last."""
    [(looks,)] = database.rows(
        """SELECT count(*)::int FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%%job_events_horizon%%'"""
    )
    return looks


def _by_job(messages):
    found = {}
    for message in messages:
        found.setdefault(message.data["job_id"], []).append(message.name)
    return found


def test_two_threads_are_enough(service, source):
    api = service.start_api()
    before = _threads(api)
    streams = [source("/events") for _ in range(50)]
    for stream in streams:
        stream.connect()
        stream.has_begun()

    # The reader's, and that of missed events.
    assert _threads(api) <= before + 2


def _threads(api):
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in api.pids())


def test_a_reader_that_is_too_slow_is_dropped(service, source, database):
    """It resumes where it was, and misses nothing."""
    service.start_api()
    stream = source("/events")
    stream.connect()
    stream.has_begun()
    # More than its buffers and the kernel's take. It reads nothing meanwhile.
    _write_events(database, 100_000)
    eventually(
        lambda: "jobs_event_readers_dropped_total 1.0\n" in service.get("/metrics")[1], what="a reader that is dropped"
    )
    assert "jobs_event_streams 1.0\n" in service.get("/metrics")[1]

    messages = list(stream)
    assert 0 < len(messages) < 100_000
    while len(messages) < 100_000:
        stream.connect()
        messages += stream.until(lambda message: message.data["attempt"] == 100_000)
    assert list(range(1, 100_001)) == [message.data["attempt"] for message in messages]


def _write_events(database, count):
    """Write so many events in rows of 500 jobs, numbered by their attempts."""
    database.rows(
        """INSERT INTO job_events (name, type, queue, status, job_ids, attempts)
        SELECT 'completed', 'test-echo', 'default', 'completed', array_agg(gen_random_uuid()), array_agg(n ORDER BY n)
        FROM generate_series(1, %s) AS n GROUP BY (n - 1) / 500 ORDER BY min(n)""",
        (count,),
    )


def test_progress_and_lines_are_told_before_the_end(service, source):
    service.start_api()
    job_id = service.post("test-say", {"lines": 3, "total": 10})
    stream = source(f"/jobs/{job_id}/events")
    stream.connect()
    service.start_worker()

    *messages, last = list(stream)

    assert "completed" == last.name
    said = [message for message in messages if message.name == "log"]
    lines = [line for message in said for line in message.data["lines"]]
    assert [("info", "Line said", {"number": number}) for number in range(3)] == [
        (line["level"], line["text"], line["facts"]) for line in lines
    ]
    progress = [message.data["progress"] for message in messages if message.name == "progress"]
    assert {"done": 10, "total": 10, "note": "things"} == progress[-1]
    assert progress[-1] == service.job(job_id)["progress"]
    [attempt] = service.get(f"/jobs/{job_id}/logs")[1]["attempts"]
    assert (1, progress[-1], lines, 0) == tuple(
        attempt[name] for name in ("attempt", "progress", "lines", "lines_omitted")
    )


def test_what_each_attempt_says_is_kept_within_limits(service):
    service.start_api()
    worker = service.start_worker()
    job_id = service.post("test-say", {"lines": 150, "total": 5, "fail": True}, max_attempts=2)
    failed = service.when(job_id, "failed")

    attempts = service.get(f"/jobs/{job_id}/logs")[1]["attempts"]
    assert [1, 2] == [attempt["attempt"] for attempt in attempts]
    for attempt in attempts:
        assert 150 == len(attempt["lines"]) + attempt["lines_omitted"]
        assert len(json.dumps(attempt["lines"], separators=(",", ":"))) <= 10_240 + 200
    assert 5 == failed["progress"]["done"]
    # The log has all of them.
    assert 300 == service.log(worker).count('"Line said"')


def test_a_suspect_is_heard_too(service, source, tmp_path):
    """The first attempt kills its worker, so that the next one has a process of its own."""
    service.start_api()
    job_id = service.post("test-say", {"lines": 2, "total": 3, "crash": str(tmp_path / "crash")})
    stream = source(f"/jobs/{job_id}/events")
    stream.connect()
    service.start_worker()

    messages = list(stream)

    assert "completed" == messages[-1].name
    assert {"done": 3, "total": 3, "note": "things"} == service.job(job_id)["progress"]
    assert 2 == len(service.get(f"/jobs/{job_id}/logs")[1]["attempts"][-1]["lines"])
    assert "log" in names(messages)


def test_jobs_that_say_nothing_have_no_logs(service):
    service.start_api()
    service.start_worker()
    job_id = service.post("csv-generation", ALICE)
    assert service.when(job_id, "completed")["progress"] is None

    assert {"job_id": job_id, "attempts": []} == service.get(f"/jobs/{job_id}/logs")[1]
    status, body = service.get("/jobs/0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41/logs")
    assert (404, "job_not_found") == (status, body["code"])


def test_the_rows_of_a_large_table_are_counted(service):
    service.start_api()
    service.start_worker()
    job_id = service.post("csv-generation", [{"n": n} for n in range(12_000)])

    service.when(job_id, "completed")

    assert {"done": 10_000, "total": 12_000, "note": "rows"} == service.job(job_id)["progress"]


#: Streams on one process, and clients that wait, in the tests of many.
STREAMS, WAITERS = 2_000, 1_000


def test_two_thousand_streams_on_one_process(service):
    """All are told the same events, while jobs are submitted and run."""
    service.start_api()
    service.start_worker()

    told = asyncio.run(_crowd(service.api_port))

    assert STREAMS == len(told)
    assert 20 == len(set(told[0]))
    assert {told[0]} == set(told)


async def _crowd(port):
    """Open the streams, all at once as after a restart, and submit jobs. Return the events of each."""
    connecting = (_Client.connect(port, "/events?type=test-echo&status=completed") for _ in range(STREAMS))
    clients = await asyncio.gather(*connecting)
    reading = [asyncio.create_task(client.events(20)) for client in clients]
    await _submit(port, 20, "test-echo")
    told = await asyncio.gather(*reading)
    for client in clients:
        client.writer.close()
    return [tuple(events) for events in told]


def test_a_thousand_clients_wait_on_one_process(service):
    service.start_api()
    jobs = [service.post("test-echo", {}) for _ in range(10)]

    statuses = asyncio.run(_wait_for(service, jobs))

    assert ["completed"] * WAITERS == statuses


async def _wait_for(service, jobs):
    waiting = [
        await _Client.connect(service.api_port, f"/jobs/{jobs[number % len(jobs)]}?wait=60", waits=True)
        for number in range(WAITERS)
    ]
    loop = asyncio.get_running_loop()

    def all_wait():
        active = f"http_server_active_requests {WAITERS + 1}.0\n"
        return active in service.get("/metrics")[1]

    await loop.run_in_executor(None, lambda: eventually(all_wait, what="all clients waiting"))
    await loop.run_in_executor(None, service.start_worker)
    return [(await client.answer())["status"] for client in waiting]


async def _submit(port, count, job_type):
    """Submit so many jobs over one connection."""
    client = await _Client.connect(port, "/livez", waits=True)
    await client.answer()
    body = json.dumps({"type": job_type, "payload": {}}).encode()
    for _ in range(count):
        client.writer.write(
            b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        assert "pending" == (await client.answer())["status"]
    client.writer.close()


class _Client:
    """A connection of which there may be thousands."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port, path, *, waits=False):
        """Send a request. Unless it `waits` for its answer, read that up to the first id."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))
        client.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        if not waits:
            await client.reader.readuntil(b"\nid: ")
            await client.reader.readuntil(b"\n\n")
        return client

    async def answer(self):
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return json.loads(await self.reader.readexactly(length))

    async def events(self, count):
        """Return the next events' lines of data."""
        found = []
        while len(found) < count:
            line = await self.reader.readline()
            if line.startswith(b"data: "):
                found.append(line)
        return found
