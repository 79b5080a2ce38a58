"""What an attempt's code says while it runs: how far it is, and its log lines. Kept with the attempt, within limits."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from threading import Lock
from typing import Annotated, Any
from uuid import UUID

import msgspec
import structlog
from msgspec import Meta

from jobs_service.database.connection import Database
from jobs_service.jobs import event_log

#: The log lines that are kept of an attempt, and their bytes as JSON together. Further ones are counted.
MAX_LINES = 100
MAX_LINES_BYTES = 10_240
#: The absolute value of `done` and `total` is smaller.
MOST = 1e15
#: The characters of a line's text, and of a note on the progress.
MAX_TEXT = 1_000


class Progress(msgspec.Struct, frozen=True):
    """How far an attempt is."""

    done: Annotated[int | float, Meta(description="How much is done, in the units of `total`.")]
    total: Annotated[int | float | None, Meta(description="How much there is to do; null if that is not known.")] = None
    note: Annotated[str, Meta(description="What is being done.")] = ""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A log line of a job's code."""

    at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    level: str
    text: str
    facts: Annotated[dict[str, Any], Meta(description="The further fields of the line.")] = {}


class NotesState(msgspec.Struct, frozen=True):
    """All that an attempt has said so far."""

    #: Counts the changes.
    version: int = 0
    progress: Progress | None = None
    lines: Sequence[Line] = ()
    lines_omitted: int = 0


class AttemptNotes:
    """What one attempt says. Thread-safe: a job's code may have threads of its own."""

    def __init__(self, job_id: UUID, lease: UUID, *, attempt: int, job_type: str, queue: str) -> None:
        self.job_id = job_id
        self.lease = lease
        self.attempt = attempt
        self.job_type = job_type
        self.queue = queue
        #: Called after each change, in the thread that makes it.
        self.on_change: Callable[[AttemptNotes], None] = lambda notes: None  # noqa: ARG005 - as declared
        self.state = NotesState()
        #: What has been written to PostgreSQL, or sent to the process that writes it.
        self.written = self.state
        self._bytes = 0
        self._lock = Lock()

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the attempt is. Cheap: only the last call of a second or so is told to clients."""
        shown = Progress(_number(done), None if total is None else _number(total), _text(note))
        with self._lock:
            self._change(progress=shown)
        self.on_change(self)

    def add_line(self, level: str, text: str, facts: dict[str, Any]) -> None:
        """Keep a log line, or count it if too many are kept already."""
        line = Line(_now(), level, _text(text), facts)
        raw = _encoded(line)
        with self._lock:
            if len(self.state.lines) < MAX_LINES and self._bytes + len(raw) <= MAX_LINES_BYTES:
                self._bytes += len(raw)
                kept = msgspec.json.decode(raw, type=Line)
                self._change(lines=(*self.state.lines, kept))
            else:
                self._change(lines_omitted=self.state.lines_omitted + 1)
        self.on_change(self)

    def adopt(self, state: NotesState) -> None:
        """Take over what the attempt's own process has sent."""
        self.state = state
        self.on_change(self)

    def _change(self, **fields: object) -> None:
        self.state = msgspec.structs.replace(self.state, version=self.state.version + 1, **fields)


class JobLog:
    """The logger of a job's code. Its lines are in the log, and kept with the attempt, but for those of level debug.

    A line has a constant text and facts: `log.info("Page fetched", page=3)`.
    """

    def __init__(self, keep: Callable[[str, str, dict[str, Any]], None] = lambda level, text, facts: None) -> None:  # noqa: ARG005 - as declared
        self._keep = keep
        self._log = structlog.stdlib.get_logger()

    def debug(self, text: str, /, **facts: object) -> None:
        self._log.debug(text, **facts)

    def info(self, text: str, /, **facts: object) -> None:
        self._log.info(text, **facts)
        self._keep("info", text, facts)

    def warning(self, text: str, /, **facts: object) -> None:
        self._log.warning(text, **facts)
        self._keep("warning", text, facts)

    def error(self, text: str, /, **facts: object) -> None:
        self._log.error(text, **facts)
        self._keep("error", text, facts)


# The same state again changes nothing, so a statement that is sent twice is told once.
_WRITE = """
WITH notes AS (
  SELECT * FROM unnest(
    %(job_ids)s::uuid[], %(leases)s::uuid[], %(attempts)s::integer[], %(versions)s::integer[], %(progress)s::text[],
    %(lines)s::text[], %(omitted)s::integer[]
  ) AS notes (job_id, lease, attempt, version, progress, lines, lines_omitted)
), kept AS (
  INSERT INTO attempt_notes (job_id, lease, attempt, version, progress, lines, lines_omitted)
  SELECT job_id, lease, attempt, version, progress::jsonb, lines::jsonb, lines_omitted FROM notes
  WHERE EXISTS (SELECT FROM jobs WHERE jobs.id = notes.job_id)
  ON CONFLICT (job_id, lease) DO UPDATE
  SET version = excluded.version, progress = excluded.progress, lines = excluded.lines,
      lines_omitted = excluded.lines_omitted
  WHERE attempt_notes.version < excluded.version
  RETURNING job_id, lease, attempt
), told AS (
  INSERT INTO job_events (name, type, queue, status, job_ids, attempts, details)
  SELECT name, type, queue, 'processing', ARRAY[job_id], ARRAY[attempt], details::jsonb
  FROM kept JOIN unnest(
    %(told)s::uuid[], %(names)s::text[], %(types)s::text[], %(queues)s::text[], %(details)s::text[]
  ) WITH ORDINALITY AS news (lease, name, type, queue, details, place) USING (lease)
  ORDER BY place
)
SELECT count(*)::integer FROM kept"""


def write(database: Database, changed: Sequence[tuple[AttemptNotes, NotesState]]) -> None:
    """Write these states of attempts, and their events. Safe to repeat. Raises `DatabaseUnavailable`."""
    # Locked in one order.
    ordered = sorted(changed, key=lambda item: (item[0].job_id, item[0].lease))
    news = [(notes, *told) for notes, state in ordered for told in _news(notes.written, state)]
    names = {
        "job_ids": [notes.job_id for notes, _ in ordered],
        "leases": [notes.lease for notes, _ in ordered],
        "attempts": [notes.attempt for notes, _ in ordered],
        "versions": [state.version for _, state in ordered],
        "progress": [None if state.progress is None else _json(state.progress) for _, state in ordered],
        "lines": [_json(state.lines) for _, state in ordered],
        "omitted": [state.lines_omitted for _, state in ordered],
        "told": [notes.lease for notes, _, _ in news],
        "names": [name for _, name, _ in news],
        "types": [notes.job_type for notes, _, _ in news],
        "queues": [notes.queue for notes, _, _ in news],
        "details": [details for _, _, details in news],
    }
    database.rows(_WRITE, names)
    for notes, state in ordered:
        notes.written = state


def _news(before: NotesState, now: NotesState) -> list[tuple[str, str]]:
    """Return the events between two states of an attempt: the name and the details of each."""
    news = []
    if lines := now.lines[len(before.lines) :]:
        news.append((event_log.LOG, _json({"lines": lines})))
    if now.progress != before.progress:
        news.append((event_log.PROGRESS, _json({"progress": now.progress})))
    return news


class AttemptLog(msgspec.Struct, frozen=True):
    """What an attempt has said."""

    attempt: int
    started_at: Annotated[
        str, Meta(description="When it first said something.", extra_json_schema={"format": "date-time"})
    ]
    progress: Progress | None
    lines: list[Line]
    lines_omitted: Annotated[int, Meta(description="How many further lines were not kept.")]


_READ = """
SELECT attempt, to_char(timezone('utc', started_at), 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), progress, lines, lines_omitted
FROM attempt_notes WHERE job_id = %s ORDER BY attempt_notes.started_at, lease"""


def read(database: Database, job_id: UUID) -> list[AttemptLog]:
    """Return what the attempts of a job have said, the oldest first."""
    return [
        AttemptLog(
            attempt,
            started_at,
            None if progress is None else msgspec.json.decode(progress, type=Progress),
            msgspec.json.decode(lines, type=list[Line]),
            omitted,
        )
        for attempt, started_at, progress, lines, omitted in database.rows(_READ, (job_id,))
    ]


def _encoded(line: Line) -> bytes:
    """Return a line as JSON that PostgreSQL can store, whatever its facts are; without them, if they are too long."""
    try:
        raw = msgspec.json.encode(line, enc_hook=str)
        decoded = msgspec.json.decode(raw, type=Line)
        facts = {str(name)[:64]: _storable(value) for name, value in decoded.facts.items()}
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError):
        facts = {}
    raw = msgspec.json.encode(Line(line.at, line.level, line.text, facts))
    return raw if len(raw) <= 2 * MAX_TEXT else msgspec.json.encode(Line(line.at, line.level, line.text))


def _storable(value: object) -> object:
    """Return a fact in a simple form: a number, a truth value, or a text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _text(text: object) -> str:
    """Return a text that PostgreSQL can store."""
    return str(text)[:MAX_TEXT].replace("\0", "").encode("utf-8", "replace").decode()


def _number(value: float) -> float:
    """Return a number as JSON can have it."""
    number = float(value)
    if not -MOST < number < MOST:
        raise ValueError(f"progress must be a number between {-MOST:g} and {MOST:g}")
    return int(number) if number.is_integer() else number


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
