"""What the API says about one job, for the pages about it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from falcon.asgi import Request

from jobs_service.api.console.attempts import Attempt, attempts_of
from jobs_service.api.console.calls import ApiCalls, CallRefused, Reply
from jobs_service.api.resources.job_logs import JobLogs
from jobs_service.api.resources.outputs import named_files
from jobs_service.jobs.lifecycle import TERMINAL, Status
from jobs_service.jobs.notes import AttemptLog
from jobs_service.jobs.representation import Job

SENSITIVE = "hidden: this type is marked sensitive"
#: Nobody can say any more whether the type was sensitive.
UNKNOWN_TYPE = "hidden: this version does not know the type, which may be sensitive"

#: The files of a job that are looked at, the bytes of each that are shown, and the seconds that may take.
MOST_FILES, MOST_OF_FILE, FILE_SECONDS = 5, 1_024, 1.0

_TEXTS = ("text/", "application/json")


class _Document(Job, frozen=True, kw_only=True):
    """A job as JSON: msgspec decodes no union with raw JSON."""

    result: msgspec.Raw
    progress: msgspec.Raw


@dataclass(frozen=True, slots=True)
class File:
    """A file that a job wrote."""

    name: str
    #: In bytes. None: the store of files did not say it in time.
    size: int | None = None
    media_type: str = ""
    #: Its first lines, if it is a text.
    beginning: str = ""
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job, and all that the API says about it."""

    job: Job
    etag: str
    explanation: Mapping[str, Any]
    attempts: Sequence[Attempt]
    #: None: this version does not know the type.
    job_type: Mapping[str, Any] | None
    files: Sequence[File] = ()

    @property
    def hidden(self) -> str:
        """Why the payload, the result and what the code has said are not shown; "" if they are."""
        return _hidden(self.job_type)

    @property
    def has_ended(self) -> bool:
        return self.job.status in TERMINAL


async def see(api: ApiCalls, req: Request, job_id: str) -> SeenJob:
    """Return what the API says about a job. Raises `CallRefused`."""
    reply = await api.call(req, "GET", f"/jobs/{job_id}")
    job = job_of(reply)
    explanation, logs, job_type, hosts = await asyncio.gather(
        api.get(req, f"/jobs/{job.job_id}/explain"),
        _logs(api, req, job),
        find_type(api, req, job.type),
        _hosts(api, req, job),
    )
    worker = explanation["facts"].get("worker") or {}
    attempts = attempts_of(job, logs, hosts, runs_on=worker.get("host"))
    files = await _files(api, req, job, has_text=not _hidden(job_type))
    return SeenJob(job, reply.headers["etag"], explanation, attempts, job_type, files)


def job_of(reply: Reply) -> Job:
    """Return the job of an answer of the API, with its payload and its result as the texts that they are."""
    document = msgspec.json.decode(reply.content, type=_Document)
    texts = {"result": document.result, "progress": document.progress}
    return msgspec.structs.replace(document, **{name: None for name, raw in texts.items() if bytes(raw) == b"null"})


async def find_type(api: ApiCalls, req: Request, name: str) -> Mapping[str, Any] | None:
    """Return a job type as the API shows it; None: this version does not know it."""
    try:
        found: Mapping[str, Any] = await api.get(req, f"/job-types/{name}")
    except CallRefused as refused:
        # Also for a name with a slash, which has no address.
        if refused.reply.status != HTTPStatus.NOT_FOUND:
            raise
        return None
    return found


def _hidden(job_type: Mapping[str, Any] | None) -> str:
    if job_type is None:
        return UNKNOWN_TYPE
    return SENSITIVE if job_type["is_sensitive"] else ""


async def _logs(api: ApiCalls, req: Request, job: Job) -> list[AttemptLog]:
    reply = await api.call(req, "GET", f"/jobs/{job.job_id}/logs")
    return msgspec.json.decode(reply.content, type=JobLogs).attempts


async def _hosts(api: ApiCalls, req: Request, job: Job) -> Mapping[str, str]:
    """Return the hosts of workers by their ids, if the history names any. Those that have ended are not among them."""
    if bytes(job.history) == b"[]":
        return {}
    found = await api.get(req, "/workers")
    return {worker["worker_id"]: worker["host"] for worker in found["workers"]}


async def _files(api: ApiCalls, req: Request, job: Job, *, has_text: bool) -> list[File]:
    if job.status != Status.COMPLETED or job.result is None:
        return []
    names = named_files(bytes(job.result), job.job_id)[:MOST_FILES]
    return list(await asyncio.gather(*(_file(api, req, job, name, has_text=has_text) for name in names)))


async def _file(api: ApiCalls, req: Request, job: Job, name: str, *, has_text: bool) -> File:
    """Return what the first bytes of a file tell about it. The page does not wait long for a store that is slow."""
    headers = {"range": f"bytes=0-{MOST_OF_FILE - 1}"}
    call = api.call(req, "GET", f"/jobs/{job.job_id}/output", query={"name": name}, headers=headers)
    try:
        reply = await asyncio.wait_for(call, FILE_SECONDS)
    except CallRefused as refused:
        # An empty file has no first byte.
        size = 0 if refused.code == "range_not_satisfiable" else None
        return File(name, size, is_gone=refused.code == "output_gone")
    except TimeoutError:
        return File(name)
    return _of_reply(name, reply, has_text=has_text)


def _of_reply(name: str, reply: Reply, *, has_text: bool) -> File:
    size = int(reply.headers.get("content-range", "").rpartition("/")[2] or len(reply.content))
    media_type = reply.headers["content-type"].partition(";")[0]
    beginning = ""
    if has_text and media_type.startswith(_TEXTS):
        beginning = reply.content.decode("utf-8", "ignore")
        # Not half of a line, unless it is the only one.
        if size > len(reply.content) and "\n" in beginning:
            beginning = beginning[: beginning.rindex("\n") + 1]
    return File(name, size, media_type, beginning)
