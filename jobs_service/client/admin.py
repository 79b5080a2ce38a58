"""What an operator does: queues, workers, dead letters. The answers are the API's JSON, which docs/api.md describes."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from jobs_service.client import operations
from jobs_service.client.client import Client
from jobs_service.client.operations import JobId

Json = dict[str, Any]


class Admin(Client):
    """A client with the operations of an operator. They need the scopes that docs/security.md names."""

    def explain(self, job: JobId) -> Json:
        """Return why a job is where it is."""
        return self._json(f"/jobs/{operations.id_of(job)}/explain")

    def logs(self, job: JobId) -> list[Json]:
        """Return the log lines and the progress of each attempt of a job."""
        attempts: list[Json] = self._json(f"/jobs/{operations.id_of(job)}/logs")["attempts"]
        return attempts

    def job_types(self) -> list[Json]:
        """Return the job types, with the JSON Schemas of their payloads."""
        types: list[Json] = self._json("/job-types")["job_types"]
        return types

    def queues(self) -> list[Json]:
        """Return all queues: what waits in them, who serves them, and whether they are paused."""
        queues: list[Json] = self._json("/queues")["queues"]
        return queues

    def pause(self, queue: str, reason: str) -> Json:
        """Pause a queue: none of its jobs starts until it is resumed."""
        return self._posted(f"/queues/{quote(queue, safe='')}/pause", {"reason": reason})

    def resume(self, queue: str) -> Json:
        """Resume a queue."""
        return self._posted(f"/queues/{quote(queue, safe='')}/resume")

    def workers(self) -> list[Json]:
        """Return the worker processes, and what each runs."""
        workers: list[Json] = self._json("/workers")["workers"]
        return workers

    def stats(self) -> Json:
        """Return counts, rates and latencies, and the last hour by minute."""
        return self._json("/stats")

    def dead_letters(self, *, limit: int = 100, **filters: object) -> Iterator[Json]:
        """Iterate over the dead letters that match, those that failed last first."""
        return self._pages("/dead-letters", "dead_letters", limit, filters)

    def error_groups(self, *, limit: int = 100, **filters: object) -> Iterator[Json]:
        """Iterate over groups of dead letters whose errors differ in details only."""
        return self._pages("/dead-letters/groups", "groups", limit, filters)

    def preview_redrive(self, **conditions: object) -> Json:
        """Return how many dead letters a redrive of these conditions would move, and some of them."""
        preview: Json = self._do(operations.redrive(conditions, None, dry_run=True))
        return preview

    def redrive(self, *, rate_per_second: float | None = None, **conditions: object) -> Json:
        """Have many dead letters run again. Without a condition it is all of them. Returns the operation."""
        operation: Json = self._do(operations.redrive(conditions, rate_per_second, dry_run=False))
        return operation

    def get_redrive(self, redrive_id: object) -> Json:
        """Return how far a redrive is."""
        return self._json(f"/dead-letters/redrives/{redrive_id}")

    def stop_redrive(self, redrive_id: object) -> Json:
        """Stop a redrive. Jobs that were moved stay moved."""
        return self._posted(f"/dead-letters/redrives/{redrive_id}/cancel")

    def discard(self, job: JobId) -> None:
        """Delete a dead letter."""
        self._do(operations.delete(f"/dead-letters/{operations.id_of(job)}"))

    def _json(self, path: str) -> Json:
        found: Json = self._do(operations.read(path))
        return found

    def _posted(self, path: str, body: object = None) -> Json:
        answered: Json = self._do(operations.act(path, body))
        return answered

    def _pages(self, path: str, name: str, limit: int, filters: dict[str, object]) -> Iterator[Json]:
        cursor = None
        while True:
            page = self._do(operations.read(path, **filters, limit=limit, cursor=cursor))
            yield from page[name]
            cursor = page["next_cursor"]
            if cursor is None:
                return
