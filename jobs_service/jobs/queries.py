"""Jobs as peewee reads them, one or a page at a time. Nothing here writes: `lifecycle.py` alone writes jobs."""

import functools
import operator
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from peewee import (
    SQL,
    Case,
    CharField,
    DateTimeField,
    Field,
    IntegerField,
    Model,
    ModelSelect,
    SmallIntegerField,
    TextField,
    Tuple,
    UUIDField,
)

from jobs_service.database.connection import Database
from jobs_service.jobs import representation
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.lifecycle import Status

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
    history = RawJSONField()
    history_omitted = IntegerField()
    request_id = CharField(null=True)
    traceparent = CharField(null=True)

    class Meta:
        table_name = "jobs"

    def representation(self) -> representation.Job:
        """Return the job as the API shows it."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in (*_SHOWN, "history", "history_omitted")}
        times: dict[str, Any] = {name: _rfc3339(getattr(self, name)) for name in _SHOWN_TIMES}
        return representation.Job(job_id=self.id, trace_id=Origin(None, self.traceparent).trace_id, **fields, **times)


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
    "on_ambiguous",
    "end_reason",
    "waits_for",
    "request_id",
)
_SHOWN_TIMES = ("run_at", "created_at", "updated_at", "started_at", "finished_at", "expires_at", "deferred_since")
_WRITTEN = ("payload", "result")
_READ = ("id", *_SHOWN, *_SHOWN_TIMES, "history", "history_omitted", "traceparent")


def find_job(database: Database, job_id: UUID) -> Job | None:
    found: Job | None = _read(Job).where(Job.id == job_id).first(database)
    return found


def find_result(database: Database, job_id: UUID) -> Job | None:
    """Return the job with its status and its result alone."""
    result = _as_written(Job.result, Job.result_text)
    found: Job | None = Job.select(Job.status, result.alias("result")).where(Job.id == job_id).first(database)
    return found


def _read(source: Any) -> "ModelSelect[Job]":  # noqa: ANN401 - the model, or the columns of a selection of it
    """Select the columns that the API shows, payload and result as they were written."""
    written = {name: _as_written(getattr(source, name), getattr(source, f"{name}_text")) for name in _WRITTEN}
    columns = [written[name].alias(name) if name in written else getattr(source, name) for name in _READ]
    selected: ModelSelect[Job] = Job.select(*columns)
    return selected


def _as_written(value: Any, text: Any) -> Case:  # noqa: ANN401 - as above
    """Return the text where it equals the value, else the value: a later write may have changed it alone."""
    return Case(None, [(text.cast("jsonb") == value, text.cast("text"))], value.cast("text"))


#: How much of a page is read at once: a job may be as large as a request body.
_AT_ONCE = 20
_BYTES_AT_ONCE = 4 * 2**20


def newest_jobs(
    database: Database,
    *,
    status: Status | None,
    job_type: str | None,
    before: UUID | None,
    limit: int,
    hidden: Sequence[str] = (),
) -> Iterator[Job]:
    """Yield up to `limit` jobs, newest first; only those older than the job `before`, if it is given.

    Jobs of a `hidden` type are left out, unless it is `job_type`. There must be few of them. The jobs are read while
    the caller iterates: a few, then as many at a time as fit into memory if they are as large as those.
    """
    at_once = _AT_ONCE
    while limit > 0:
        count = min(limit, at_once)
        found: list[Job] = list(_newest(status, job_type, before or _LAST, count, hidden).execute(database))
        yield from found
        if len(found) < count:
            return
        before = found[-1].id
        limit -= count
        at_once = max(_AT_ONCE, count * _BYTES_AT_ONCE // sum(map(_bytes, found)))


def _bytes(job: Job) -> int:
    """Return the bytes of a job's JSON, which is nearly all of a large job."""
    return sum(memoryview(raw).nbytes for raw in (job.payload, job.result, job.history) if raw is not None)


def _newest(
    status: Status | None, job_type: str | None, before: UUID, limit: int, hidden: Sequence[str]
) -> "ModelSelect[Job]":
    if job_type is not None:
        return _newest_of_type(job_type, [status] if status else list(Status), before, limit)
    if status is not None:
        selected = _newest_of_status(status, before, limit)
    else:
        selected = _read(Job).where(Job.id < before).order_by(Job.id.desc()).limit(limit)
    return selected.where(Job.type.not_in(hidden))


#: Before and after every id.
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)

# Each of these asks for an order that only the index made for it has. Asked for `id DESC`, PostgreSQL may by its
# statistics prefer the primary key, and walk over a million newer jobs of another kind.


def _newest_of_status(status: Status, before: UUID, limit: int) -> "ModelSelect[Job]":
    place = Tuple(Job.status, Job.id)
    selected: ModelSelect[Job] = _read(Job).where(place >= Tuple(status, _FIRST), place < Tuple(status, before))
    return selected.order_by(Job.status.desc(), Job.id.desc()).limit(limit)


def _newest_of_type(job_type: str, statuses: Sequence[Status], before: UUID, limit: int) -> "ModelSelect[Job]":
    """Select the newest jobs of each status, then the newest of those."""
    of_type: ModelSelect[Job] = Job.select().where(Job.type == job_type, Job.id < before)
    pages = [
        of_type.where(Job.status == status).order_by(Job.id.desc(nulls="last")).limit(limit) for status in statuses
    ]
    newest = pages[0] if len(pages) == 1 else functools.reduce(operator.add, pages)
    newest = newest.order_by(SQL("id").desc(nulls="last")).limit(limit).alias("newest")
    # Payload and result are read here, of the selected jobs only.
    selected: ModelSelect[Job] = _read(newest.c).from_(newest).order_by(newest.c.id.desc(nulls="last"))
    return selected


def _rfc3339(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    # created_at and updated_at have no time zone and hold UTC; the others have one.
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")
