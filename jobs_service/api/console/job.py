"""/console/jobs/{job_id}: a job, why it is in its state, and all that happened to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import falcon
import msgspec
from falcon.asgi import Request, Response

from jobs_service.api.console import grafana
from jobs_service.api.console.attempts import Attempt
from jobs_service.api.console.calls import CallRefused
from jobs_service.api.console.curl import as_curl
from jobs_service.api.console.excerpts import Excerpt, bytes_of, excerpt, pretty_json
from jobs_service.api.console.formats import parsed
from jobs_service.api.console.pages import Page, page
from jobs_service.api.console.seen_jobs import SeenJob, find_type, job_of, see
from jobs_service.api.console.timeline import NAMES, timeline
from jobs_service.jobs.lifecycle import Status
from jobs_service.jobs.notes import Line
from jobs_service.jobs.representation import Job

#: Bytes of the page that a payload or a result may take with indented lines, and as it was sent, and a command.
MOST_OF_TEXT, MOST_OF_EXACT, MOST_OF_COMMAND = 4_000, 2_000, 1_500
#: The attempts that the page shows, and the bytes of the page that their texts may take together.
MOST_ATTEMPTS, MOST_OF_TRACEBACKS = 10, 8_000
#: The last lines of an attempt's log that the page shows, and the bytes of the page that all logs may take together.
MOST_LINES, MOST_OF_LOGS = 30, 6_000
#: On the page of one attempt, for the message and for the traceback.
MOST_OF_ATTEMPT = 15_000

#: Every how many seconds the page of a job that has not ended is fetched again, whatever happens to it.
REFRESH_SECONDS = 10

#: How the sentence on top is marked, by the `reason` of an explanation.
_TONES = {
    "completed": "good",
    "dead": "bad",
    "held": "bad",
    "server_unavailable": "warn",
    "queue_paused": "warn",
    "no_worker": "warn",
    "unknown_type": "warn",
    "worker_silent": "warn",
}


@dataclass(frozen=True, slots=True)
class ShownText:
    """A JSON text on a page."""

    #: With indented lines.
    pretty: Excerpt
    #: As it was sent, where that looks different and is short enough.
    exact: str


@dataclass(frozen=True, slots=True)
class ShownAttempt:
    """An attempt on a page: as much of its texts as there is room for."""

    attempt: Attempt
    traceback: Excerpt | None
    lines: Sequence[Line]
    #: How many lines there are in its log before those.
    lines_before: int

    @property
    def has_more(self) -> bool:
        """Whether the attempt's own page has more."""
        return bool(self.lines_before or (self.traceback is None and self.attempt.traceback))


@dataclass(frozen=True, slots=True)
class Refused:
    """An action that the API has refused: the name of its form, the problem, and what was typed."""

    form: str
    problem: Mapping[str, Any]
    typed: Mapping[str, str]


class JobPage(Page):
    """What the pages about one job have in common."""

    async def see(self, req: Request, resp: Response, job_id: str) -> SeenJob | None:
        """Return what the API says about the job. None: there is no such job, and the answer says so."""
        try:
            return await see(self.api, req, job_id)
        except CallRefused as refused:
            await self.show_unknown(req, resp, job_id, refused)
            return None

    def to_job(self, req: Request, resp: Response, job_id: str, notice: str = "") -> None:
        """Send the browser to the job's page."""
        self.done(req, resp, f"/jobs/{quote(job_id, safe='')}", notice)

    async def show_unknown(self, req: Request, resp: Response, job_id: str, refused: CallRefused) -> None:
        """Answer that there is no such job, and how long jobs are kept. Raises what else the API has refused."""
        if refused.code not in {"job_not_found", "dead_letter_not_found"}:
            raise refused
        limits = (await self.api.get(req, "/job-types"))["limits"]
        resp.status = falcon.HTTP_NOT_FOUND
        values = {"job_id": job_id[:64], "kept": limits["retention_seconds"]}
        self.show(req, resp, "job_unknown.html", title="No such job", **values)

    async def show_job(self, req: Request, resp: Response, job_id: str, refused: Refused | None = None) -> None:
        """Answer with the page of the job, and with why an action was refused."""
        if (seen := await self.see(req, resp, job_id)) is None:
            return
        # The address of an action is no page that could be fetched again.
        is_live = not seen.has_ended and refused is None
        if refused is not None:
            resp.status = falcon.code_to_http_status(refused.problem["status"])
        now = datetime.now(UTC)
        self.show(
            req,
            resp,
            "job.html",
            title=f"{seen.job.type} …{str(seen.job.job_id)[-12:]}",
            live=f"/jobs/{seen.job.job_id}/events" if is_live else None,
            refresh=REFRESH_SECONDS if is_live else None,
            seen=seen,
            job=seen.job,
            tone=_TONES.get(seen.explanation["reason"], ""),
            progress=_progress(seen),
            timeline=timeline(seen.job, seen.attempts, now),
            kind_names=NAMES,
            attempts=shown_attempts(seen),
            payload=shown_text(seen.job.payload),
            result=None if seen.job.result is None else shown_text(seen.job.result),
            commands=self._commands(req, seen),
            grafana=self._grafana(seen.job),
            refused=refused,
        )

    def _grafana(self, job: Job) -> str:
        url = self.console.settings.grafana_url
        start = parsed(job.started_at or job.created_at)
        end = parsed(job.finished_at) if job.finished_at else None
        return grafana.type_dashboard(url, job.type, start=start, end=end) if url else ""

    def _commands(self, req: Request, seen: SeenJob) -> list[tuple[str, str]]:
        """Return commands of curl, each with what it does."""
        base, has_key = req.forwarded_prefix, req.context.caller.name != "anonymous"
        commands = [("Read it", as_curl("GET", f"{base}/jobs/{seen.job.job_id}", has_key=has_key))]
        if not seen.hidden:
            again = as_curl("POST", f"{base}/jobs", _submission(seen), has_key=has_key)
            if not excerpt(again, most=MOST_OF_COMMAND).is_cut:
                commands.append(("Submit another one like it", again))
        return commands


class JobItem(JobPage):
    """/console/jobs/{job_id}."""

    @page()
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        await self.show_job(req, resp, job_id)


class JobAttempts(JobPage):
    """/console/jobs/{job_id}/attempts: all attempts of a job."""

    @page()
    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        if seen := await self.see(req, resp, job_id):
            line = timeline(seen.job, seen.attempts, datetime.now(UTC))
            self.show(req, resp, "job_attempts.html", title="Attempts", seen=seen, job=seen.job, timeline=line)


class JobAttempt(JobPage):
    """/console/jobs/{job_id}/attempts/{key}: all that is kept of one attempt."""

    @page()
    async def on_get(self, req: Request, resp: Response, job_id: str, key: str) -> None:
        if (seen := await self.see(req, resp, job_id)) is None:
            return
        attempt = next((each for each in seen.attempts if str(each.key) == key), None)
        if attempt is None:
            raise falcon.HTTPNotFound(description="The job has no such attempt, or it is not kept any more.")
        self.show(
            req,
            resp,
            "job_attempt.html",
            title=f"Attempt {attempt.number}",
            live=None if seen.has_ended else f"/jobs/{seen.job.job_id}/events",
            seen=seen,
            job=seen.job,
            attempt=attempt,
            message=excerpt(attempt.message, most=MOST_OF_ATTEMPT),
            traceback=excerpt(attempt.traceback, most=MOST_OF_ATTEMPT),
            lines=attempt.log.lines if attempt.log and not seen.hidden else (),
        )


#: The parts of a job that have an address of their own.
_PARTS = ("payload", "result", "logs")


class JobText(JobPage):
    """/console/jobs/{job_id}/json/{part}: a payload, a result or a log as a file, exactly as the API has it."""

    @page()
    async def on_get(self, req: Request, resp: Response, job_id: str, part: str) -> None:
        try:
            job = job_of(await self.api.call(req, "GET", f"/jobs/{job_id}"))
        except CallRefused as refused:
            await self.show_unknown(req, resp, job_id, refused)
            return
        job_type = await find_type(self.api, req, job.type)
        if job_type is None or job_type["is_sensitive"]:
            # Its page says why it is hidden.
            self.to_job(req, resp, job_id)
            return
        resp.data = await self._text(req, job, part)
        # A file and no page: a browser would look for an icon of it.
        resp.downloadable_as = f"{job.job_id}.{part}.json"

    async def _text(self, req: Request, job: Job, part: str) -> bytes:
        match part:
            case "payload":
                return bytes(job.payload)
            case "result":
                return bytes(job.result or b"null")
            case "logs":
                return (await self.api.call(req, "GET", f"/jobs/{job.job_id}/logs")).content
        raise falcon.HTTPNotFound(description=f"A job has {', '.join(_PARTS)}.")


def shown_text(raw: msgspec.Raw) -> ShownText:
    """Return a JSON text for a page."""
    exact = bytes(raw)
    pretty = excerpt(pretty_json(exact), most=MOST_OF_TEXT)
    text = exact.decode("utf-8", "replace")
    is_short = not pretty.is_cut and text != pretty.text and bytes_of(text) <= MOST_OF_EXACT
    return ShownText(pretty, text if is_short else "")


def shown_attempts(seen: SeenJob) -> list[ShownAttempt]:
    """Return the last attempts, the newest first, with as many tracebacks and log lines as there is room for."""
    shown = []
    for_tracebacks, for_lines = MOST_OF_TRACEBACKS, MOST_OF_LOGS
    for attempt in list(reversed(seen.attempts))[:MOST_ATTEMPTS]:
        traceback = excerpt(attempt.traceback, most=for_tracebacks) if attempt.traceback else None
        if traceback and traceback.is_cut:
            traceback = None
        for_tracebacks -= bytes_of(traceback.text) if traceback else 0
        every = attempt.log.lines if attempt.log and not seen.hidden else []
        lines = _last(every, for_lines)
        for_lines -= sum(map(_bytes_of_line, lines))
        shown.append(ShownAttempt(attempt, traceback, lines, len(every) - len(lines)))
    return shown


def _last(lines: Sequence[Line], most: int) -> list[Line]:
    """Return the last lines of a log that take so many bytes together."""
    kept: list[Line] = []
    for line in reversed(lines[-MOST_LINES:]):
        most -= _bytes_of_line(line)
        if most < 0:
            break
        kept.append(line)
    return kept[::-1]


#: The bytes of the markup around a line of a log.
_MARKUP = 120


def _bytes_of_line(line: Line) -> int:
    return (
        _MARKUP + bytes_of(line.text) + sum(_MARKUP + bytes_of(f"{name}{value}") for name, value in line.facts.items())
    )


def _progress(seen: SeenJob) -> Mapping[str, Any] | None:
    """Return how far the job is, or was when it ended without a result."""
    if seen.job.progress is None or seen.job.status == Status.COMPLETED:
        return None
    found: Mapping[str, Any] = msgspec.json.decode(seen.job.progress)
    return {**found, "note": ""} if seen.hidden else found


def _submission(seen: SeenJob) -> dict[str, object]:
    """Return the body that submits such a job, without what is the type's own."""
    job, of_type = seen.job, seen.job_type or {}
    optional: dict[str, tuple[object, object]] = {
        "queue": (job.queue, of_type.get("queue")),
        "priority": (job.priority, 5),
        "max_attempts": (job.max_attempts, of_type.get("max_attempts")),
        "tags": (job.tags, []),
        "timeout_seconds": (job.timeout_seconds, None),
        "on_ambiguous": (job.on_ambiguous, "resend"),
    }
    wishes = {name: value for name, (value, usual) in optional.items() if value != usual}
    return {"type": job.type, "payload": job.payload, **wishes}
