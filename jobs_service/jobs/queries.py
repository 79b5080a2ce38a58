"""Jobs as peewee reads them, one or a page at a time. Nothing here writes: `lifecycle.py` alone writes jobs."""

from datetime import UTC, datetime
from typing import Any, overload
from uuid import UUID

import msgspec
from peewee import CharField, DateTimeField, Field, IntegerField, Model, SmallIntegerField, TextField, UUIDField

from jobs_service.database.connection import Database, Row
from jobs_service.jobs import representation
from jobs_service.jobs.correlation import Origin

#: The beginning of a statement: each queue and type in which jobs wait, as the rows of `lines`. They are found one by
#: one in the index jobs_lines, so that not every waiting row is read.
WAITING_LINES = """
WITH RECURSIVE lines (queue, type) AS (
  (SELECT queue, type FROM jobs WHERE status = 'pending' ORDER BY queue, type LIMIT 1)
  UNION ALL
  SELECT following.queue, following.type
  FROM lines CROSS JOIN LATERAL (
    SELECT queue, type FROM jobs
    WHERE status = 'pending' AND (jobs.queue, jobs.type) > (lines.queue, lines.type)
    ORDER BY queue, type LIMIT 1
  ) AS following
)"""


class RawJSONField(Field):
    """A JSONB column, read as the JSON text it is: the API passes it on without decoding it."""

    field_type = "JSONB"

    def python_value(self, value: str | None) -> msgspec.Raw | None:
        return None if value is None else msgspec.Raw(value.encode())


class TextArrayField(Field):
    """A TEXT[] column, read as a list."""

    field_type = "TEXT[]"


class Job(Model):
    """A row of `jobs`, as `seeds/` creates it. It has no database of its own: each query is given one."""

    id = UUIDField(primary_key=True)
    type = CharField()
    status = CharField()
    payload = RawJSONField()
    #: Where `payload` and `result` alone would come back in another form than they were written.
    payload_text = RawJSONField(null=True)
    result = RawJSONField(null=True)
    result_text = RawJSONField(null=True)
    error = TextField(null=True)
    attempts = IntegerField()
    max_attempts = IntegerField()
    queue = CharField()
    priority = SmallIntegerField()
    tags = TextArrayField(null=True)
    timeout_seconds = IntegerField(null=True)
    run_at = DateTimeField()
    created_at = DateTimeField()
    updated_at = DateTimeField()
    started_at = DateTimeField(null=True)
    finished_at = DateTimeField(null=True)
    expires_at = DateTimeField(null=True)
    on_ambiguous = CharField()
    waits_for = TextField(null=True)
    deferred_since = DateTimeField(null=True)
    end_reason = CharField(null=True)
    cancel_reason = TextField(null=True)
    cancelled_by = TextField(null=True)
    retry_of = UUIDField(null=True)
    history = RawJSONField()
    history_omitted = IntegerField()
    request_id = CharField(null=True)
    traceparent = CharField(null=True)

    #: A column of `attempt_notes`: what the last attempt that reports any has said.
    progress = RawJSONField(null=True)

    class Meta:
        table_name = "jobs"

    def representation(self) -> representation.Job:
        """Return the job as the API shows it."""
        fields: dict[str, Any] = {
            name: getattr(self, name) for name in (*_SHOWN, "progress", "history", "history_omitted")
        }
        times: dict[str, Any] = {name: rfc3339(getattr(self, name)) for name in _SHOWN_TIMES}
        trace_id = Origin(None, self.traceparent).trace_id
        return representation.Job(job_id=self.id, trace_id=trace_id, tags=self.tags or [], **fields, **times)


_SHOWN = (
    "type",
    "status",
    "payload",
    "result",
    "error",
    "attempts",
    "max_attempts",
    "queue",
    "priority",
    "timeout_seconds",
    "on_ambiguous",
    "end_reason",
    "cancel_reason",
    "cancelled_by",
    "retry_of",
    "waits_for",
    "request_id",
    "progress",
    "history",
    "history_omitted",
)
_SHOWN_TIMES = ("run_at", "created_at", "updated_at", "started_at", "finished_at", "expires_at", "deferred_since")
_WRITTEN = ("payload", "result")
_READ = ("id", *_SHOWN, *_SHOWN_TIMES, "tags", "traceparent")

_EXPRESSIONS = {
    # As they were written. A text counts where it equals the value; a later write may have changed that alone.
    **{
        name: f"CASE WHEN {name}_text::jsonb = {name} THEN {name}_text::text ELSE {name}::text END" for name in _WRITTEN
    },
    "progress": """(
      SELECT progress::text FROM attempt_notes WHERE job_id = jobs.id ORDER BY attempt_notes.started_at DESC LIMIT 1
    )""",
}

#: The columns that `job_of` takes, of a selection from `jobs`.
COLUMNS = ", ".join(_EXPRESSIONS.get(name, f"jobs.{name}") for name in _READ)


def job_of(columns: Row) -> Job:
    """Return the job of a row's `COLUMNS`."""
    fields = dict(zip(_READ, columns, strict=True))
    return Job(**{name: getattr(Job, name).python_value(value) for name, value in fields.items()})


def find_job(database: Database, job_id: UUID) -> Job | None:
    row = database.row(f"SELECT {COLUMNS} FROM jobs WHERE id = %s", (job_id,))
    return None if row is None else job_of(row)


def find_result(database: Database, job_id: UUID) -> Job | None:
    """Return the job with its status and its result alone."""
    row = database.row(f"SELECT status, {_EXPRESSIONS['result']} FROM jobs WHERE id = %s", (job_id,))
    return None if row is None else Job(status=row[0], result=Job.result.python_value(row[1]))


def bytes_of(job: Job) -> int:
    """Return the bytes of a job's JSON, which is nearly all of a large job."""
    return sum(memoryview(raw).nbytes for raw in (job.payload, job.result, job.history) if raw is not None)


@overload
def rfc3339(moment: datetime) -> str: ...
@overload
def rfc3339(moment: datetime | None) -> str | None: ...
def rfc3339(moment: datetime | None) -> str | None:
    """Return a date of PostgreSQL's as the API shows it: in UTC, with milliseconds. None: there is none."""
    if moment is None:
        return None
    # created_at and updated_at have no time zone and hold UTC; the others have one.
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")
