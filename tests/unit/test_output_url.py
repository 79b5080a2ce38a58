"""OUTPUT_URL: where files are stored, without a word of its keys in any message."""

import pytest

from jobs_service.config import Settings
from jobs_service.errors import SettingsError
from jobs_service.output_url import Location, location_of
from jobs_service.outputs.assembly import open_outputs
from jobs_service.outputs.local import LocalOutputs
from jobs_service.outputs.media_types import media_type_of

REQUIRED = {"DATABASE_URL": "postgresql://x@localhost/x", "REDIS_URL": "redis://localhost"}


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket", Location("bucket")),
        ("s3://bucket/", Location("bucket")),
        ("s3://my.bucket-1/team_a/output/", Location("my.bucket-1", "team_a/output")),
        (
            "s3://bucket/a?endpoint=http://minio:9000&region=eu-central-1&style=virtual",
            Location("bucket", "a", "http://minio:9000", "eu-central-1", "virtual"),
        ),
        ("s3://bucket?endpoint=https%3A%2F%2F%5B::1%5D:9000", Location("bucket", endpoint="https://[::1]:9000")),
        ("s3://key:se%2Fcr%40et%3D@bucket", Location("bucket", access_key_id="key", secret_access_key="se/cr@et=")),
    ],
)
def test_a_url_says_where_and_how(url, location):
    assert location == location_of(url)
    assert url == Settings.from_env({**REQUIRED, "OUTPUT_URL": url}).output_url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://kittiwake@s3.amazonaws.com/bucket", "expected s3://bucket/prefix"),
        ("s3://", "expected s3://bucket/prefix"),
        ("s3://Bucket", "expected s3://bucket/prefix"),
        ("s3://b", "expected s3://bucket/prefix"),
        ("s3://bucket:9000", "expected s3://bucket/prefix"),
        ("s3://[bucket", "expected s3://bucket/prefix"),
        ("s3://bucket#kittiwake", "expected s3://bucket/prefix"),
        ("s3://kittiwake/x:kittiwake@bucket", "expected a prefix"),
        ("s3://kittiwake@bucket", "expected both keys"),
        ("s3://:kittiwake@bucket", "expected both keys"),
        ("s3://bucket/../etc", "expected a prefix"),
        ("s3://bucket/a//b", "expected a prefix"),
        ("s3://bucket/a%20b", "expected a prefix"),
        ("s3://bucket?secret=kittiwake", "its parameters may only be endpoint, region, style"),
        ("s3://bucket?endpoint=minio:9000", "its parameter endpoint is wrong"),
        ("s3://bucket?endpoint=http://kittiwake@minio", "its parameter endpoint is wrong"),
        ("s3://bucket?region=", "its parameter region is wrong"),
        ("s3://bucket?style=host", "its parameter style is wrong"),
        ("s3://bucket?region=a&region=b", "its parameter region is wrong"),
    ],
)
def test_a_wrong_url_is_refused_by_name_without_its_keys(url, words):
    with pytest.raises(SettingsError, match="OUTPUT_URL is wrong") as caught:
        Settings.from_env({**REQUIRED, "OUTPUT_URL": url})

    assert words in str(caught.value)
    assert "kittiwake" not in str(caught.value)


def test_keys_stay_out_of_repr():
    url = "s3://kittiwake:kittiwake@bucket"

    assert "kittiwake" not in repr(Settings.from_env({**REQUIRED, "OUTPUT_URL": url}))
    assert "kittiwake" not in repr(location_of(url))


def test_a_request_to_the_store_must_be_shorter_than_a_job_only_where_there_is_one():
    variables = {**REQUIRED, "OUTPUT_TIMEOUT_SECONDS": "90"}
    Settings.from_env(variables)

    with pytest.raises(SettingsError, match=r"OUTPUT_TIMEOUT_SECONDS \(90\) must be less than TIME_LIMIT_SECONDS"):
        Settings.from_env({**variables, "OUTPUT_URL": "s3://bucket"})


def test_without_a_url_files_are_in_the_folder(tmp_path):
    assert isinstance(open_outputs(Settings.from_env({**REQUIRED, "OUTPUT_DIR": str(tmp_path)})), LocalOutputs)


@pytest.mark.parametrize("name", ["bucket", "key:secret@bucket"])
@pytest.mark.parametrize("parameters", ["", "?endpoint=http://127.0.0.1:9&style=virtual"])
def test_a_store_is_opened_without_a_connection(name, parameters):
    opened = open_outputs(Settings.from_env({**REQUIRED, "OUTPUT_URL": f"s3://{name}/prefix{parameters}"}))

    assert "secret" not in opened._server
    assert opened._server.endswith("bucket")


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.csv", "text/csv; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.pdf", "application/pdf"),
        ("a.json", "application/json"),
        ("a.csv.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
    ],
)
def test_the_name_of_a_file_says_its_media_type(name, media_type):
    assert media_type == media_type_of(name)
