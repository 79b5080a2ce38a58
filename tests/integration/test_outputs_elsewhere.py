"""API and workers that share no folder: the files are in a bucket, which may be away."""

import json
import urllib.request
from email import message_from_bytes, policy

import pytest
from eventually import eventually
from proxy import Proxy
from s3_server import KEYS
from smtp_server import SmtpServer

from jobs_service.output_url import location_of

TABLE = [{"name": "Alice", "score": 95}]
CONTENT = b"name,score\nAlice,95\n"


@pytest.fixture
def proxy(s3):
    with Proxy(s3.port) as proxy:
        yield proxy


@pytest.fixture
def bucket(bucket_url):
    return location_of(bucket_url).bucket


@pytest.fixture
def elsewhere(service, s3, proxy, bucket_url, tmp_path):
    """A service whose folder for files cannot be used, and whose bucket is behind a proxy."""
    (tmp_path / "output").touch()
    service.environ |= {
        "OUTPUT_URL": bucket_url.replace(f":{s3.port}", f":{proxy.port}"),
        "OUTPUT_TIMEOUT_SECONDS": "2",
    }
    service.server = f"http://127.0.0.1:{proxy.port}/{location_of(bucket_url).bucket}"
    return service


def download(service, job_id):
    with urllib.request.urlopen(f"http://127.0.0.1:{service.api_port}/jobs/{job_id}/output", timeout=20) as reply:
        return reply.read()


def test_files_are_in_the_bucket_and_jobs_wait_while_it_is_away(elsewhere, s3, proxy, bucket):
    with SmtpServer() as smtp:
        api = elsewhere.start_api()
        worker = elsewhere.start_worker(MAIL_HOST="127.0.0.1", MAIL_PORT=str(smtp.port))
        csv = elsewhere.when(elsewhere.post("csv-generation", TABLE), "completed")
        mail = {"to": "ann@example.net", "subject": "s", "body": "b", "attachments": [{"output": csv["result"]}]}
        elsewhere.when(elsewhere.post("EMAIL_SEND", mail), "completed")

        assert CONTENT == download(elsewhere, csv["job_id"])
        assert [f"team/output/{csv['job_id']}.csv"] == s3.keys(bucket)
        assert 0 == (checked := elsewhere.run("check")).returncode, checked.stderr

        waiting = while_it_is_away(elsewhere, proxy, csv, mail)
        for job_id in waiting:
            elsewhere.when(job_id, "completed")
        eventually(lambda: download(elsewhere, csv["job_id"]) == CONTENT, what="a download")

    for received in smtp.mails:
        [attached] = message_from_bytes(received.content, policy=policy.default).iter_attachments()
        assert CONTENT == attached.get_payload(decode=True)
    assert 2 == len(smtp.mails)
    assert not [key for key in KEYS if key in elsewhere.log(api) + elsewhere.log(worker) + checked.stdout]


def while_it_is_away(elsewhere, proxy, csv, mail):
    """Return the jobs that wait for the bucket, which is back then. They have used no attempt, and others run."""
    proxy.down()
    waiting = [
        elsewhere.post("csv-generation", TABLE, max_attempts=1),
        elsewhere.post("EMAIL_SEND", mail, max_attempts=1),
    ]
    for job_id in waiting:
        eventually(
            lambda job_id=job_id: elsewhere.job(job_id)["waits_for"] == elsewhere.server, what="a job that waits"
        )
    job = elsewhere.job(waiting[0])
    assert ("pending", 0) == (job["status"], job["attempts"])
    assert "the output store does not answer" in job["error"]
    status, problem = elsewhere.get(f"/jobs/{csv['job_id']}/output")
    assert (503, "output_store_unavailable") == (status, problem["code"])
    elsewhere.when(elsewhere.post("test-echo", {}), "completed")
    proxy.heal()
    return waiting


def test_a_missing_bucket_is_said_on_the_job_and_by_the_check(elsewhere, s3, proxy):
    elsewhere.environ["OUTPUT_URL"] = s3.url_of("made-too-late").replace(f":{s3.port}", f":{proxy.port}")
    advice = "the output store has no such bucket: create it, or correct OUTPUT_URL"
    api = elsewhere.start_api()
    worker = elsewhere.start_worker()
    assert advice in elsewhere.log(api)

    job_id = elsewhere.post("csv-generation", TABLE)
    eventually(lambda: advice in (elsewhere.job(job_id)["error"] or ""), what="what to do")
    checked = elsewhere.run("check")
    assert (1, True) == (checked.returncode, advice in checked.stderr)
    assert 1 == len(checked.stderr.splitlines())

    s3.make_bucket("made-too-late")
    elsewhere.when(job_id, "completed")
    assert advice in elsewhere.log(worker)


def test_a_file_goes_with_its_job_and_a_bucket_that_is_away_holds_up_nothing_else(elsewhere, s3, proxy, bucket):
    """The pruner waits for it, and says so once."""
    elsewhere.start_api()
    worker = elsewhere.start_worker(RETENTION_COMPLETED_SECONDS="1", PRUNE_INTERVAL_SECONDS="0.2")
    job_id = elsewhere.post("csv-generation", TABLE)
    eventually(lambda: elsewhere.get(f"/jobs/{job_id}")[0] == 404, what="a deleted job")
    assert [] == s3.keys(bucket)
    assert 404 == elsewhere.get(f"/jobs/{job_id}/output")[0]

    proxy.blackhole()
    # No job is deleted as long as its files cannot be.
    elsewhere.when(elsewhere.post("test-echo", {}), "completed")
    eventually(lambda: "Maintenance waits for a server" in elsewhere.log(worker), what="a pruner that waits")
    elsewhere.when(elsewhere.post("test-echo", {}, delay_seconds=1), "completed")

    lines = [json.loads(line) for line in elsewhere.log(worker).splitlines() if "Maintenance waits" in line]
    assert ["pruner"] == [line["maintenance"] for line in lines]
