"""What resources have in common that ask PostgreSQL."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from jobs_service.api.threads import Threads
from jobs_service.database.connection import Database
from jobs_service.errors import DatabaseUnavailable

#: The codes of the problems that such a resource may answer with.
PROBLEMS = ("database_unavailable", "database_not_migrated", "too_busy")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class DatabaseResource:
    """A resource whose methods run in threads where they ask PostgreSQL."""

    def __init__(self, database: Database, threads: Threads) -> None:
        self.database = database
        self.threads = threads

    async def run(
        self, call: Callable[Parameters, Result], *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Result:
        """Return what `call` returns in a thread. While PostgreSQL is known not to answer, refuse it at once."""
        if reason := self.database.refusal():
            raise DatabaseUnavailable(reason)
        return await self.threads.run(call, *arguments, **named)
