"""GET /jobs/{job_id}/output over the wire, with the files in a folder and in a bucket."""

import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from uuid import uuid4

import psutil
import pytest
from databases import TEMPLATE
from eventually import eventually
from hypothesis import given, settings as examples, strategies as st
from rows import add_worker, claim_one, complete_one
from samples import new_job
from service import QUICK, ROOT, Service

from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.ids import new_id
from jobs_service.jobs import lifecycle
from jobs_service.outputs.assembly import open_outputs

DOCS = ROOT / "docs" / "api.md"
CONTENT = b"key,value\nname,Alice\nscore,95\n"


class Api:
    """An API, its database and its store, in which the test writes jobs and files itself."""

    def __init__(self, kind, environ, folder):
        self.kind = kind
        self.service = Service(environ, folder)
        settings = Settings.from_env(environ)
        self.database, self.outputs = open_database(settings), open_outputs(settings)
        self.worker_id = uuid4()
        add_worker(self.database, self.worker_id)

    def pending(self):
        job = new_job(payload="{}")
        lifecycle.submit(self.database, [job])
        return job.id

    def completed(self, result=None, **files):
        """Write a completed job whose files have these extensions, and return its id."""
        job_id = self.pending()
        for extension, content in files.items():
            self.outputs.write(f"{job_id}.{extension}", content)
        names = [f"output/{job_id}.{extension}" for extension in files]
        shown = names[0] if names else None
        claim = claim_one(self.database, job_id, self.worker_id)
        complete_one(self.database, claim, json.dumps(shown if result is None else result(job_id)))
        return job_id

    def get(self, job_id, query="", *, method="GET", **headers):
        return self.ask(method, f"/jobs/{job_id}/output{query}", **headers)

    def ask(self, method, path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.service.api_port, timeout=60)
        try:
            return Answer(connection, method, path, headers)
        finally:
            connection.close()

    def end(self):
        self.service.end()
        self.database.discard()


class Answer:
    """An answer, read to its end."""

    def __init__(self, connection, method, path, headers):
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=sent)
        response = connection.getresponse()
        self.status, self.headers = response.status, response.headers
        self.body = response.read()

    @property
    def code(self):
        return json.loads(self.body)["code"]


@pytest.fixture(scope="module", params=["folder", "bucket"])
def api(request, postgres, valkey, s3, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    name = f"outputs_{request.param}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    environ = {**QUICK, "DATABASE_URL": postgres.url_of(name), "REDIS_URL": f"{valkey.url}/0"}
    if request.param == "folder":
        environ["OUTPUT_DIR"] = str(folder / "output")
    else:
        s3.make_bucket("bucket-of-the-api")
        environ |= {"OUTPUT_URL": s3.url_of("bucket-of-the-api"), "OUTPUT_TIMEOUT_SECONDS": "5"}
    api = Api(request.param, environ, folder)
    api.service.start_api()
    yield api
    api.end()
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def job_id(api):
    return api.completed(csv=CONTENT)


def test_the_file_of_a_job_is_downloaded(api, job_id):
    answer = api.get(job_id)

    assert (200, CONTENT) == (answer.status, answer.body)
    shown = {name: answer.headers[name] for name in ("Content-Type", "Content-Length", "Accept-Ranges")}
    assert {"Content-Type": "text/csv; charset=utf-8", "Content-Length": "30", "Accept-Ranges": "bytes"} == shown
    disposition = f"attachment; filename=\"{job_id}.csv\"; filename*=UTF-8''{job_id}.csv"
    assert disposition == answer.headers["Content-Disposition"]
    assert "nosniff" == answer.headers["X-Content-Type-Options"]
    assert answer.headers["ETag"].startswith('"')
    assert parsedate_to_datetime(answer.headers["Last-Modified"]) <= datetime.now(UTC)
    assert answer.headers["X-Request-ID"]


def test_head_has_the_headers_and_no_body(api, job_id):
    get, head = api.get(job_id), api.get(job_id, method="HEAD", Range="bytes=0-1")

    assert (200, b"") == (head.status, head.body)
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Length", "Content-Disposition", "Accept-Ranges"):
        assert get.headers[name] == head.headers[name]


def test_a_part_is_downloaded(api, job_id):
    answer = api.get(job_id, Range="bytes=10-19")

    assert (206, CONTENT[10:20]) == (answer.status, answer.body)
    assert ("bytes 10-19/30", "10") == (answer.headers["Content-Range"], answer.headers["Content-Length"])
    assert CONTENT[-5:] == api.get(job_id, Range="bytes=-5").body
    assert CONTENT[25:] == api.get(job_id, Range="bytes=25-").body


def test_several_ranges_are_answered_with_the_whole_file(api, job_id):
    answer = api.get(job_id, Range="bytes=0-1,5-6")

    assert (200, CONTENT) == (answer.status, answer.body)


def test_a_range_behind_the_end_is_refused_with_the_size(api, job_id):
    answer = api.get(job_id, Range="bytes=30-")

    assert (416, "range_not_satisfiable") == (answer.status, answer.code)
    assert "bytes */30" == answer.headers["Content-Range"]


def test_what_the_client_has_is_not_sent_again(api, job_id):
    first = api.get(job_id)

    for headers in (
        {"If_None_Match": first.headers["ETag"]},
        {"If_None_Match": "*"},
        {"If_Modified_Since": first.headers["Last-Modified"]},
    ):
        answer = api.get(job_id, Range="bytes=0-1", **headers)
        assert (304, b"") == (answer.status, answer.body), headers
        assert first.headers["ETag"] == answer.headers["ETag"]
    assert 200 == api.get(job_id, If_None_Match='"other"').status


def test_a_download_is_resumed_only_if_the_file_is_the_same(api):
    job_id = api.completed(csv=CONTENT)
    first = api.get(job_id)

    for validator in (first.headers["ETag"], first.headers["Last-Modified"]):
        assert 206 == api.get(job_id, Range="bytes=10-", If_Range=validator).status
    api.outputs.write(f"{job_id}.csv", b"another content of another length")
    changed = api.get(job_id, Range="bytes=10-", If_Range=first.headers["ETag"])
    refused = api.get(job_id, Range="bytes=10-", If_Match=first.headers["ETag"])

    assert (200, b"another content of another length") == (changed.status, changed.body)
    assert (412, "precondition_failed") == (refused.status, refused.code)


def test_curl_resumes_a_download_as_the_docs_say(api, job_id, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    path = tmp_path / "report.csv"
    path.write_bytes(CONTENT[:10])
    [command] = re.findall(r"^(curl .*/output)$", DOCS.read_text(), re.MULTILINE)
    here = f"http://127.0.0.1:{api.service.api_port}"
    command = command.replace("http://localhost:3000", here).replace("<job-id>", str(job_id))

    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)

    assert CONTENT == path.read_bytes()


def test_an_empty_file_is_downloaded(api):
    job_id = api.completed(csv=b"")

    answer = api.get(job_id)
    assert (200, "0", b"") == (answer.status, answer.headers["Content-Length"], answer.body)
    assert 200 == api.get(job_id, Range="bytes=-5").status
    assert 416 == api.get(job_id, Range="bytes=0-").status


def test_a_job_without_an_end_has_no_output_yet(api):
    job_id = api.pending()

    assert (409, "not_finished") == ((answer := api.get(job_id)).status, answer.code)
    claim = claim_one(api.database, job_id, api.worker_id)
    assert (409, "not_finished") == ((answer := api.get(job_id)).status, answer.code)
    complete_one(api.database, claim, "null")
    assert (404, "output_not_found") == ((answer := api.get(job_id)).status, answer.code)


def test_a_cancelled_job_has_no_output(api):
    job_id = api.pending()
    lifecycle.cancel(api.database, job_id, lost_reply=lifecycle.LostReply())
    api.outputs.write(f"{job_id}.csv", b"of an earlier attempt")

    for query in ("", f"?name={job_id}.csv"):
        answer = api.get(job_id, query)
        assert (404, "output_not_found") == (answer.status, answer.code)


def test_a_job_that_does_not_exist_is_not_found(api):
    for job_id in (new_id(), "no-id", f"{new_id()}.csv"):
        answer = api.get(job_id)
        assert (404, "job_not_found") == (answer.status, answer.code)


def test_a_file_that_was_deleted_is_gone(api):
    job_id = api.completed(csv=CONTENT)
    api.outputs.remove([f"{job_id}.csv"])

    answer = api.get(job_id)
    assert (410, "output_gone") == (answer.status, answer.code)


def test_a_job_with_several_files_has_each_by_its_name(api):
    job_id = api.completed(
        lambda job_id: {"files": [f"output/{job_id}.txt", f"output/{job_id}.csv"], "rows": 3},
        txt=b"first",
        csv=b"second",
        unnamed=b"third",
    )

    assert b"first" == api.get(job_id).body
    assert "text/plain; charset=utf-8" == api.get(job_id).headers["Content-Type"]
    assert b"second" == api.get(job_id, f"?name={job_id}.csv").body
    assert b"second" == api.get(job_id, f"?name=output/{job_id}.csv").body
    unnamed = api.get(job_id, f"?name={job_id}.unnamed")
    assert (b"third", "application/octet-stream") == (unnamed.body, unnamed.headers["Content-Type"])
    missing = api.get(job_id, f"?name={job_id}.pdf")
    assert (404, "output_not_found") == (missing.status, missing.code)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..%2Fsecret",
        "%2e%2e%2fsecret",
        "/etc/passwd",
        "output/../secret",
        "a%00b",
        "a.csv%0a",
        "a%0d%0aX-Injected:%201",
        ".incomplete-0",
        "%C3%A4.csv",
        "a" * 201,
        "",
    ],
)
def test_a_name_that_is_no_plain_one_is_refused(api, job_id, name):
    answer = api.get(job_id, f"?name={name}")

    assert (422, "invalid_request") == (answer.status, answer.code)
    assert "name" == json.loads(answer.body)["errors"][0]["pointer"]
    assert "X-Injected" not in answer.headers


@pytest.mark.parametrize("path", ["/jobs/%2e%2e/output", "/jobs/..%2f..%2fetc/output", "/jobs/x/output/../../secret"])
def test_no_path_leads_out(api, path):
    assert 404 == api.ask("GET", path).status


def test_no_job_has_the_file_of_another(api, job_id):
    """Whatever its result says, and whatever the client asks for."""
    thief = api.completed(lambda _: {"file": f"output/{job_id}.csv", "other": ["output/../secret", "output/x.csv"]})
    api.outputs.write("x.csv", b"of no job")

    for query in ("", f"?name={job_id}.csv", "?name=x.csv"):
        answer = api.get(thief, query)
        assert (404, "output_not_found") == (answer.status, answer.code), query


def test_a_result_that_looks_like_a_reference_does_no_harm(api):
    results = [
        lambda job_id: f"output/{job_id}.",
        lambda job_id: f"output/{job_id}.{'x' * 300}",
        lambda job_id: f"output/{job_id}./../secret",
        lambda job_id: f'"output/{job_id}.csv"',
        lambda job_id: f"output/{job_id}.csv\r\nX-Injected: 1",
        lambda job_id: {f"output/{job_id}.a b": [[[[None, 1e300, True]]]]},
    ]

    for result in results:
        answer = api.get(api.completed(result))
        assert answer.status in (404, 410), answer.body
        assert "X-Injected" not in answer.headers


@examples(max_examples=60)
@given(
    header=st.one_of(
        st.from_regex(r"\Abytes=\d{0,3}-\d{0,3}(,\d?-\d?)?\Z"), st.text("bytes=0123456789-, ", max_size=30)
    )
)
def test_no_range_breaks_an_answer(api, job_id, header):
    answer = api.get(job_id, Range=header.strip().encode())

    if answer.status == 206:
        first, last = map(int, answer.headers["Content-Range"].removeprefix("bytes ").partition("/")[0].split("-"))
        assert CONTENT[first : last + 1] == answer.body
    elif answer.status == 200:
        assert CONTENT == answer.body
    else:
        assert (416, "bytes */30") == (answer.status, answer.headers["Content-Range"])


#: Of a large file: more than all buffers between the service and its client. The S3 server keeps its own in memory.
LARGE = {"folder": 200 * 2**20, "bucket": 40 * 2**20}


@pytest.fixture(scope="module")
def large(api):
    """The id of a job with a large file, and the file's size."""
    job_id = api.completed(bin=b"")
    if api.kind == "folder":
        os.truncate(api.outputs._directory / f"{job_id}.bin", LARGE["folder"])
    else:
        api.outputs.write(f"{job_id}.bin", bytes(LARGE["bucket"]))
    return job_id, LARGE[api.kind]


def serving(api):
    """Return the process that serves the API."""
    main = psutil.Process(api.service.children[0].pid)
    return max([main, *main.children()], key=lambda process: process.memory_info().rss)


def test_a_large_file_is_downloaded_with_little_memory(api, large):
    job_id, size = large
    process = serving(api)
    before, most, count = process.memory_info().rss, 0, 0
    connection = http.client.HTTPConnection("127.0.0.1", api.service.api_port, timeout=60)
    connection.request("GET", f"/jobs/{job_id}/output")
    response = connection.getresponse()
    while piece := response.read(2**20):
        count += len(piece)
        most = max(most, process.memory_info().rss)
    connection.close()

    assert size == count
    assert most - before < 2**24


def test_no_download_is_refused_in_the_middle_of_its_file(api):
    """With more clients than calls may wait for a thread elsewhere. At the beginning they may be told to come again."""
    job_id, size = api.completed(bin=bytes(2**19)), 2**19

    async def download(_):
        status, body = b"503", b""
        while status == b"503":
            reader, writer = await asyncio.open_connection("127.0.0.1", api.service.api_port)
            writer.write(f"GET /jobs/{job_id}/output HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status, body = head.split()[1], await reader.read(-1)
            writer.close()
        return status, len(body)

    async def download_all():
        return await asyncio.gather(*map(download, range(300)))

    assert {(b"200", size)} == set(asyncio.run(download_all()))


def test_a_download_whose_file_is_replaced_ends_early(api, large):
    """A client that has the beginning of one file never gets the end of another."""
    job_id, size = large
    connection = http.client.HTTPConnection("127.0.0.1", api.service.api_port, timeout=60)
    connection.request("GET", f"/jobs/{job_id}/output")
    response = connection.getresponse()
    response.read(1)
    api.outputs.write(f"{job_id}.bin", b"x" * size)

    with pytest.raises(http.client.IncompleteRead):
        response.read()

    connection.close()


def test_readers_that_stall_hold_no_thread_no_file_and_little_memory(api, large):
    """More of them than there are threads, of a file that is larger than what they may take together."""
    job_id, _ = large
    process = serving(api)
    files, memory = process.num_fds(), process.memory_info().rss
    clients = [socket.create_connection(("127.0.0.1", api.service.api_port)) for _ in range(20)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.sendall(f"GET /jobs/{job_id}/output HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    for client in clients:
        assert client.recv(1)

    small_id = api.completed(csv=CONTENT)
    assert CONTENT == api.get(small_id).body
    assert process.memory_info().rss - memory < 20 * 2 * 2**20 + 2**24
    # One for each client, and those to the store, which are as many as threads.
    eventually(lambda: process.num_fds() <= files + 20 + 8, what="no open file for a reader")
    for client in clients:
        client.close()


@contextmanager
def away(api, s3):
    """Have the bucket refuse its keys, or put a file in the place of the folder."""
    if api.kind == "bucket":
        s3.check_keys(are_checked=True)
        yield
        s3.check_keys(are_checked=False)
    else:
        folder, hidden = api.outputs._directory, api.outputs._directory.with_name("hidden")
        folder.rename(hidden)
        folder.touch()
        yield
        folder.unlink()
        hidden.rename(folder)


def test_a_store_that_is_away_is_said_so(api, s3):
    """And that it is back."""
    job_id = api.completed(csv=CONTENT)
    with away(api, s3):
        answer = api.get(job_id)
        assert (503, "output_store_unavailable", "2") == (answer.status, answer.code, answer.headers["Retry-After"])
        assert 200 == api.ask("GET", f"/jobs/{job_id}").status

    eventually(lambda: api.get(job_id).status == 200, what="a store that is back")
