"""The commands about jobs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs_service.cli import payloads
from jobs_service.cli.exits import Exit
from jobs_service.cli.printing import plain, visible
from jobs_service.cli.session import Session, session_of
from jobs_service.client.models import Event, Job, Status, Submitted

app = typer.Typer()

_LISTED = [
    ("status", "STATUS"),
    ("type", "TYPE"),
    ("job_id", "JOB"),
    ("created_at", "AGE"),
    ("error", "ERROR"),
]
_SHOWN = [
    ("job_id", "job"),
    ("type", "type"),
    ("status", "status"),
    ("queue", "queue"),
    ("priority", "priority"),
    ("tags", "tags"),
    ("attempts", "attempts"),
    ("max_attempts", "max attempts"),
    ("created_at", "submitted"),
    ("run_at", "runs"),
    ("started_at", "started"),
    ("finished_at", "finished"),
    ("end_reason", "end reason"),
    ("cancel_reason", "cancel reason"),
    ("cancelled_by", "cancelled by"),
    ("retry_of", "retry of"),
    ("waits_for", "waits for"),
    ("error", "error"),
    ("request_id", "request"),
    ("trace_id", "trace"),
]

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job.")]


@app.command()
def submit(
    context: typer.Context,
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="The job type; - for NDJSON with a job a line.")],
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD...", help="name=text name:=json @file.json")
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Another queue than the type's.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="9 runs first.")] = None,
    delay: Annotated[float | None, typer.Option(min=0, help="Start in so many seconds at the earliest.")] = None,
    run_at: Annotated[str | None, typer.Option(help="Start then at the earliest: 2026-11-26T09:30:00Z.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may come several times.")] = None,
    max_attempts: Annotated[int | None, typer.Option(min=1, max=100)] = None,
    timeout: Annotated[int | None, typer.Option(min=1, help="Seconds that each attempt may run.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the job has ended; exit code 1 if it failed.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Print what happens to the job until it has ended.")] = False,
) -> None:
    """Submit a job, or many.

    jobs submit csv-generation name=Alice score:=95 --wait

    jobs submit EMAIL_SEND @mail.json --delay 60

    cat jobs.ndjson | jobs submit -
    """
    session = session_of(context)
    wished = {
        "queue": queue,
        "priority": priority,
        "delay_seconds": delay,
        "run_at": run_at,
        "tags": tag,
        "max_attempts": max_attempts,
        "timeout_seconds": timeout,
    }
    options = {name: value for name, value in wished.items() if value is not None}
    if job_type == "-":
        raise typer.Exit(_submit_lines(session, options))
    if not fields and not sys.stdin.isatty():
        raise typer.BadParameter("give the payload as fields, such as name=Alice, or as @file.json")
    submitted = session.client.submit(job_type, payloads.payload_of(fields or []), **options)  # type: ignore[arg-type]
    raise typer.Exit(_after(session, submitted, wait=wait, follow=follow))


def _submit_lines(session: Session, options: dict[str, Any]) -> Exit:
    jobs = ({**job, **options} for job in payloads.lines_of(sys.stdin))
    submitted = refused = 0
    for result in session.client.submit_many(jobs):
        if result.error is None:
            submitted += 1
            session.printer.line({"job_id": result.job_id}) if not session.printer.is_for_people else None
        else:
            refused += 1
            session.printer.note(f"{visible(str(plain(result.item)))[:200]}: {result.error}")
    session.printer.say(f"{submitted:,} submitted, {refused:,} refused")
    return Exit.USAGE if refused else Exit.DONE


def _after(session: Session, submitted: Submitted, *, wait: bool, follow: bool) -> Exit:
    if follow:
        for event in session.client.stream(submitted):
            _print_event(session, event)
    if not (wait or follow):
        if session.printer.is_for_people:
            session.printer.out.print(str(submitted.job_id))
        else:
            session.printer.line(submitted)
        return Exit.DONE
    return _print_ended(session, session.client.wait(submitted))


def _print_ended(session: Session, job: Job) -> Exit:
    session.printer.facts(plain(job), [*_SHOWN, ("result", "result")])
    return Exit.DONE if job.status is Status.COMPLETED else Exit.JOB_FAILED


@app.command("list")
def list_(
    context: typer.Context,
    status: Annotated[Status | None, typer.Option(help="Only jobs with this status.")] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="Only jobs of this type.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only jobs of this queue.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    words: Annotated[str | None, typer.Option("--search", "-q", help="Words of the payload or the error.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
) -> None:
    """List jobs, newest first.

    jobs list --status failed --type csv-generation

    jobs -o ndjson list --limit 1000 | jq .job_id
    """
    session = session_of(context)
    wanted = {"status": status, "type": job_type, "queue": queue, "tag": tag, "q": words}
    filters = {name: str(value) for name, value in wanted.items() if value is not None}
    found = session.client.iter_jobs(limit=min(limit, 200), **filters)  # type: ignore[arg-type]
    session.printer.rows(_first(found, limit), _LISTED, empty="no job matches")


def _first(jobs: Iterator[Job], limit: int) -> Iterator[dict[str, Any]]:
    for _, job in zip(range(limit), jobs, strict=False):
        shown: dict[str, Any] = plain(job)
        shown["error"] = (shown["error"] or "").partition("\n")[0][:100] or None
        yield shown


@app.command()
def show(context: typer.Context, job: JobArgument) -> None:
    """Show a job. With `-o json`, everything about it."""
    session = session_of(context)
    shown = plain(session.client.get(job))
    extra = {"payload": _compact(shown["payload"]), "result": _compact(shown["result"])}
    facts = shown | extra if session.printer.is_for_people else shown
    session.printer.facts(facts, [*_SHOWN, ("payload", "payload"), ("result", "result")])


def _compact(value: object) -> str | None:
    return None if value is None else visible(str(value))[:500]


@app.command()
def logs(context: typer.Context, job: JobArgument) -> None:
    """Print the log lines of a job's attempts."""
    session = session_of(context)
    for attempt in session.client.logs(job):
        for line in attempt["lines"]:
            _print_line(session, attempt["attempt"], line)


def _print_line(session: Session, attempt: int, line: dict[str, Any]) -> None:
    if not session.printer.is_for_people:
        session.printer.line({"attempt": attempt, **line})
        return
    facts = " ".join(f"{name}={value}" for name, value in line.get("facts", {}).items())
    session.printer.say(visible(f"{line['at']} {attempt} {line['level']:<7} {line['text']} {facts}"))


@app.command()
def tail(
    context: typer.Context,
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="One job, until it has ended. Else all jobs.")
    ] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="Only jobs of this type.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only jobs of this queue.")] = None,
) -> None:
    """Print what happens, until Ctrl-C or the end of the job."""
    session = session_of(context)
    if job is not None and (job_type or queue):
        raise typer.BadParameter("a job's events have no filter: leave out --type and --queue")
    for event in session.client.stream(job, type=job_type, queue=queue):
        _print_event(session, event)


def _print_event(session: Session, event: Event) -> None:
    if not session.printer.is_for_people:
        session.printer.line({"event": event.name, "id": event.id, **event.data})
        return
    data = event.data
    if event.name == "log":
        for line in data.get("lines", []):
            _print_line(session, data.get("attempt", 0), line)
        return
    progress = data.get("progress") or {}
    more = data.get("error") or (
        f"{progress['done']} of {progress.get('total')} {progress.get('note')}" if progress else ""
    )
    session.printer.say(
        visible(f"{data.get('at', '')} {event.name:<10} {data.get('type', '')} {data.get('job_id', '')} {more}")
    )


@app.command()
def explain(context: typer.Context, job: JobArgument) -> None:
    """Say why a job is where it is, and what to do."""
    session = session_of(context)
    found = session.client.explain(job)
    if session.printer.is_for_people:
        session.printer.say("\n".join(visible(text) for text in (found["explanation"], found["what_to_do"]) if text))
    else:
        session.printer.facts(found, [])


@app.command()
def output(
    context: typer.Context,
    job: JobArgument,
    to: Annotated[Path | None, typer.Option("--to", help="A file or a folder; by default stdout.")] = None,
) -> None:
    """Write a job's file to stdout, or to a file."""
    session = session_of(context)
    if to is not None:
        session.printer.say(str(session.client.download(job, to)))
        return
    with session.client.output(job) as source:
        for piece in source:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@app.command()
def cancel(
    context: typer.Context,
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...")],
    reason: Annotated[str | None, typer.Option(help="Kept on the jobs.")] = None,
) -> None:
    """Cancel jobs that have not ended."""
    session = session_of(context)
    for job in jobs:
        session.client.cancel(job, reason=reason)
        session.printer.say(f"cancelled {job} at {session.client.url}")


@app.command()
def retry(
    context: typer.Context,
    job: JobArgument,
    fields: Annotated[list[str] | None, typer.Argument(metavar="FIELD...", help="Another payload: a new job.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the job has ended; exit code 1 if it failed.")
    ] = False,
) -> None:
    """Run a finished job again, or another one like it.

    jobs retry 0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41

    jobs retry 0197a3f2-5c1e-7d3a-9b60-2f6c1d9e8a41 name=Alice score:=96 --wait
    """
    session = session_of(context)
    changes = {"payload": payloads.payload_of(fields)} if fields else {}
    submitted = session.client.retry(job, **changes)
    session.printer.note(f"{submitted.job_id} is pending at {session.client.url}")
    raise typer.Exit(_after(session, submitted, wait=wait, follow=False))
