"""An S3 server of the tests' own: moto's, as a process on a free port."""

import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from eventually import eventually

from devstack.ports import free_port, release
from devstack.processes import Child

HOST = "127.0.0.1"
#: The server takes any keys, until it is told to check them.
KEYS = ("an-access-key", "a-secret+key/with=signs")


class S3Server:
    """`with` starts and stops it. Its buckets are lost with it."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "s3.log"
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        argv = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]
        self._child = Child(argv, log=self._log)
        eventually(self._is_up, what="an S3 server")
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        release(self.port)

    def make_bucket(self, name: str) -> None:
        self._request("PUT", f"/{name}")

    def url_of(self, bucket: str, prefix: str = "team/output") -> str:
        """Return an OUTPUT_URL."""
        key, secret = (quote(part, safe="") for part in KEYS)
        return f"s3://{key}:{secret}@{bucket}/{prefix}?endpoint={self.url}&region=us-east-1"

    def keys(self, bucket: str) -> list[str]:
        """Return the keys of all objects in a bucket."""
        text = self._request("GET", f"/{bucket}?list-type=2").decode()
        return [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]

    def check_keys(self, *, are_checked: bool) -> None:
        """Have it refuse requests whose keys it does not know, which are all."""
        self._request("POST", "/moto-api/reset-auth", b"0" if are_checked else b"inf")

    def _is_up(self) -> bool:
        if not self._child.running:
            raise RuntimeError(f"the S3 server ended:\n{self._log.read_text()}")
        with suppress(OSError):
            self._request("GET", "/moto-api/data.json")
            return True
        return False

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.url}{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.read()
