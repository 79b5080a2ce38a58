"""Clients of others that send a request again when its answer is lost: with an Idempotency-Key, it is one job."""

import json

import pytest
import requests
from foreign_tools import TOOLS, node_tools, run
from proxy import Proxy
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

__all__ = ["node_tools"]

BODY = json.dumps({"type": "csv-generation", "payload": {"name": "Alice", "score": 95}})
#: As the draft has it, a String of structured fields; and as many clients send it.
KEYS = ['"order-4711"', "order-4711"]
LOST = 2


@pytest.fixture
def losing(service):
    """The port of a proxy before an API, which loses the first answers to a request with the key."""
    service.start_api()
    parameters = service.get("/openapi.json")[1]["paths"]["/jobs"]["post"]["parameters"]
    if "Idempotency-Key" not in {parameter.get("name") for parameter in parameters}:
        pytest.skip("this API takes no Idempotency-Key")
    with Proxy(service.api_port) as proxy:
        proxy.lose_reply(b"order-4711", times=LOST)
        yield proxy


def check(service, proxy, answer):
    """The answer is that to the first request, and there is one job."""
    [job] = service.get("/jobs")[1]["jobs"]
    assert LOST == proxy.lost
    assert (201, "true") == (answer["status"], answer["replayed"])
    assert {"job_id": job["job_id"], "status": "pending"} == json.loads(answer["body"])
    assert f"/jobs/{job['job_id']}" == answer["location"]


@pytest.mark.parametrize("key", KEYS)
def test_requests_with_urllib3s_retries_submits_one_job(service, losing, key):
    retries = Retry(total=5, allowed_methods={"POST"}, status_forcelist={409, 429, 503}, backoff_factor=0.01)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retries))
        url, headers = (
            f"http://127.0.0.1:{losing.port}/jobs",
            {"Content-Type": "application/json", "Idempotency-Key": key},
        )
        reply = session.post(url, data=BODY, headers=headers, timeout=60)

    headers = reply.headers
    answer = {"status": reply.status_code, "body": reply.text, "location": headers["Location"]}
    check(service, losing, {**answer, "replayed": headers.get("Idempotent-Replayed")})


@pytest.mark.parametrize("key", KEYS)
def test_got_with_its_retries_submits_one_job(service, losing, key, node_tools):
    script = node_tools / "retries.mjs"
    script.write_text((TOOLS / "retries.mjs").read_text())

    finished = run(["node", script, f"http://127.0.0.1:{losing.port}/jobs", key, BODY], cwd=node_tools)

    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    check(service, losing, answer)
    assert LOST == answer["retries"]
