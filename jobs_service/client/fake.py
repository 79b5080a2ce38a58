"""An API for tests: in memory, without a server, a network or another thread.

It answers what the service answers about submitting, reading, waiting, cancelling and retrying. It checks what every
submission has to have, and knows nothing of the payloads of job types.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx

from jobs_service.client.aio import AsyncClient
from jobs_service.client.client import Client
from jobs_service.client.models import Status
from jobs_service.client.operations import Options

#: Takes a payload and returns a result. What it raises fails the job.
Handler = Callable[[Any], object]

#: The least pause before a job that is waited for is looked at again.
_PAUSE_SECONDS = 0.005

_JOB = re.compile(r"/jobs/([0-9a-f-]{36})(/cancel|/retry|/output|/events)?")

_FIELDS = frozenset({"type", "payload", *Options.__annotations__})


@dataclass
class FakeApi:
    """An API whose jobs are in `jobs`, by id, as the service shows them.

    With `handlers` a job is run when it is submitted, by the one of its type, and other types are unknown. Without them
    every job is completed at once, with the result None. If not `runs`, jobs stay pending until `complete` or `fail`.
    """

    handlers: Mapping[str, Handler] | None = None
    runs: bool = True
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: The files of jobs, by id.
    outputs: dict[str, bytes] = field(default_factory=dict)
    _events: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    #: What was answered to each idempotency key.
    _answers: dict[tuple[str, str], httpx.Response] = field(default_factory=dict)

    @property
    def transport(self) -> httpx.MockTransport:
        """What a client takes as its transport."""
        return httpx.MockTransport(self._answer)

    def complete(self, job_id: object, result: object = None) -> None:
        """End a job with a result."""
        self._end(str(job_id), Status.COMPLETED, result=result, attempts=1)

    def fail(self, job_id: object, error: str) -> None:
        """End a job as a dead letter."""
        self._end(str(job_id), Status.FAILED, error=error, end_reason="rejected", attempts=1)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if found := _JOB.fullmatch(path):
            return self._about(found[1], found[2] or "", request)
        if path == "/jobs" and request.method == "GET":
            return self._list(request)
        if path == "/jobs/batch":
            return self._once(request, lambda: self._submit_many(request))
        if path == "/jobs":
            return self._once(request, lambda: self._submit_one(json.loads(request.content)))
        return _problem(404, "not_found", f"the fake API has no {request.method} {path}")

    def _once(self, request: httpx.Request, make: Callable[[], httpx.Response]) -> httpx.Response:
        """Answer a request that creates jobs: one that comes again, with its key, gets the first answer."""
        key = (request.url.path, request.headers.get("Idempotency-Key", str(uuid4())))
        first = self._answers.get(key) or self._answers.setdefault(key, make())
        return httpx.Response(first.status_code, headers=first.headers, content=first.content)

    def _submit_many(self, request: httpx.Request) -> httpx.Response:
        answers = [self._submit_one(json.loads(line)) for line in request.content.splitlines() if line]
        results = [
            {"status": 201, "job_id": answer.json()["job_id"]}
            if answer.is_success
            else {"status": answer.status_code, "problem": answer.json()}
            for answer in answers
        ]
        return httpx.Response(201 if all(answer.is_success for answer in answers) else 207, json={"results": results})

    def _submit_one(self, wanted: dict[str, Any]) -> httpx.Response:
        if problem := self._invalid(wanted):
            return problem
        job_id, now = str(uuid4()), _now()
        self.jobs[job_id] = {
            "job_id": job_id,
            "status": Status.PENDING,
            "queue": "default",
            "priority": 5,
            "tags": [],
            "attempts": 0,
            "max_attempts": 8,
            "created_at": now,
            "updated_at": now,
            "run_at": now,
            "retry_of": None,
            **{name: value for name, value in wanted.items() if name in _FIELDS and value is not None},
        }
        self._note(job_id, "submitted")
        self._run(job_id)
        return httpx.Response(201, json={"job_id": job_id, "status": Status.PENDING})

    def _invalid(self, wanted: Mapping[str, Any]) -> httpx.Response | None:
        for name in ("type", "payload"):
            if name not in wanted:
                return _invalid("", f"Object missing required field `{name}`")
        if unknown := wanted.keys() - _FIELDS:
            return _invalid("", f"Object contains unknown field `{min(unknown)}`")
        if not 0 <= wanted.get("priority", 5) <= 9:  # noqa: PLR2004 - the API's limits
            return _invalid("/priority", "expected 0 to 9")
        if self.handlers is not None and wanted["type"] not in self.handlers:
            return _invalid("/type", f"unknown job type {wanted['type']!r}; known types: {', '.join(self.handlers)}")
        return None

    def _run(self, job_id: str) -> None:
        if not self.runs:
            return
        job = self.jobs[job_id]
        try:
            result = self.handlers[job["type"]](job["payload"]) if self.handlers is not None else None
        except Exception as error:  # noqa: BLE001 - like the service
            self.fail(job_id, f"{type(error).__name__}: {error}")
        else:
            self.complete(job_id, result)

    def _about(self, job_id: str, part: str, request: httpx.Request) -> httpx.Response:
        job = self.jobs.get(job_id)
        if job is None:
            return _problem(404, "job_not_found", f"There is no job {job_id}.")
        match part:
            case "/events":
                return self._stream(job_id, request)
            case "/output":
                return self._output(job)
            case "/cancel":
                return self._cancel(job, request)
            case "/retry":
                return self._once(request, lambda: self._retry(job, request))
        self._wait(job, float(request.url.params.get("wait", 0)))
        return httpx.Response(200, json=job)

    def _wait(self, job: Mapping[str, Any], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not job["status"].is_final and time.monotonic() < until:
            time.sleep(_PAUSE_SECONDS)

    def _cancel(self, job: Mapping[str, Any], request: httpx.Request) -> httpx.Response:
        if job["status"].is_final:
            return _problem(409, "wrong_status", f"Job {job['job_id']} is {job['status']}.")
        reason = json.loads(request.content or b"{}").get("reason")
        self._end(job["job_id"], Status.CANCELLED, cancel_reason=reason)
        return _submitted(job)

    def _retry(self, job: dict[str, Any], request: httpx.Request) -> httpx.Response:
        if not job["status"].is_final:
            return _problem(409, "wrong_status", f"Job {job['job_id']} is {job['status']}.")
        if changes := json.loads(request.content or b"{}"):
            answer = self._submit_one({name: job[name] for name in ("type", "payload")} | changes)
            if answer.is_success:
                self.jobs[answer.json()["job_id"]]["retry_of"] = job["job_id"]
            return answer
        job.update(status=Status.PENDING, attempts=0, result=None, error=None, end_reason=None, finished_at=None)
        self._note(job["job_id"], "redriven")
        answer = _submitted(job)
        self._run(job["job_id"])
        return answer

    def _output(self, job: Mapping[str, Any]) -> httpx.Response:
        if not job["status"].is_final:
            return _problem(409, "not_finished", f"Job {job['job_id']} is {job['status']}.")
        if job["job_id"] not in self.outputs:
            return _problem(404, "output_not_found", f"Job {job['job_id']} has no file.")
        headers = {"Content-Disposition": f'attachment; filename="{job["job_id"]}.csv"', "Content-Type": "text/csv"}
        return httpx.Response(200, headers=headers, content=self.outputs[job["job_id"]])

    def _stream(self, job_id: str, request: httpx.Request) -> httpx.Response:
        """Answer with the events so far. A client comes back for more."""
        seen = int(request.headers.get("Last-Event-ID", 0))
        events = self._events[job_id]
        if seen == len(events) and self.jobs[job_id]["status"].is_final:
            return httpx.Response(204)
        blocks = [
            f"event: {name}\nid: {number}\ndata: {json.dumps(data)}\n\n"
            for number, (name, data) in enumerate(events, 1)
            if number > seen
        ]
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text="retry: 5\n\n" + "".join(blocks))

    def _list(self, request: httpx.Request) -> httpx.Response:
        params = dict(request.url.params)
        limit, start = int(params.pop("limit", 50)), int(params.pop("cursor", 0))
        wanted = [
            job
            for job in reversed(self.jobs.values())
            if all(value in job["tags"] if name == "tag" else job.get(name) == value for name, value in params.items())
        ]
        page, end = wanted[start : start + limit], start + limit
        return httpx.Response(200, json={"jobs": page, "next_cursor": str(end) if end < len(wanted) else None})

    def _end(self, job_id: str, status: Status, **facts: object) -> None:
        now = _now()
        self.jobs[job_id].update(status=status, finished_at=now, updated_at=now, **facts)
        self._note(job_id, str(status))

    def _note(self, job_id: str, event: str) -> None:
        job = self.jobs[job_id]
        shown = {name: job[name] for name in ("job_id", "type", "queue", "status")}
        self._events.setdefault(job_id, []).append((event, shown))


def fake(api: FakeApi | None = None) -> Client:
    """Return a client of an API in memory: a new one, in which every job is completed at once, or the given one."""
    return Client("http://fake", transport=(api or FakeApi()).transport)


def fake_async(api: FakeApi | None = None) -> AsyncClient:
    """Return an asynchronous one."""
    return AsyncClient("http://fake", transport=(api or FakeApi()).transport)


def _submitted(job: Mapping[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"job_id": job["job_id"], "status": job["status"]})


def _invalid(pointer: str, detail: str) -> httpx.Response:
    error = {"pointer": pointer, "detail": detail}
    return _problem(422, "invalid_request", f"{pointer}: {detail}" if pointer else detail, errors=[error])


def _problem(status: int, code: str, detail: str, **more: object) -> httpx.Response:
    return httpx.Response(status, json={"status": status, "code": code, "detail": detail, **more})


def _now() -> str:
    return datetime.now(UTC).isoformat()
