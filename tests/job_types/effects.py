"""A job type whose effect can be counted outside of the database: a line in a file."""

import os
import time
from pathlib import Path

import msgspec

from jobs_service.errors import Rejected
from jobs_service.jobs.job_types import JobContext, job


class Effect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the attempts do: fail so often, or be rejected; after the effect, take some seconds."""

    fail_times: int = 0
    rejected: bool = False
    seconds: float = 0


@job("test-effect", payload=Effect, time_limit_seconds=60)
def effect(payload: Effect, context: JobContext) -> int:
    """Append the job's id and the attempt's number to EFFECTS_FILE, once begin_effect allows it."""
    if payload.rejected:
        raise Rejected("as asked")
    if context.number <= payload.fail_times:
        raise RuntimeError(f"attempt {context.number} fails, as asked")
    context.begin_effect()
    with Path(os.environ["EFFECTS_FILE"]).open("a") as file:
        file.write(f"{context.job_id} {context.number}\n")
    time.sleep(payload.seconds)
    return context.number
