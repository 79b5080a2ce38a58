"""The commands about queues and workers."""

from typing import Annotated, Any

import typer

from jobs_service.cli.printing import duration
from jobs_service.cli.session import session_of

app = typer.Typer()

_QUEUES = [
    ("name", "QUEUE"),
    ("due", "DUE"),
    ("waiting", "LATER"),
    ("processing", "RUNNING"),
    ("failed", "FAILED"),
    ("oldest", "OLDEST"),
    ("rate", "DONE/MIN"),
    ("live_workers", "WORKERS"),
    ("state", "STATE"),
]
_WORKERS = [
    ("host", "HOST"),
    ("pid", "PID"),
    ("state", "STATE"),
    ("busy", "BUSY"),
    ("threads", "THREADS"),
    ("queues", "QUEUES"),
    ("last_heartbeat_at", "HEARTBEAT"),
]

QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE")]


@app.command()
def queues(context: typer.Context) -> None:
    """List the queues: what waits in them, how fast they are, who serves them."""
    session = session_of(context)
    found = session.client.queues()
    session.printer.rows(
        [_row(queue) for queue in found] if session.printer.is_for_people else found, _QUEUES, empty="there is no queue"
    )


def _row(queue: dict[str, Any]) -> dict[str, Any]:
    depth, oldest, paused = queue["depth"], queue["oldest_waiting_seconds"], queue["paused"]
    return {
        **queue,
        **depth,
        "waiting": depth["scheduled"] + depth["retrying"] + depth["deferred"],
        "oldest": None if oldest is None else duration(oldest),
        "rate": queue["completed_per_minute"],
        "state": f"paused by {paused['by']}: {paused['reason']}" if paused else "runs",
    }


@app.command()
def pause(
    context: typer.Context,
    queue: QueueArgument,
    reason: Annotated[str, typer.Option(prompt=True, help="Why: others will read it.")],
) -> None:
    """Pause a queue: its jobs wait until it is resumed. Attempts that run go on.

    jobs pause default --reason "the mail server moves"
    """
    session = session_of(context)
    session.client.pause(queue, reason)
    session.printer.say(f"{queue} is paused at {session.client.url}")


@app.command()
def resume(context: typer.Context, queue: QueueArgument) -> None:
    """Resume a queue."""
    session = session_of(context)
    session.client.resume(queue)
    session.printer.say(f"{queue} runs at {session.client.url}")


@app.command()
def workers(context: typer.Context) -> None:
    """List the worker processes."""
    session = session_of(context)
    found = [{**worker, "state": "live" if worker["is_live"] else "lost"} for worker in session.client.workers()]
    session.printer.rows(found, _WORKERS, empty="no worker is known: start one")
