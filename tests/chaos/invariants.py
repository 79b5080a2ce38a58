"""What must hold once everything is quiet, whatever happened before: each check returns what is wrong, or nothing."""

import json
import re
from collections import Counter

from eventually import eventually
from stack import CSV, TERMINAL

#: Attempts that failed and count: one that was lost with a worker may be a neighbour's fault.
_COUNTED = "(SELECT count(*) FROM jsonb_array_elements(history) e WHERE e->'counted' IS NULL)"

#: Sentence -> SQL that must find no row. docs/invariants.md has the same ones.
SQL = {
    "a lease belongs to a processing job, and to no other": "(status = 'processing') <> (lease_token IS NOT NULL)",
    "nothing is processing any more": "status = 'processing'",
    "no more attempts than allowed": "attempts > max_attempts",
    "a job that ended by itself was attempted": (
        "attempts = 0 AND (status = 'completed' OR end_reason IN ('attempts_exhausted', 'rejected'))"
    ),
    "attempts are exhausted when the reason says so": "end_reason = 'attempts_exhausted' AND attempts < max_attempts",
    "a completed job has failed at every attempt that counts but the last": (
        f"status = 'completed' AND history_omitted = 0 AND {_COUNTED} <> attempts - 1"
    ),
    "a dead letter has failed at every attempt that counts": (
        "end_reason IN ('attempts_exhausted', 'rejected', 'poison', 'ambiguous', 'unavailable')"
        f" AND history_omitted = 0 AND {_COUNTED} <> attempts"
    ),
    "the history counts up": (
        "history_omitted = 0 AND EXISTS (SELECT FROM ("
        " SELECT (e->>'attempt')::int AS attempt, count(*) FILTER (WHERE e->'counted' IS NULL)"
        " OVER (ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS counted_before"
        " FROM jsonb_array_elements(history) WITH ORDINALITY AS h (e, place)"
        " ) AS entries WHERE attempt <> counted_before + 1)"
    ),
    "every lost worker is in the history": (
        "history_omitted = 0"
        " AND worker_losses <> (SELECT count(*) FROM jsonb_array_elements(history) e WHERE e->>'error' = 'WorkerLost')"
    ),
    "poison is three lost workers": "(end_reason = 'poison') <> (worker_losses >= 3 AND status = 'failed')",
    "a result only when completed": "result IS NOT NULL AND status <> 'completed'",
}

#: job_dlq and the queues follow the rows, and may take this long.
CATCH_UP_SECONDS = 20.0

_TEMPORARY = re.compile(r"([0-9a-f-]{36})\.csv\.[0-9a-f]{16}\.tmp")


def violations(stack):
    """Return every invariant that does not hold, as sentences."""
    rows = stack.sql("SELECT id::text, type, status, attempts, history::text FROM jobs")
    return [
        *_rows_wrong(stack),
        *_lost(stack, {row[0]: row[2] for row in rows}),
        *_effects_wrong(stack.effects(), rows),
        *_dead_letters_wrong(stack, rows),
        *_files_wrong(stack, rows),
        *_leftovers_wrong(stack, rows),
        *_queues_wrong(stack),
    ]


def _rows_wrong(stack):
    for sentence, condition in SQL.items():
        if found := stack.sql(f"SELECT id::text, status, attempts, history::text FROM jobs WHERE {condition}"):
            yield f"{sentence}: {found[:3]}"


def _lost(stack, statuses):
    for job_id in stack.accepted:
        if statuses.get(job_id) not in TERMINAL:
            yield f"job {job_id} was accepted and is {statuses.get(job_id, 'not there')}"


def _effects_wrong(effects, rows):
    known = {row[0] for row in rows}
    yield from (f"an effect of {job_id}, which is no job" for job_id in effects if job_id not in known)
    for job_id, kind, status, _, history in rows:
        if kind == "test-effect":
            told = sum(1 for entry in json.loads(history) if entry.get("ambiguous"))
            if status == "completed" and not effects[job_id]:
                yield f"job {job_id} is completed and had no effect"
            if effects[job_id] > 1 + told:
                yield f"job {job_id} had its effect {effects[job_id]} times, and its history tells of {told}"


def _dead_letters_wrong(stack, rows):
    failed = Counter(row[0] for row in rows if row[2] == "failed")

    def listed():
        with stack.redis() as client:
            found = Counter(item.decode() for item in client.lrange("job_dlq", 0, -1))
        assert found == failed, f"on job_dlq and not failed: {found - failed}; failed and not on it: {failed - found}"
        return True

    yield from _in_time(listed, "job_dlq is the failed rows")


def _files_wrong(stack, rows):
    for job_id, kind, status, *_ in rows:
        path = stack.outputs / f"{job_id}.csv"
        if kind == "csv-generation":
            if status == "completed" and not path.exists():
                yield f"job {job_id} is completed and its file is not there"
            elif path.exists() and path.read_text() != CSV:
                yield f"the file of {job_id} is not whole"


def _leftovers_wrong(stack, rows):
    """Only a killed writer leaves a temporary file, and only until the pruner comes."""
    killed = {row[0] for row in rows if "WorkerLost" in row[4]}
    names = [path.name for path in stack.outputs.rglob("*") if path.is_file()]
    for name in names:
        temporary = _TEMPORARY.fullmatch(name)
        if temporary and temporary[1] not in killed:
            yield f"the temporary file {name} was left by a worker that lives"
        if not temporary and name.removesuffix(".csv") not in {row[0] for row in rows}:
            yield f"the file {name} belongs to no job"


def _queues_wrong(stack):
    def empty():
        with stack.redis() as client:
            # What was handed to a consumer that is gone expires by itself; the relay has published it again.
            lasting = [key for key in client.scan_iter("jobs:queue:*") if client.ttl(key) == -1]
            left = {key.decode(): client.zcard(key) for key in lasting}
        assert not any(left.values()), f"messages of finished jobs lie in Redis: {left}"
        return True

    yield from _in_time(empty, "Redis is empty")


def _in_time(check, what):
    try:
        eventually(check, seconds=CATCH_UP_SECONDS, what=what)
    except AssertionError as error:
        yield str(error)
