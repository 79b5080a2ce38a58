"""The peewee tables, and what is read from them. Nothing here writes: jobs are written by `lifecycle.py` alone."""

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
    DatabaseProxy,
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

from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.lifecycle import Status

#: Bound to a `Database` by `bind`, once a process.
database_proxy = DatabaseProxy()


class RawJSONField(Field):
    """A JSONB column, read as the JSON text it is: the API passes it on without decoding it."""

    field_type = "JSONB"

    def python_value(self, value: str | None) -> msgspec.Raw | None:
        return None if value is None else msgspec.Raw(value.encode())


class Job(Model):
    """A row of `jobs`, as `seeds/` makes it."""

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
        database = database_proxy
        table_name = "jobs"

    def representation(self) -> dict[str, Any]:
        """Return the job as the API shows it. Times are RFC 3339 in UTC, with milliseconds."""
        fields = {name: getattr(self, name) for name in _SHOWN}
        times = {name: _rfc3339(getattr(self, name)) for name in _SHOWN_TIMES}
        trace_id = Origin(None, self.traceparent).trace_id
        history = {"history": self.history, "history_omitted": self.history_omitted}
        return {"job_id": str(self.id), **fields, "trace_id": trace_id, **times, **history}


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


def find_job(job_id: UUID) -> Job | None:
    found: Job | None = _read(Job).where(Job.id == job_id).first()
    return found


def _read(source: Any) -> "ModelSelect[Job]":  # noqa: ANN401 - the model, or the columns of a selection of it
    """Select all that is shown of jobs, payload and result as they were written."""
    written = {name: _as_written(getattr(source, name), getattr(source, f"{name}_text")) for name in _WRITTEN}
    columns = [written[name].alias(name) if name in written else getattr(source, name) for name in _READ]
    selected: ModelSelect[Job] = Job.select(*columns)
    return selected


def _as_written(value: Any, text: Any) -> Case:  # noqa: ANN401 - as above
    """Return the text, unless it says something else than the value, which counts."""
    return Case(None, [(text.cast("jsonb") == value, text.cast("text"))], value.cast("text"))


#: A job may be as large as a body: so many of them fit into memory.
_AT_ONCE = 20
_BYTES_AT_ONCE = 4 * 2**20


def newest_jobs(
    *, status: Status | None, job_type: str | None, before: UUID | None, limit: int, hidden: Sequence[str] = ()
) -> Iterator[Job]:
    """Yield up to `limit` jobs, newest first; only those older than the job `before`, if it is given.

    Jobs of a `hidden` type are left out, unless it is the type asked for. There must be few of them. The jobs are read
    as they are taken: a few, and then at a time so many of that size as may be held.
    """
    at_once = _AT_ONCE
    while limit > 0:
        count = min(limit, at_once)
        found = list(_newest(status, job_type, before or _LAST, count, hidden))
        yield from found
        if len(found) < count:
            return
        before = found[-1].id
        limit -= count
        at_once = max(_AT_ONCE, count * _BYTES_AT_ONCE // sum(map(_bytes, found)))


def _bytes(job: Job) -> int:
    """Return what a job's JSON takes in memory, nearly all of a large one."""
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


#: Before and behind every id there is.
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)

# Each of these asks for an order that only the index made for it has. Asked for `id DESC`, PostgreSQL may by its
# statistics prefer the primary key, and walk over a million newer jobs of another kind.


def _newest_of_status(status: Status, before: UUID, limit: int) -> "ModelSelect[Job]":
    place = Tuple(Job.status, Job.id)
    selected: ModelSelect[Job] = _read(Job).where(place >= Tuple(status, _FIRST), place < Tuple(status, before))
    return selected.order_by(Job.status.desc(), Job.id.desc()).limit(limit)


def _newest_of_type(job_type: str, statuses: Sequence[Status], before: UUID, limit: int) -> "ModelSelect[Job]":
    """Select of each status the newest, and of these the newest."""
    of_type: ModelSelect[Job] = Job.select().where(Job.type == job_type, Job.id < before)
    pages = [
        of_type.where(Job.status == status).order_by(Job.id.desc(nulls="last")).limit(limit) for status in statuses
    ]
    newest = pages[0] if len(pages) == 1 else functools.reduce(operator.add, pages)
    newest = newest.order_by(SQL("id").desc(nulls="last")).limit(limit).alias("newest")
    # The texts are looked at here, when it is known which jobs are among them.
    selected: ModelSelect[Job] = _read(newest.c).from_(newest).order_by(newest.c.id.desc(nulls="last"))
    return selected


def _rfc3339(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    # The brief's two columns have no zone and hold UTC; the others come with one.
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")
