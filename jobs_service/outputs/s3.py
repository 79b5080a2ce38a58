"""Storage for the files that jobs write, in a bucket of an S3-compatible store."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from functools import partial
from typing import Any, Self, TypeVar
from uuid import UUID

import obstore
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import S3Store

from jobs_service.circuit_breaker import CircuitBreaker
from jobs_service.errors import KnownUnavailable, Rejected, SettingsError, Unavailable
from jobs_service.output_url import Location
from jobs_service.outputs.contract import Output, OutputChanged, Search, check_name
from jobs_service.outputs.media_types import media_type_of

#: Names of one answer of the store, which is the most that S3 lists at a time.
_PAGE = 1_000
#: Names that one request deletes. S3 allows 1,000; so few take less than the timeout of maintenance.
_DELETED_AT_ONCE = 250
#: Requests that may be under way in a process, those included for which nobody waits any more.
_THREADS = 32
#: The time after which a waiting thread returns to Python, where it can be interrupted.
_GLANCE_SECONDS = 0.2
#: The most that connecting may take.
_CONNECT_SECONDS = 5.0
#: Repetitions of a request whose connection was lost or that got a 5xx. Beyond these the job waits, not the request.
_RETRIES = 2

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

T = TypeVar("T")


class S3Outputs:
    """Stores each file as one object, by one request, so that it is there as a whole or not at all.

    1. A request has a deadline for all its steps and repetitions together. It runs in a thread of its own, so that a
       time limit or a cancel can interrupt the one that waits for it.
    2. What cannot be used until an operator has fixed it (wrong keys, a missing bucket) counts as away, like a server
       that does not answer: `Unavailable` with the name of the store, for which all its jobs wait.
    3. Texts of the store get into no message but for its error code, because they may quote keys.
    """

    def __init__(self, location: Location, *, timeout_seconds: float, breaker: CircuitBreaker | None = None) -> None:
        """After a failure, `breaker` refuses further calls for a while. Raises `SettingsError`."""
        self._timeout_seconds = timeout_seconds
        self._breaker = breaker or CircuitBreaker(open_seconds=0.0)
        self._store = _store(location, timeout_seconds)
        # The client reads these itself, and does not say what it found.
        endpoint = location.endpoint or next(filter(None, map(os.environ.get, _ENDPOINT_VARIABLES)), "s3:/")
        self._server = f"{endpoint}/{location.bucket}"
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="output-store")
        self._ask: Callable[[str], None] = lambda server: None  # noqa: ARG005 - the name says what it takes

    def asking(self, ask: Callable[[str], None]) -> Self:
        outputs = object.__new__(type(self))
        outputs.__dict__.update(self.__dict__, _ask=ask)
        return outputs

    def write(self, name: str, content: bytes) -> str:
        check_name(name)
        attributes = {"Content-Type": media_type_of(name)}
        try:
            # In one request: the parts of an upload in several would stay behind if this process died.
            self._call(lambda: obstore.put(self._store, name, content, attributes=attributes, use_multipart=False))
        except FileNotFoundError:
            raise self._unavailable("the output store does not take the file: it answered 404") from None
        return f"output/{name}"

    def read(self, name: str, *, max_bytes: int) -> bytes:
        check_name(name)

        def get() -> bytes:
            found = obstore.get(self._store, name)
            if (size := found.meta["size"]) > max_bytes:
                raise Rejected(f"output/{name} has {size} bytes, more than the limit of {max_bytes}")
            return bytes(found.bytes())

        try:
            return self._call(get)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"output/{name} does not exist: it is not yet written, or was deleted with its job"
            ) from None

    def find(self, name: str) -> Output | None:
        check_name(name)
        try:
            meta = self._call(lambda: obstore.head(self._store, name))
        except FileNotFoundError:
            # The answer to HEAD has no body that could say whether the bucket is missing.
            self.check()
            return None
        etag = meta["e_tag"] or ""
        if not etag.startswith('"'):
            raise self._unavailable("the output store sends no strong ETag, without which no file can be downloaded")
        return Output(name, meta["size"], etag, meta["last_modified"])

    def read_piece(self, output: Output, start: int, length: int) -> bytes:
        range_ = (start, min(start + length, output.size))

        def get() -> bytes:
            found = obstore.get(self._store, output.name, options={"range": range_, "if_match": output.etag})
            if found.meta["e_tag"] != output.etag:
                raise OutputChanged(f"output/{output.name} was replaced")
            return bytes(found.bytes())

        try:
            return self._call(get)
        except (FileNotFoundError, PreconditionError):
            raise OutputChanged(f"output/{output.name} was replaced or removed") from None

    def search(self, job_ids: Iterable[UUID]) -> Search:
        wanted = list(job_ids)
        return Search(self._names(wanted), wanted)

    def remove(self, names: Iterable[str]) -> int:
        """Remove files; return how many do not exist any more, as S3 does not say which did."""
        every = list(names)
        for start in range(0, len(every), _DELETED_AT_ONCE):
            self._call(partial(obstore.delete, self._store, every[start : start + _DELETED_AT_ONCE]))
        return len(every)

    def reap(self) -> int:
        """Return 0: an unfinished upload leaves nothing behind."""
        return 0

    def check(self) -> None:
        self._call(lambda: next(iter(obstore.list(self._store, chunk_size=1)), None))

    def _names(self, job_ids: list[UUID]) -> Iterator[str]:
        """Yield the names from the first of these jobs to the last: ids, and so names, are in the order of time."""
        if not job_ids:
            return
        first, end = str(min(job_ids)), f"{max(job_ids)}/"  # "/" is the character after "."
        pages = iter(obstore.list(self._store, offset=first, chunk_size=_PAGE))
        while page := self._call(lambda: next(pages, None)):
            names = [meta["path"] for meta in page]
            yield from (name for name in names if name < end and "/" not in name)
            if names[-1] >= end:
                return

    def _call(self, call: Callable[[], T]) -> T:
        """Return what a request returns. Raises `Unavailable`, or what the request is meant to raise."""
        self._ask(self._server)
        if reason := self._breaker.admit():
            raise KnownUnavailable(reason, server=self._server)
        try:
            answer = self._awaited(call)
        except Unavailable as error:
            self._breaker.open(str(error))
            raise
        except (FileNotFoundError, PreconditionError, OutputChanged, Rejected):
            self._breaker.close()
            raise
        except BaseException:
            self._breaker.end_trial()
            raise
        self._breaker.close()
        return answer

    def _awaited(self, call: Callable[[], T]) -> T:
        future = self._threads.submit(call)
        ends_at = time.monotonic() + self._timeout_seconds
        try:
            while not future.done():
                if (seconds := ends_at - time.monotonic()) <= 0:
                    raise self._unavailable(f"the output store has not answered within {self._timeout_seconds:g} s")
                wait([future], min(seconds, _GLANCE_SECONDS))
            return future.result()
        except (BaseError, FileNotFoundError) as error:
            if isinstance(error, PreconditionError) or _is_missing_file(error):
                raise
            raise self._verdict(error) from None  # the cause would put the store's texts into tracebacks
        finally:
            future.cancel()  # only one that has not begun

    def _verdict(self, error: Exception) -> Unavailable:
        """Return the error that says what is wrong, and what to do."""
        text = str(error)
        status, code = _found(_STATUS, text), _found(_CODE, text)
        answer = " ".join(filter(None, (status, code))) or "an error without a code"
        if advice := _advice(code, text):
            return self._unavailable(f"{advice} (it answered {answer})" if status else advice)
        if not status:
            return self._unavailable("the output store does not answer: see that it runs, and that OUTPUT_URL is right")
        # Of other refusals, only those that do not depend on the request concern every job.
        concerns_all = status >= "500" or status in _TRY_LATER
        server = self._server if concerns_all else None
        return Unavailable(f"the output store answered {answer}", server=server)

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(reason, server=self._server)


_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w{1,64})\s*</Code>")
_TRY_LATER = frozenset({"408", "429"})

_BAD_KEYS = "the output store refuses the keys: correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or OUTPUT_URL"
_BAD_REGION = "the bucket is in another region: correct region in OUTPUT_URL, or AWS_REGION"
_NO_KEYS = "there are no keys for the output store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_NO_RIGHT = "the output store denies access: grant the keys Get, Put, Delete and List on the bucket, or correct them"

#: By the store's error code.
_BY_CODE = {
    "NoSuchBucket": "the output store has no such bucket: create it, or correct OUTPUT_URL",
    "AccessDenied": _NO_RIGHT,
    "AuthorizationHeaderMalformed": _BAD_REGION,
    "IllegalLocationConstraintException": _BAD_REGION,
    "PermanentRedirect": _BAD_REGION,
    "ExpiredToken": _BAD_KEYS,
    "InvalidAccessKeyId": _BAD_KEYS,
    "InvalidToken": _BAD_KEYS,
    "SignatureDoesNotMatch": _BAD_KEYS,
    "RequestTimeTooSkewed": "the clock of this machine is wrong, so the output store refuses its requests: correct it",
}
#: By the client's text where there is no code: an answer to HEAD has none.
_BY_TEXT = {
    # Where machines at Amazon get keys, which is asked if there are none in the environment.
    "//169.254.": _NO_KEYS,
    "/latest/api/token": _NO_KEYS,
    "status code: 401": _BAD_KEYS,
    "status code: 403": _NO_RIGHT,
    "incorrectly configured region": _BAD_REGION,
}


def _advice(code: str, text: str) -> str:
    """Return what an operator should do about an error; "" if it may pass by itself."""
    return _BY_CODE.get(code) or next((advice for part, advice in _BY_TEXT.items() if part in text), "")


def _is_missing_file(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) and _found(_CODE, str(error)) != "NoSuchBucket"


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _store(location: Location, timeout_seconds: float) -> S3Store:
    try:
        return S3Store(
            location.bucket,
            prefix=location.prefix or None,
            config=_config(location),  # type: ignore[arg-type] # its keys are those of S3Config
            client_options={
                "timeout": timedelta(seconds=timeout_seconds),
                "connect_timeout": timedelta(seconds=min(timeout_seconds, _CONNECT_SECONDS)),
                # Whether it is used depends on the endpoint.
                "allow_http": True,
            },
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=timeout_seconds / 2),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=1),
                    "base": 2,
                },
            },
        )
    except (BaseError, ValueError) as error:
        kind = type(error).__name__
        raise SettingsError([f"OUTPUT_URL or an AWS_ variable is wrong: the client refuses it ({kind})"]) from None


def _config(location: Location) -> Mapping[str, Any]:
    """Return what the URL says; the client takes the rest from AWS_ variables."""
    endpoint, is_virtual = location.endpoint, location.style == "virtual"
    if is_virtual and endpoint:
        endpoint = endpoint.replace("://", f"://{location.bucket}.")
    config = {
        "endpoint": endpoint,
        # The client takes this instead of `endpoint` if a variable sets it.
        "aws_endpoint_url_s3": endpoint,
        "region": location.region,
        "access_key_id": location.access_key_id,
        "secret_access_key": location.secret_access_key,
        "virtual_hosted_style_request": is_virtual,
    }
    return {name: value for name, value in config.items() if value}
