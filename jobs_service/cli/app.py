"""The command line: options of all commands, the commands, and what an error looks like."""

import sys
from collections.abc import Sequence
from typing import Annotated

import stamina
import typer
from typer.exceptions import TyperException

from jobs_service import __version__
from jobs_service.cli import dead_letters, jobs, queues
from jobs_service.cli.exits import Exit, code_of, sentence_of
from jobs_service.cli.printing import Form, Printer
from jobs_service.cli.session import Session

#: A person looks at the command, and can call it again.
RETRY_SECONDS = 15.0

app = typer.Typer(
    name="jobs",
    help="Submit jobs, look at them, and look after them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(jobs.app)
app.add_typer(queues.app)
app.add_typer(dead_letters.app, name="dead-letters")


def _version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(envvar="JOBS_URL", help="The API; default: http://localhost:3000.")] = None,
    form: Annotated[Form, typer.Option("--output", "-o", help="How to print.")] = Form.TABLE,
    retry_seconds: Annotated[
        float, typer.Option(min=0, help="For how long a request that has no answer is sent again.")
    ] = RETRY_SECONDS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,  # noqa: ARG001
) -> None:
    """Take the options of all commands. A key is read from JOBS_KEY, never from the command line."""
    context.obj = Session(url, Printer(form), is_sure=yes, retry_seconds=retry_seconds)


def run(arguments: Sequence[str]) -> int:
    """Run a command, and return its exit code. An error of ours is a sentence on stderr, without a traceback."""
    # Tries are told where they end, not each.
    stamina.instrumentation.set_on_retry_hooks([])
    command, context = typer.main.get_command(app), None
    try:
        context = command.make_context("jobs", list(arguments))
        with context:
            command.invoke(context)
    except typer.Exit as exit_:
        return exit_.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except TyperException as error:
        # With the usage before it, as typer shows it.
        getattr(error, "show", lambda: None)()
        return Exit.USAGE
    except Exception as error:
        code = code_of(error)
        if code is None:
            raise
        url = context.obj.client.url if context and context.obj else ""
        typer.echo(f"jobs: {sentence_of(error, url)}", err=True)
        return code
    return Exit.DONE


def main() -> None:
    """Run the command of this process's arguments."""
    try:
        sys.exit(run(sys.argv[1:]))
    except BrokenPipeError:
        # Whoever read the output has enough.
        sys.stderr.close()
        sys.exit(Exit.DONE)
