"""What all commands of one call have in common: the API, and how to print."""

import sys
from dataclasses import dataclass
from functools import cached_property

import typer

from jobs_service.cli.printing import Printer
from jobs_service.client.admin import Admin


@dataclass
class Session:
    """The API that the options name, and the printer."""

    url: str | None
    printer: Printer
    #: Whether questions are answered with yes.
    is_sure: bool
    retry_seconds: float

    @cached_property
    def client(self) -> Admin:
        """The client. It connects with its first request."""
        return Admin(self.url, budget_seconds=self.retry_seconds)

    def confirm(self, what: str) -> None:
        """Ask before something is done to many. Raises `typer.BadParameter` where nobody can answer."""
        if self.is_sure:
            return
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"{what}: pass --yes to do it")
        if not typer.confirm(f"{what}. Go on?", err=True):
            raise typer.Abort


def session_of(context: typer.Context) -> Session:
    """Return the session of a command."""
    session: Session = context.find_root().obj
    return session
