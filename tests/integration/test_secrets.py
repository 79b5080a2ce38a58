"""What a job is about, and what opens a door, is in no log line, no metric, no span and no value in Redis."""

import http.client
import json
import urllib.request
from types import SimpleNamespace
from uuid import uuid4

import pytest
from eventually import eventually
from otlp import Receiver
from proxy import Proxy
from smtp_server import SmtpServer

from devstack.servers import HOST

#: In everything planted, and in nothing else.
MARK = "kittiwake"

PASSWORD = f"{MARK}-password"
PAYLOAD = {f"{MARK}-key": f"{MARK}-value", "list": [f"{MARK}-item"]}
MAIL = {
    "to": f"to@{MARK}.example",
    "bcc": [f"bcc@{MARK}.example"],
    "subject": f"{MARK}-subject",
    "body": f"{MARK}-body",
}
HEADERS = {
    "Authorization": f"Bearer {MARK}-token",
    "Cookie": f"session={MARK}-cookie",
    "X-Api-Key": f"{MARK}-api-key",
}
REFUSALS = {
    "EHLO": "250-test\r\n250 AUTH PLAIN LOGIN",
    "AUTH": "235 welcome",
    f"RCPT refused@{MARK}.example": f"550 5.1.1 no such user refused@{MARK}.example",
}


@pytest.fixture
def proxies(postgres, valkey):
    with Proxy(postgres.port) as database, Proxy(valkey.port) as redis:
        yield SimpleNamespace(database=database, redis=redis)


@pytest.fixture
def collector():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def guarded(service, postgres, valkey, proxies, collector):
    """A service whose servers all ask for a password, and which says as much as it can."""
    database = service.environ["DATABASE_URL"].rpartition("/")[2]
    postgres.execute(f"CREATE ROLE guarded SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    with valkey.client() as client, SmtpServer(REFUSALS) as smtp:
        client.execute_command("ACL", "SETUSER", "guarded", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        service.environ |= {
            "DATABASE_URL": f"postgresql://guarded:{PASSWORD}@{HOST}:{proxies.database.port}/{database}",
            "REDIS_URL": f"redis://guarded:{PASSWORD}@{HOST}:{proxies.redis.port}/0",
            "MAIL_HOST": HOST,
            "MAIL_PORT": str(smtp.port),
            "MAIL_USERNAME": f"{MARK}-user",
            "MAIL_PASSWORD": PASSWORD,
            "LOG_LEVEL": "debug",
            "OTEL_ENABLED": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={MARK}-token",
        }
        yield service
        service.stop()
        client.execute_command("ACL", "DELUSER", "guarded")
    postgres.execute("DROP ROLE guarded")


@pytest.fixture
def in_redis(valkey):
    """Return everything that lies in Redis, as text."""

    def read():
        readers = {b"string": "GET", b"hash": "HGETALL", b"set": "SMEMBERS"}
        with valkey.client() as client:
            ranges = {b"list": client.lrange, b"zset": client.zrange}
            found = []
            for key in client.scan_iter():
                kind = client.type(key)
                value = ranges[kind](key, 0, -1) if kind in ranges else client.execute_command(readers[kind], key)
                found.append((key, value))
        return repr(found)

    return read


def test_planted_secrets_are_nowhere_to_be_found(guarded, in_redis, proxies, collector, row):
    api = guarded.start_api()
    seen = {}

    jobs = [submit(guarded, job_type, payload) for job_type, payload in submissions()]
    refused = [ask(guarded, body) for body in refusals()]
    seen["Redis, jobs waiting"] = in_redis()
    worker = guarded.start_worker()
    expected = ["completed", "completed", "failed", "failed"]
    for job_id, status in zip(jobs, expected, strict=True):
        guarded.when(job_id, status)

    proxies.redis.down()
    jobs.append(submit(guarded, "csv-generation", PAYLOAD))
    proxies.redis.heal()
    guarded.when(jobs[-1], "completed")
    proxies.database.down()
    refused.append(ask(guarded, json.dumps({"type": "csv-generation", "payload": PAYLOAD}).encode()))
    eventually(lambda: "PostgreSQL" in guarded.log(api), what="the outage in the log")
    proxies.database.heal()
    eventually(lambda: guarded.get("/readyz")[0] == 200, what="a ready API")
    guarded.when(submit(guarded, "csv-generation", PAYLOAD), "completed")

    seen["Redis, jobs done"] = in_redis()
    seen["metrics of the API"] = metrics(guarded.api_port)
    seen["metrics of the workers"] = metrics(guarded.metrics_port)
    guarded.stop()
    seen["log of the API"], seen["log of the workers"] = guarded.log(api), guarded.log(worker)
    seen["spans"] = "\n".join(span.text for span in collector.spans)

    assert [422, 422, 400, 422, 503] == refused
    # The search can find something: what was planted is on the row, and the jobs are in what is searched.
    assert MARK in json.dumps(row(jobs[0], "payload"))
    assert MARK in row(jobs[3], "error")
    assert all(jobs[2] in seen[place] for place in seen if not place.startswith("metrics"))
    assert [] == [place for place, text in seen.items() if MARK in text.lower()]


def submissions():
    yield "csv-generation", PAYLOAD
    yield "EMAIL_SEND", MAIL
    yield "EMAIL_SEND", MAIL | {"to": f"refused@{MARK}.example", "bcc": []}
    yield "test-quote", {"text": f"{MARK}-quoted"}


def refusals():
    yield json.dumps({"type": f"{MARK}-type", "payload": {}}).encode()
    yield json.dumps({"type": "EMAIL_SEND", "payload": MAIL | {"to": f"{MARK} is no address"}}).encode()
    yield f'{{"type": "csv-generation", "payload": "{MARK}'.encode()
    yield json.dumps({"type": "csv-generation", "payload": {f"{MARK}\0": 1}}).encode()


def submit(service, job_type, payload):
    connection, reply = _post(service, json.dumps({"type": job_type, "payload": payload, "max_attempts": 2}).encode())
    body = json.loads(reply.read())
    connection.close()
    assert 201 == reply.status, body
    return body["job_id"]


def ask(service, body):
    """Return the status."""
    connection, reply = _post(service, body)
    connection.close()
    return reply.status


def _post(service, body):
    connection = http.client.HTTPConnection(HOST, service.api_port, timeout=20)
    connection.request("POST", "/jobs", body, {"Content-Type": "application/json", **HEADERS, **_a_key()})
    return connection, connection.getresponse()


def _a_key():
    """Return a header that is another one for each job."""
    return {"Idempotency-Key": f"{MARK}-{uuid4()}"}


def metrics(port):
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=15) as reply:
        return reply.read().decode()
