"""Parses OUTPUT_URL: the bucket in which the files of jobs are stored, and how to reach it.

Outside of `outputs/`, because the settings check it before there is a store: a folder that `config` may not import.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

EXPECTED = "expected s3://bucket/prefix?endpoint=https://host:port&region=name, special characters encoded as %XX"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_ENDPOINT = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")

#: What may follow the ?, with the form of its value.
_PARAMETERS = {"endpoint": _ENDPOINT, "region": _REGION, "style": re.compile("path|virtual")}


@dataclass(frozen=True, slots=True)
class Location:
    """A place in an S3-compatible store. What is empty is taken from the usual AWS_ variables."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    #: path: https://endpoint/bucket/name, which every store understands. virtual: https://bucket.endpoint/name.
    style: str = "path"
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)


def location_of(url: str) -> Location:
    """Return what a URL says. Raises `ValueError` without quoting the URL, which may hold a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(EXPECTED) from None
    user, is_given, bucket = parts.netloc.rpartition("@")
    key, _, secret = user.partition(":")
    prefix = parts.path.strip("/")
    if parts.scheme != "s3" or not _BUCKET.fullmatch(bucket) or parts.fragment:
        raise ValueError(EXPECTED)
    if is_given and not (key and secret):
        raise ValueError("expected both keys before the @, as in s3://access-key:secret-key@bucket, or neither")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError(
            "expected a prefix of letters, digits and . _ - between slashes, as in s3://bucket/team/output"
        )
    return Location(
        bucket, prefix, access_key_id=unquote(key), secret_access_key=unquote(secret), **_parameters(parts.query)
    )


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _PARAMETERS:
            raise ValueError(f"its parameters may only be {', '.join(_PARAMETERS)}")
        if name in found or not _PARAMETERS[name].fullmatch(value):
            raise ValueError(f"its parameter {name} is wrong: {EXPECTED}&style=path")
        found[name] = value
    return found
