"""The commands about dead letters."""

from itertools import islice
from typing import Annotated, Any

import typer

from jobs_service.cli.session import Session, session_of

app = typer.Typer(help="Failed jobs: look at them, run them again, delete them.", no_args_is_help=True)

_LETTERS = [
    ("job_id", "JOB"),
    ("type", "TYPE"),
    ("finished_at", "FAILED"),
    ("error", "ERROR"),
]
_GROUPS = [
    ("id", "GROUP"),
    ("count", "JOBS"),
    ("type", "TYPE"),
    ("message", "ERROR"),
]

Type = Annotated[str | None, typer.Option("--type", help="Only of this job type.")]
Queue = Annotated[str | None, typer.Option(help="Only of this queue.")]
Group = Annotated[str | None, typer.Option(help="Only of this group of equal errors.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")]


@app.command("list")
def list_(
    context: typer.Context, job_type: Type = None, queue: Queue = None, group: Group = None, limit: Limit = 20
) -> None:
    """List dead letters, those that failed last first."""
    session = session_of(context)
    found = session.client.dead_letters(limit=min(limit, 100), **_conditions(job_type, queue, group))
    session.printer.rows(islice(found, limit), _LETTERS, empty="there is no dead letter that matches")


@app.command()
def groups(context: typer.Context, limit: Limit = 20) -> None:
    """List groups of dead letters whose errors differ in details only."""
    session = session_of(context)
    found = session.client.error_groups(limit=min(limit, 100))
    session.printer.rows(islice(found, limit), _GROUPS, empty="there is no dead letter")


@app.command()
def redrive(
    context: typer.Context,
    job_type: Type = None,
    queue: Queue = None,
    group: Group = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Jobs a second.")] = None,
    is_all: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
) -> None:
    """Have dead letters run again. Without `--yes` it only shows which.

    jobs dead-letters redrive --group 5f0c…

    jobs --yes dead-letters redrive --type csv-generation --rate 10
    """
    session = session_of(context)
    conditions = _conditions(job_type, queue, group)
    if not conditions and not is_all:
        raise typer.BadParameter("give a filter (--type, --queue, --group), or --all")
    if not session.is_sure:
        _preview(session, conditions)
        return
    operation = session.client.redrive(rate_per_second=rate, **conditions)
    session.printer.facts(operation, [("id", "redrive"), ("matched", "dead letters"), ("rate_per_second", "a second")])
    session.printer.note(f"redriven at {session.client.url}")


def _preview(session: Session, conditions: dict[str, Any]) -> None:
    preview = session.client.preview_redrive(**conditions)
    session.printer.rows(preview["sample"], _LETTERS, empty="no dead letter matches")
    session.printer.note(f"{preview['count']:,} dead letters would run again at {session.client.url}; --yes does it")


@app.command()
def discard(context: typer.Context, jobs: Annotated[list[str], typer.Argument(metavar="JOB...")]) -> None:
    """Delete dead letters for good."""
    session = session_of(context)
    session.confirm(f"{len(jobs):,} dead letters will be deleted at {session.client.url}")
    for job in jobs:
        session.client.discard(job)
        session.printer.say(f"deleted {job}")


def _conditions(job_type: str | None, queue: str | None, group: str | None) -> dict[str, Any]:
    wanted = {"type": job_type, "queue": queue, "group": group}
    return {name: value for name, value in wanted.items() if value is not None}
