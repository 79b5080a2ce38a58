"""Keys and limits on running processes: what the command line does is obeyed, and no secret is to be seen."""

import http.client
import json
import re
import socket
import time
from types import SimpleNamespace

import pytest
from eventually import eventually
from proxy import Proxy

from devstack.processes import command_line
from devstack.servers import HOST
from jobs_service.__main__ import main
from jobs_service.api.access.known_keys import READ_SECONDS

JOB = {"type": "csv-generation", "payload": {"name": "Alice"}}

#: With a scope, and without a statement: no job has this id.
CHEAP = "/jobs/no-such-job"


@pytest.fixture
def keys(environ, monkeypatch, capsys):
    """Run `keys` with arguments, and return its exit code and what it printed."""

    def keys(*arguments):
        try:
            returncode = main(["keys", *arguments])
        except SystemExit as usage:
            returncode = usage.code
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=returncode, stdout=printed.out, stderr=printed.err)

    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return keys


def ask(port, method, path, body=None, *, key=None, **headers):
    """Return (status, headers, body). Each request has a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=20)
    data = json.dumps(body).encode() if body is not None else None
    sent = {"Content-Type": "application/json"} if data else {}
    sent |= {"Authorization": f"Bearer {key}"} if key else {}
    try:
        connection.request(method, path, data, sent | headers)
        reply = connection.getresponse()
        content = reply.read()
        return reply.status, reply.headers, json.loads(content) if content else None
    finally:
        connection.close()


def code_of(port, key=None):
    """Return the status of a request that needs jobs:read, or the code of a refusal."""
    status, _, body = ask(port, "GET", "/jobs", key=key)
    return status if status == 200 else body["code"]


def test_keys_are_obeyed_by_every_process_within_seconds_and_without_a_restart(service, keys, database):
    other = service._free_port()
    service.start_api()
    another = service.start_api(API_PORT=str(other))
    ports = (service.api_port, other)

    def both(expected, key=None):
        eventually(lambda: [code_of(port, key) for port in ports] == [expected] * 2, what=f"{expected} on both")

    both(200)
    made = keys("create", "alice", "--scope", "jobs:read", "--expires", "90d")
    assert 0 == made.returncode, made.stderr
    first = made.stdout.strip()
    second = keys("create", "bob", "--scope", "jobs:read", "--scope", "jobs:write").stdout.strip()

    both("unauthenticated")
    both(200, first)
    both(200, second)
    status, _, job = ask(other, "POST", "/jobs", JOB, key=second)
    assert 201 == status
    # Who submitted it is logged.
    assert {"bob"} == {line["caller"] for line in service.lines(another, job["job_id"])}
    assert "scope_missing" == ask(other, "POST", "/jobs", JOB, key=first)[2]["code"]
    keys("revoke", first.partition(".")[0])
    both("invalid_key", first)
    database.rows("UPDATE api_keys SET expires_at = now() WHERE name = 'bob'")
    both("key_expired", second)
    both("unauthenticated")


def test_requests_cost_no_statement_whatever_their_key_is(service, keys, database):
    service.start_api()
    key = keys("create", "alice", "--scope", "jobs:read").stdout.strip()
    eventually(lambda: ask(service.api_port, "GET", CHEAP)[0] == 401, what="a key that is known")

    def reads():
        ((count,),) = database.rows("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'api_keys'")
        return count

    before, began_at = reads(), time.monotonic()
    statuses = [
        ask(service.api_port, "GET", CHEAP, key=each)[0] for _ in range(150) for each in (key, f"{key}x", "x.y", None)
    ]
    assert [404, 401, 401, 401] * 150 == statuses
    # The statistics have what was done since.
    later = reads()
    eventually(lambda: reads() > later, what="a later read")
    assert reads() - before <= (time.monotonic() - began_at) / READ_SECONDS + 3


def test_the_command_line_shows_a_secret_once(keys, database):
    made = keys("create", "alice", "--scope", "queues:write", "--rate", "5")
    prefix, _, secret = made.stdout.strip().partition(".")
    listed = keys("list")

    assert re.fullmatch(r"ajs_[a-z2-7]{13}\.[\w-]{43}\n", made.stdout)
    assert prefix in listed.stdout
    assert ["valid", "queues:write", "5"] == listed.stdout.splitlines()[1].split()[2:5]
    # Somebody revokes by the whole key.
    revoked = keys("revoke", made.stdout.strip())
    assert (0, "") == (revoked.returncode, revoked.stderr)
    assert "revoked" in keys("list").stdout
    assert not [text for text in (made.stderr, listed.stdout, listed.stderr, revoked.stdout) if secret in text]
    ((is_revoked,),) = database.rows("SELECT revoked_at IS NOT NULL FROM api_keys")
    assert is_revoked


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("create", "anonymous", "--scope", "jobs:read"), 1),
        (("create", "a\nb", "--scope", "jobs:read"), 1),
        (("create", 'a" level="error', "--scope", "jobs:read"), 1),
        (("create", "\x1b[31m", "--scope", "jobs:read"), 1),
        (("create", "x" * 65, "--scope", "jobs:read"), 1),
        (("create", "alice"), 2),
        (("create", "alice", "--scope", "everything"), 2),
        (("create", "alice", "--scope", "jobs:read", "--expires", "never"), 2),
        (("create", "alice", "--scope", "jobs:read", "--expires", "99999d"), 2),
        (("create", "alice", "--scope", "jobs:read", "--rate", "0"), 2),
        (("revoke", "ajs_nothing"), 1),
        ((), 2),
    ],
)
def test_wrong_arguments_are_refused_without_a_traceback(keys, arguments, code):
    refused = keys(*arguments)

    assert code == refused.returncode
    assert "Traceback" not in refused.stderr
    assert refused.stderr.strip()
    assert "" == refused.stdout


def test_the_api_does_not_listen_to_other_machines_without_a_key(service, keys):
    service.environ |= {"API_HOST": "0.0.0.0", "LOG_FORMAT": "console"}

    refused = service.run("api")

    assert (1, 1) == (refused.returncode, len(refused.stderr.splitlines())), refused.stderr
    assert refused.stderr.startswith("api: ")
    assert all(word in refused.stderr for word in ("keys create", "API_HOST=127.0.0.1", "ALLOW_ANONYMOUS=true"))
    key = keys("create", "alice", "--scope", "jobs:read").stdout.strip()
    service.start_api()
    assert ["unauthenticated", 200] == [code_of(service.api_port), code_of(service.api_port, key)]


def test_it_listens_to_them_where_that_is_allowed(service, keys):
    service.start_api(API_HOST="0.0.0.0", ALLOW_ANONYMOUS="true")

    assert 200 == code_of(service.api_port)
    keys("create", "alice", "--scope", "jobs:read")
    eventually(lambda: code_of(service.api_port) == "unauthenticated", what="a key that is needed")


def test_known_keys_go_on_while_postgresql_is_away_and_no_others_are_let_in(service, keys, postgres):
    key = keys("create", "alice", "--scope", "jobs:read").stdout.strip()
    name = service.environ["DATABASE_URL"].rpartition("/")[2]
    with Proxy(postgres.port) as proxy:
        url = f"postgresql://{postgres.USER}:{postgres.PASSWORD}@{HOST}:{proxy.port}/{name}"
        service.start_api(DATABASE_URL=url)
        assert 404 == ask(service.api_port, "GET", CHEAP, key=key)[0]
        proxy.down()

        # At first as one that does not exist, then as one that may be new.
        eventually(lambda: ask(service.api_port, "GET", CHEAP, key="ajs_new.secret")[0] == 503, what="a refusal")
        assert 404 == ask(service.api_port, "GET", CHEAP, key=key)[0]
        assert "database_unavailable" == code_of(service.api_port, key)
        assert "unauthenticated" == code_of(service.api_port)

        # A process that never read the keys lets nobody in. /livez needs none.
        other = service._free_port()
        service._start("api", {"DATABASE_URL": url, "API_PORT": str(other)})
        eventually(lambda: ask(other, "GET", "/livez")[0] == 200, what="an API that listens")
        for sent in (key, None):
            status, headers, body = ask(other, "GET", CHEAP, key=sent)
            assert (503, "database_unavailable") == (status, body["code"])
            assert headers["Retry-After"]
        proxy.heal()
        eventually(lambda: ask(other, "GET", CHEAP, key=key)[0] == 404, what="keys that are read")


def test_a_rate_counts_for_all_processes_and_needs_no_redis(service, free_port):
    """The processes share a bucket. Not one request too many, and none too few."""
    service.start_api(
        API_PROCESSES="2",
        RATE_LIMIT_PER_SECOND="1",
        RATE_LIMIT_BURST="20",
        REDIS_URL=f"redis://127.0.0.1:{free_port()}",
    )
    began_at = time.monotonic()

    answers = [ask(service.api_port, "GET", CHEAP) for _ in range(60)]

    allowed = sum(status == 404 for status, _, _ in answers)
    assert 20 <= allowed <= 20 + (time.monotonic() - began_at) + 1
    refused = next(answer for answer in answers if answer[0] == 429)
    assert "rate_limited" == refused[2]["code"]
    assert refused[1]["Retry-After"] == "1"
    assert {200} == {ask(service.api_port, "GET", path)[0] for path in ("/livez", "/readyz", "/")}


def test_a_canary_has_a_key(service, keys):
    key = keys("create", "canary", "--scope", "jobs:write").stdout.strip()
    service.start_api()
    url = f"http://127.0.0.1:{service.api_port}"
    worker = service.start_worker(CANARY_INTERVAL_SECONDS="0.1", CANARY_URL=url, CANARY_KEY=key)
    submitted = 'jobs_submitted_total{actor_name="canary-default",queue_name="default",source="api"}'

    eventually(lambda: service.metrics(service.api_port)[submitted] > 1, what="canaries")
    secret = key.partition(".")[2]
    assert secret not in service.log(worker)
    assert not [pid for pid in worker.pids() if secret in command_line(pid)]


def test_a_full_queue_takes_only_canaries_until_fewer_jobs_are_due(service, database):
    service.start_api(QUEUE_LIMIT="5")

    def submit():
        return ask(service.api_port, "POST", "/jobs", JOB)

    refused = eventually(lambda: next((each for each in [submit()] if each[0] == 429), None), what="a full queue")
    assert "queue_full" == refused[2]["code"]
    assert "default" in refused[2]["detail"]
    assert "2" == refused[1]["Retry-After"]
    assert len(service.get("/jobs?status=pending")[1]["jobs"]) >= 5
    service.post("canary-default", {})
    database.rows("UPDATE jobs SET run_at = now() + interval '1 hour'")
    eventually(lambda: submit()[0] == 201, what="room in the queue")


@pytest.fixture
def raw(service):
    """Send bytes, and return the head and the body of the answer."""

    def raw(data):
        with socket.create_connection((HOST, service.api_port), timeout=20) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        return answer.partition(b"\r\n\r\n")[0].decode("latin-1"), answer.partition(b"\r\n\r\n")[2]

    return raw


REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /jobs HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    b"DELETE /jobs HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS /jobs HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n",
    b"BREW /jobs HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{",
    b"GET / HTTP/1.1\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
)


def test_every_answer_has_the_headers_that_browsers_obey_and_none_that_opens_or_tells(service, raw):
    service.start_api()

    for request in REQUESTS:
        head, _ = raw(request)
        lines = head.lower().split("\r\n")
        assert lines[0].startswith("http/1.1 "), head
        for expected in (
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'",
        ):
            assert 1 == lines.count(expected), (request, head)
        assert not re.search(r"(?m)^(server|x-powered-by|access-control-[\w-]+):", head.lower()), (request, head)


INJECTED = (
    b"X-Request-ID: a\rSet-Cookie: injected=1",
    b"X-Request-ID: a\n\tSet-Cookie: injected=1",
    b"X-Request-ID: a\r\n Set-Cookie: injected=1",
    b"X-Request-ID: %0d%0aSet-Cookie: injected=1",
    b"X-Request-ID: a\x00b",
    b"X-Request-ID: \xc4\x8d\xc4\x8aSet-Cookie: injected=1",
    b"X-Request-ID: " + b"x" * 4_000,
    b"Authorization: Bearer a\rSet-Cookie: injected=1",
    b"Authorization: Bearer \xff\xfe\x0d",
    b"Authorization: Bearer x\r\nAuthorization: Bearer y",
    b'Authorization: Bearer "},{"level":"critical","injected":1',
    b"Authorization: Bearer " + b"x" * 8_000,
)


def test_headers_inject_nothing_into_answers_or_logs(service, keys, raw):
    key = keys("create", "alice", "--scope", "jobs:read").stdout.strip()
    api = service.start_api(LOG_LEVEL="debug")
    eventually(lambda: code_of(service.api_port) == "unauthenticated", what="keys that are read")

    for header in INJECTED:
        head, _ = raw(b"GET /jobs HTTP/1.1\r\nHost: x\r\n" + header + b"\r\nConnection: close\r\n\r\n")
        assert re.match(r"HTTP/1\.1 4\d\d ", head), (header, head)
        assert not re.search(r"(?im)^set-cookie:", head.replace("\r", "\n")), (header, head)
    # A request that is logged, with what may be sent.
    assert 200 == code_of(service.api_port, key)
    service.stop()
    lines = service.log(api).splitlines()
    assert [] == [line for line in lines if not isinstance(json.loads(line), dict) or '"injected"' in line]
    assert key.partition(".")[2] not in service.log(api)
    assert "x" * 200 not in service.log(api)


def test_no_secret_is_in_the_log_or_an_error_when_everything_goes_wrong(service, keys, postgres):
    key = keys("create", "alice", "--scope", "jobs:read").stdout.strip()
    secret = key.partition(".")[2]
    name = service.environ["DATABASE_URL"].rpartition("/")[2]
    with Proxy(postgres.port) as proxy:
        url = f"postgresql://{postgres.USER}:{postgres.PASSWORD}@{HOST}:{proxy.port}/{name}"
        api = service.start_api(DATABASE_URL=url, LOG_LEVEL="debug")
        bodies = [
            ask(service.api_port, "GET", path, key=sent)[2] for path in ("/jobs", CHEAP) for sent in (key, key[:-1])
        ]
        bodies.append(ask(service.api_port, "POST", "/jobs", JOB, key=key)[2])
        bodies.append(ask(service.api_port, "GET", f"/jobs?cursor={key}", key=key)[2]["code"])
        proxy.down()
        eventually(lambda: code_of(service.api_port, key) == "database_unavailable", what="an outage")
        bodies.append(ask(service.api_port, "GET", "/jobs", key=key)[2])
        service.stop()

    assert secret not in json.dumps(bodies)
    assert secret not in service.log(api)
