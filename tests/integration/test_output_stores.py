"""What every store of files promises, tried on a folder and on a bucket; and what a bucket does when it is away."""

import socket
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from eventually import eventually
from rows import pruner
from s3_server import KEYS

from jobs_service.circuit_breaker import CircuitBreaker
from jobs_service.config import Settings
from jobs_service.errors import KnownUnavailable, NotReady, Rejected, Unavailable
from jobs_service.ids import new_id
from jobs_service.maintenance.service import Turn
from jobs_service.output_url import location_of
from jobs_service.outputs import contract
from jobs_service.outputs.assembly import open_outputs
from jobs_service.outputs.contract import OutputChanged
from jobs_service.outputs.s3 import S3Outputs
from jobs_service.readiness import preflight
from jobs_service.worker.attempt import Cancelled, raise_thread_exception

REQUIRED = {"DATABASE_URL": "postgresql://x@localhost/x", "REDIS_URL": "redis://localhost"}


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path):
    if request.param == "folder":
        return open_outputs(Settings.from_env({**REQUIRED, "OUTPUT_DIR": str(tmp_path / "out")}))
    return open_outputs(Settings.from_env({**REQUIRED, "OUTPUT_URL": request.getfixturevalue("bucket_url")}))


def names_of(store, *job_ids):
    search = store.search(job_ids)
    eventually(partial(search.go_on, seconds=1), what="the end of the search")
    return search.files_of(job_ids)


def test_a_file_is_read_under_its_name(store):
    assert "output/a.csv" == store.write("a.csv", b"hello")

    assert b"hello" == store.read("a.csv", max_bytes=5)


def test_a_second_file_of_the_name_replaces_the_first(store):
    store.write("a.csv", b"a longer first one")
    store.write("a.csv", b"second")

    assert b"second" == store.read("a.csv", max_bytes=100)


def test_an_empty_file_is_a_file(store):
    store.write("a.csv", b"")

    assert b"" == store.read("a.csv", max_bytes=0)
    assert 0 == store.find("a.csv").size


def test_a_file_that_is_too_large_is_not_read(store):
    store.write("a.csv", b"hello")

    with pytest.raises(Rejected, match=r"output/a.csv has 5 bytes, more than the limit of 4"):
        store.read("a.csv", max_bytes=4)


def test_a_file_that_is_not_there_is_named(store):
    store.write("b.csv", b"another")

    with pytest.raises(FileNotFoundError, match=r"output/a.csv does not exist"):
        store.read("a.csv", max_bytes=5)
    assert store.find("a.csv") is None


@pytest.mark.parametrize("name", ["", "..", "../a", "/etc/a", "a/b", ".hidden", "a\0b", "a\nb", "ä.csv", "a" * 201])
def test_only_a_plain_name_is_taken(store, name):
    for call in (partial(store.write, name, b""), partial(store.read, name, max_bytes=5), partial(store.find, name)):
        with pytest.raises(ValueError, match="plain file name"):
            call()


def test_a_file_is_found_with_its_size_and_date(store):
    store.write("a.csv", b"hello")

    found = store.find("a.csv")

    assert ("a.csv", 5) == (found.name, found.size)
    assert found == store.find("a.csv")
    assert found.etag[0] == found.etag[-1] == '"'
    assert abs(found.modified - datetime.now(UTC)) < timedelta(minutes=1)


def test_another_content_has_another_tag(store):
    store.write("a.csv", b"hello")
    first = store.find("a.csv").etag
    store.write("a.csv", b"olleh")

    assert first != store.find("a.csv").etag


def test_a_file_is_read_in_pieces(store):
    content = bytes(range(256)) * 40
    store.write("a.bin", content)
    found = store.find("a.bin")

    pieces = [store.read_piece(found, start, 3_000) for start in range(0, len(content), 3_000)]

    assert [3_000, 3_000, 3_000, 1_240] == [len(piece) for piece in pieces]
    assert content == b"".join(pieces)


def test_a_piece_is_never_one_of_another_file(store):
    store.write("a.csv", b"first")
    found = store.find("a.csv")
    store.write("a.csv", b"other")

    with pytest.raises(OutputChanged):
        store.read_piece(found, 0, 5)
    replaced = store.find("a.csv")
    store.remove(["a.csv"])
    with pytest.raises(OutputChanged):
        store.read_piece(replaced, 0, 5)


def test_the_files_of_a_job_are_found_and_no_other(store):
    before, job_id, without, other, after = (new_id() for _ in range(5))
    for name in (
        f"{before}.csv",
        f"{job_id}.csv",
        f"{job_id}.report.txt",
        f"{other}.csv",
        f"{after}.csv",
        "report.csv",
    ):
        store.write(name, b"x")

    assert {f"{job_id}.csv", f"{job_id}.report.txt"} == set(names_of(store, job_id, without))
    assert [] == names_of(store, without)
    assert [] == names_of(store)


def test_a_search_of_several_pieces_finds_all(store, monkeypatch):
    monkeypatch.setattr(contract, "_PIECE", 2)
    job_ids = [new_id() for _ in range(5)]
    for job_id in job_ids:
        store.write(f"{job_id}.csv", b"x")
    search = store.search(job_ids)

    assert [False, False, True] == [search.go_on(seconds=0) for _ in range(3)]
    assert {f"{job_id}.csv" for job_id in job_ids} == set(search.files_of(job_ids))


def test_what_is_removed_is_gone_and_removed_again_without_an_error(store):
    store.write("a.csv", b"x")
    store.write("b.csv", b"x")

    store.remove(["a.csv", "c.csv"])
    store.remove(["a.csv"])
    store.remove([])

    assert (None, 1) == (store.find("a.csv"), store.find("b.csv").size)


def test_there_is_nothing_to_reap(store):
    store.write("a.csv", b"x")

    assert 0 == store.reap()
    assert b"x" == store.read("a.csv", max_bytes=1)


def test_a_store_that_can_be_read_passes_the_check(store):
    store.check()


def test_the_pruner_deletes_files_with_their_jobs(database, store, finish, row):
    [old], [young] = finish(days=8), finish(days=6)
    for job_id in (old, young):
        store.write(f"{job_id}.csv", b"x")
        store.write(f"{job_id}.report.txt", b"x")
    service = pruner(database, store, completed=7)

    eventually(lambda: service.run_once(Turn())["completed"], what="a deleted job")

    assert (None, "completed") == (row(old, "status"), row(young, "status"))
    assert [] == names_of(store, old)
    assert 2 == len(names_of(store, young))


# What follows is about a bucket alone.


def outputs_at(url, *, seconds=20.0, breaker=None):
    return S3Outputs(location_of(url), timeout_seconds=seconds, breaker=breaker)


def test_objects_are_below_the_prefix(s3, bucket_url):
    outputs_at(bucket_url).write("a.csv", b"x")

    assert ["team/output/a.csv"] == s3.keys(location_of(bucket_url).bucket)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_what_the_url_does_not_say_is_in_the_usual_variables(s3, bucket_url, monkeypatch, variable):
    key, secret = KEYS
    environ = {variable: s3.url, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    bucket = location_of(bucket_url).bucket
    outputs = outputs_at(f"s3://{bucket}")

    outputs.write("a.csv", b"x")

    assert ["a.csv"] == s3.keys(bucket)
    assert f"{s3.url}/{bucket}" == outputs._server


def test_the_url_counts_more_than_the_variables(s3, bucket_url, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    outputs = outputs_at(bucket_url)

    outputs.write("a.csv", b"x")

    assert f"{s3.url}/{location_of(bucket_url).bucket}" == outputs._server


def test_without_keys_it_says_which_to_set(s3, monkeypatch):
    """Machines at Amazon get theirs from an address that elsewhere is another server, or none."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(Unavailable, match="there are no keys for the output store: set AWS_ACCESS_KEY_ID"):
        outputs_at(f"s3://bucket?endpoint={s3.url}").check()


def test_more_files_than_one_request_lists_or_deletes(bucket_url, monkeypatch):
    monkeypatch.setattr("jobs_service.outputs.s3._PAGE", 2)
    monkeypatch.setattr("jobs_service.outputs.s3._DELETED_AT_ONCE", 2)
    outputs, job_ids = outputs_at(bucket_url), [new_id() for _ in range(5)]
    for job_id in job_ids:
        outputs.write(f"{job_id}.csv", b"x")

    names = names_of(outputs, *job_ids)
    assert 5 == outputs.remove(names)

    assert 5 == len(names)
    assert [] == names_of(outputs, *job_ids)


ALL_CALLS = {
    "write": lambda outputs: outputs.write("a.csv", b"x"),
    "read": lambda outputs: outputs.read("a.csv", max_bytes=5),
    "find": lambda outputs: outputs.find("a.csv"),
    "search": lambda outputs: outputs.search([new_id()]).go_on(seconds=0),
    "remove": lambda outputs: outputs.remove(["a.csv"]),
    "check": lambda outputs: outputs.check(),
}


@pytest.fixture(params=ALL_CALLS)
def call(request):
    return ALL_CALLS[request.param]


def test_a_missing_bucket_is_named_with_what_to_do(s3, call):
    with pytest.raises(Unavailable, match=r"no such bucket: create it, or correct OUTPUT_URL") as caught:
        call(outputs_at(s3.url_of("not-made-yet")))

    assert f"{s3.url}/not-made-yet" == caught.value.server


@pytest.fixture
def strict_url(s3, bucket_url):
    """A bucket of a server that checks keys, and knows none."""
    s3.check_keys(are_checked=True)
    yield bucket_url
    s3.check_keys(are_checked=False)


def test_wrong_keys_are_named_with_what_to_do_and_without_the_keys(strict_url, call):
    with pytest.raises(Unavailable, match=r"correct AWS_ACCESS_KEY_ID|grant the keys") as caught:
        call(outputs_at(strict_url))

    assert "an-access-key" not in str(caught.value)
    assert "an-access-key" not in caught.value.server
    assert caught.value.__suppress_context__


def test_a_server_that_is_down_is_away(free_port, call):
    port = free_port()

    with pytest.raises(Unavailable, match="does not answer") as caught:
        call(outputs_at(f"s3://k:s@bucket?endpoint=http://127.0.0.1:{port}"))

    assert f"http://127.0.0.1:{port}/bucket" == caught.value.server


@pytest.fixture
def silent():
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"s3://k:s@bucket?endpoint=http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_silent_server_is_away_when_the_time_is_over(silent, call):
    with pytest.raises(Unavailable, match=r"does not answer|has not answered within"):
        call(outputs_at(silent, seconds=0.3))


def test_a_wait_for_a_silent_server_can_be_interrupted(silent):
    """By a cancel or a time limit, long before the deadline."""
    outputs, ended = outputs_at(silent, seconds=300), threading.Event()

    def write():
        try:
            outputs.write("a.csv", b"x")
        except Cancelled:
            ended.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    eventually(lambda: outputs._threads._work_queue.empty() and outputs._threads._threads, what="a request")
    raise_thread_exception(thread.ident, Cancelled)

    assert ended.wait(60)


def test_after_a_failure_calls_are_refused_until_the_server_is_back(s3, bucket_url, monkeypatch):
    breaker = CircuitBreaker(open_seconds=600)
    outputs = outputs_at(bucket_url, breaker=breaker)
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "_store", outputs_at(s3.url_of("not-made-yet"))._store)
        with pytest.raises(Unavailable, match="no such bucket"):
            outputs.check()

    with pytest.raises(KnownUnavailable, match="no such bucket"):
        outputs.check()
    breaker.open_seconds = 0
    breaker.end_trial()
    outputs.check()
    assert not breaker.refusal()


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_file_without_a_strong_tag_is_not_offered(bucket_url, monkeypatch, etag):
    """A part of it could not be told from a part of another file."""
    outputs = outputs_at(bucket_url)
    meta = {"path": "a.csv", "size": 1, "e_tag": etag, "last_modified": datetime.now(UTC), "version": None}
    monkeypatch.setattr("obstore.head", lambda *_: meta)

    with pytest.raises(Unavailable, match="no strong ETag"):
        outputs.find("a.csv")


def test_a_store_that_is_known_to_be_away_is_not_asked(free_port):
    def ask(server):
        raise KnownUnavailable("away", server=server)

    outputs = outputs_at(f"s3://k:s@bucket?endpoint=http://127.0.0.1:{free_port()}").asking(ask)

    with pytest.raises(KnownUnavailable):
        outputs.write("a.csv", b"x")


def test_the_check_command_tries_the_bucket(s3, bucket_url):
    """Reading, writing and deleting."""
    fits = Settings.from_env({**REQUIRED, "OUTPUT_URL": bucket_url})
    preflight._try_outputs(fits)
    assert [] == s3.keys(location_of(bucket_url).bucket)
    assert [] == list(preflight._of_outputs(fits))

    misses = Settings.from_env({**REQUIRED, "OUTPUT_URL": s3.url_of("not-made-yet")})
    with pytest.raises(NotReady, match="create it, or correct OUTPUT_URL"):
        preflight._try_outputs(misses)
    [warning] = preflight._of_outputs(misses)
    assert warning.endswith("waiting for it")


def test_a_folder_that_is_none_does_not_pass_the_check(tmp_path):
    path = Path(tmp_path / "out")
    path.touch()

    with pytest.raises(Unavailable, match="OUTPUT_DIR cannot be read: Not a directory"):
        open_outputs(Settings.from_env({**REQUIRED, "OUTPUT_DIR": str(path)})).check()
